"""libvirt in namespaces of its own: no systemd, no D-Bus, and nothing of this machine's libvirt is touched."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import processes
from testbed.fabric import Fabric, NodeNetwork
from testbed.processes import TestbedError

_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
remember_owner = 0
stdio_handler = "file"
"""
_LIBVIRTD_CONF = 'unix_sock_dir = "/run/libvirt"\nauth_unix_rw = "none"\n'
# The first process sleeps, so that libvirtd can be killed and started again while its machines run on.
_BOOT = """set -e
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/libvirt /etc/libvirt
mount --bind "$LIBVIRT/run" /run/libvirt
mount --bind "$LIBVIRT/etc" /etc/libvirt
for place in lib cache log; do
  mkdir -p /var/$place/libvirt
  mount --bind "$LIBVIRT/$place" /var/$place/libvirt
done
touch "$LIBVIRT/ready"
exec tini -s -- sleep infinity
"""
# The root too: entering a mount namespace alone leads to the root of that, not to ours if we are in a chroot.
_INSIDE = ("--mount", "--root", "--wd=/", "--pid", "--net")


class Libvirt:
    """One libvirtd with its machines; closing it ends them all.

    On a fabric it lives in the network of that, or in that of one of its `node`s, and ends with it even if this program
    is killed.
    """

    def __init__(self, fabric: Fabric | None = None, node: NodeNetwork | None = None) -> None:
        """Start it. Raises TestbedError."""
        self.folder = Path(
            tempfile.mkdtemp(prefix="fallow-libvirt-", dir=fabric.folder if fabric is not None else None)
        )
        self.uri = f"qemu:///system?socket={self.folder}/run/libvirt-sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        for name in ("run", "lib", "cache", "log", "lib/dnsmasq"):  # the last is where networks note who is on them
            (self.folder / name).mkdir()
        shutil.copytree("/etc/libvirt", self.folder / "etc", symlinks=True)
        (self.folder / "etc/qemu.conf").write_text(_QEMU_CONF)
        (self.folder / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF)
        place = node.path if node is not None else f"/run/netns/{fabric.namespace}" if fabric is not None else ""
        enter = ["nsenter", f"--net={place}"] if place else []
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._argv, self._fabric = [*enter, *apart, "sh", "-c", _BOOT], fabric
        self._machine = self._boot()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _boot(self) -> "subprocess.Popen[bytes]":
        machine = processes.start(self._argv, self.folder / "boot.log", {"LIBVIRT": str(self.folder)})
        if self._fabric is not None:
            self._fabric.remember(machine)
        return machine

    def _begin(self) -> None:
        processes.wait_until((self.folder / "ready").exists, 10, "namespaces of libvirt")
        self.start()

    def reboot(self) -> None:
        """End libvirtd and every machine at once, and start it with what a disk still has. Raises TestbedError."""
        self._end()
        (self.folder / "ready").unlink()
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()
        self._machine = self._boot()
        self._begin()

    def start(self) -> None:
        """Start libvirtd, which takes over the machines that run. Raises TestbedError."""
        (self.folder / "run/libvirt-sock").unlink(missing_ok=True)
        inner = processes.children(self._machine.pid)[0]
        argv = ["nsenter", f"--target={inner}", *_INSIDE, "libvirtd"]
        self._daemon = processes.start(argv, self.folder / "libvirtd.log")
        processes.wait_until(self._answers, 20, "libvirtd")

    def kill(self) -> None:
        """Kill libvirtd; its machines run on."""
        assert self._daemon is not None
        for pid in processes.children(self._daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._daemon.wait(10)

    def virsh(self, *words: str) -> str:
        """Run one command of virsh. Raises TestbedError."""
        return processes.run("virsh", "-q", "-c", self.uri, *words)

    def _answers(self) -> bool:
        done = subprocess.run(["virsh", "-c", self.uri, "version"], capture_output=True, check=False, timeout=20)
        return done.returncode == 0

    def close(self) -> None:
        """End everything, and leave nothing behind."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        self._machine.kill()
        self._machine.wait(10)
        if self._daemon is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_group(name: str, seconds: float = 10) -> None:
    """Remove a control group with all in it from every hierarchy, as soon as its processes have ended."""
    deadline = time.monotonic() + seconds
    while True:
        left = [path for path in Path("/sys/fs/cgroup").glob(f"*/{name}") if path.is_dir()]
        left += [path for path in (Path("/sys/fs/cgroup") / name,) if path.is_dir()]
        for path in left:
            for inner in sorted(path.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    inner.rmdir()
        if not any(path.exists() for path in left):
            return
        if time.monotonic() > deadline:
            raise TestbedError(f"control group {name} is still in use: {left}")
        time.sleep(0.05)
