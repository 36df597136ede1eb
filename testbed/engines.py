"""Container engines in namespaces of their own: each is a machine with a power switch."""

import json
import os
import resource
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from testbed import parts, processes
from testbed.fabric import Fabric, NodeNetwork
from testbed.processes import InsideProcess, TestbedError

# `--root`, since entering a mount namespace would otherwise leave a root that was changed (chroot) for the real one.
_INSIDE = ("--mount", "--pid", "--ipc", "--uts", "--net", "--root")

# What a machine does before its engine starts. /run is private, so that nothing of it survives a power cut.
_BOOT = """set -e
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/netns /run/lock /run/podman "$(dirname "$(readlink -m /etc/resolv.conf)")"
touch /etc/resolv.conf
mount --bind "$NODE_FOLDER/resolv.conf" /etc/resolv.conf
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
if [ -d /var/lib/cni ]; then mount -t tmpfs cni /var/lib/cni; fi
if [ -n "$WITHOUT_DPKG" ] && [ -x /usr/bin/dpkg-query ]; then mount --bind /bin/false /usr/bin/dpkg-query; fi
hostname "$NODE_NAME"
rm -f "$ENGINE_SOCKET"
ln -s "$ENGINE_SOCKET" "$SOCKET_INSIDE"
exec tini -s -g -- "$@"
"""


# Under a changed root (chroot), entering a mount namespace leads to the real root instead: commands run inside a
# container would land there. So the node's root is first made the root of its namespace, as a real machine's is.
_OWN_ROOT = """set -e
real() { nsenter --mount=/proc/self/ns/mnt "$@"; }
if [ "$(stat -c %d:%i /)" = "$(real stat -c %d:%i /)" ]; then exec "$@"; fi
exec nsenter --mount=/proc/self/ns/mnt --wd=/ sh -c 'mount --move . / && exec chroot . "$@"' sh "$@"
"""


class EngineNode:
    """A machine of its own: network, processes, mounts, hostname and /run. Images outlive a power cut."""

    kind: ClassVar[str]
    socket_inside: ClassVar[str]  # where this engine's users find it
    start_seconds: ClassVar[float] = 20.0
    # Whenever Podman is asked what it is it asks dpkg for the package of each of its programs, for most of a second.
    with_dpkg: ClassVar[bool] = True

    def __init__(self, fabric: Fabric, name: str, *, insecure_registries: Sequence[str] = ()) -> None:
        """Prepare the node, off. `insecure_registries` are hosts, with port, that are spoken to without TLS."""
        self.fabric = fabric
        self.name = name
        self.insecure_registries = tuple(insecure_registries)
        self.folder = fabric.folder / name
        self.folder.mkdir()
        self.log = self.folder / "engine.log"
        self.socket = self.folder / "engine.sock"
        self.network: NodeNetwork = fabric.node(name)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return the node's address on the fabric; published ports answer there."""
        return self.network.address

    @property
    def url(self) -> str:
        """Return where the engine's API is reached from anywhere on this machine; it outlives power cuts."""
        return f"unix://{self.socket}"

    @property
    def running(self) -> bool:
        """Say whether the power is on."""
        return self._process is not None and self._process.poll() is None

    @property
    def init_pid(self) -> int:
        """Return the id, as this machine sees it, of the node's first process. Raises TestbedError when it is off."""
        if self._process is None or not (inside := processes.children(self._process.pid)):
            raise TestbedError(f"node {self.name} is off")
        return inside[0]

    def power_on(self, *, wait: bool = True) -> None:
        """Boot; returns when the engine answers, or at once unless `wait` (then call `wait_ready`)."""
        if self.running:
            return
        self.network = self.fabric.node(self.name)
        self.socket.unlink(missing_ok=True)
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
        machine = ["nsenter", f"--net={self.network.path}", "unshare", *namespaces]
        # Nobody answers there: names cannot be looked up, and that is known at once instead of after a timeout.
        (self.folder / "resolv.conf").write_text(f"nameserver {self.fabric.host_address}\n")
        place = {
            "NODE_NAME": self.name,
            "NODE_FOLDER": str(self.folder),
            "ENGINE_SOCKET": str(self.socket),
            "SOCKET_INSIDE": self.socket_inside,
            "WITHOUT_DPKG": "" if self.with_dpkg else "yes",
        }
        argv = [*machine, "sh", "-c", _OWN_ROOT, "sh", "sh", "-c", _BOOT, "sh", *self._engine_command()]
        self._process = processes.start(argv, self.log, {**self._engine_environment(), **place})
        self.fabric.remember(self._process)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the engine answers. Raises TestbedError with the end of its log when it does not."""
        try:
            processes.wait_until(lambda: not self.running or _answers(self.socket), self.start_seconds, "engine API")
            if not self.running:
                raise TestbedError("the engine ended")
        except TestbedError as error:
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
            raise TestbedError(f"node {self.name}: {error}\n" + "\n".join(lines)) from None

    def power_cut(self) -> None:
        """Pull the plug: every process inside vanishes at once, and what was in memory with them."""
        if self._process is not None:
            self._process.kill()  # and `unshare --kill-child` its child, whose namespaces die with it
            self._process.wait(10)
            self._process = None

    def reboot(self) -> None:
        """Cut the power and boot again; containers are then ended, images still there."""
        self.power_cut()
        self.power_on()

    def run_inside(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> InsideProcess:
        """Start a command on the node; it sees this machine's files, but the node's network, processes and /run.

        It dies with the power. `env` adds to this process's environment.
        """
        with log.open("ab") as output:
            process = InsideProcess(
                ["nsenter", f"--target={self.init_pid}", *_INSIDE, f"--wd={self.folder}", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.fabric.remember(process)
        return process

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a short command on the node and return its standard output."""
        return processes.run("nsenter", f"--target={self.init_pid}", *_INSIDE, *argv, check=check)

    def _engine_command(self) -> list[str]:
        raise NotImplementedError

    def _engine_environment(self) -> dict[str, str]:
        return {}


class PodmanNode(EngineNode):
    """A node with Podman (4.0 or newer, with netavark)."""

    kind = "podman"
    socket_inside = "/run/podman/podman.sock"

    def _engine_command(self) -> list[str]:
        self._configure()
        folders = {"root": self.folder / "root", "runroot": "/run/containers", "tmpdir": "/run/libpod"}
        options = [f"--{name}={path}" for name, path in folders.items()]
        options += [f"--network-config-dir={self.folder / 'networks'}", "--storage-driver=overlay"]
        return ["podman", *options, "system", "service", "--time=0", self.url]

    def _engine_environment(self) -> dict[str, str]:
        return {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
        }

    def _configure(self) -> None:
        files = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        # What `init: true` runs, and Podman's own choice, catatonit, is another package. Versions differ in the table.
        init = parts.program("tini-static")
        (self.folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\nlog_driver = "k8s-file"\n'
            f'init_path = "{init}"\n[engine]\ninit_path = "{init}"\n'
            f'runtime = "{parts.runtime()}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'lock_type = "file"\n[network]\nnetwork_backend = "netavark"\n'
            f'default_subnet = "10.{100 + self.fabric.number % 100}.{self.network.number}.0/24"\n'
        )
        hosts = "".join(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in self.insecure_registries)
        (self.folder / "registries.conf").write_text("unqualified-search-registries = []\n" + hosts)


class DockerNode(EngineNode):
    """A node with Docker."""

    kind = "docker"
    socket_inside = "/run/docker.sock"

    def _engine_command(self) -> list[str]:
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "daemon.json").write_text(json.dumps({"insecure-registries": list(self.insecure_registries)}))
        options = {
            "config-file": self.folder / "daemon.json",
            "data-root": self.folder / "data",
            "exec-root": "/run/docker",
            "pidfile": self.folder / "pid",
            "host": self.url,
            "group": "root",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "cgroup-parent": f"/{self.fabric.folder.name}",
            "storage-driver": "overlay2",
            "bip": f"10.{100 + self.fabric.number % 100}.{self.network.number}.1/24",
        }
        return ["dockerd", *(f"--{name}={value}" for name, value in options.items())]


def engine_node(fabric: Fabric, name: str, *, insecure_registries: Sequence[str] = ()) -> EngineNode:
    """Return a node with whichever engine this machine has, Podman for choice. Raises TestbedError when it has none."""
    kinds: tuple[type[EngineNode], ...] = (PodmanNode, DockerNode)
    for kind in kinds:
        if parts.missing(kind.kind) is None:
            return kind(fabric, name, insecure_registries=insecure_registries)
    raise TestbedError(" and ".join(parts.missing(kind.kind) or "" for kind in kinds))


def _answers(path: Path) -> bool:
    """Say whether an engine answers GET /_ping on the socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False
