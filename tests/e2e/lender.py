"""A server that lends: a control group of this machine with a share of it, and a primary application that obeys."""

import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from whole_cluster import Whole, web

from fallow.client.api import Client
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.deployments import ReplicaView
from fallow.model.members import MemberChange, Scheduling
from fallow.model.server_pools import LendingChange, ServerPoolChange, VmPlanChange
from fallow.model.servers import ServerView
from fallow.model.vms import LENT_GROUP, VmState, VmView
from testbed import cgroups, images, parts, processes
from testbed.cluster import FALLOW, tail
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import InsideProcess, TestbedError
from testbed.registry import Registry

CPUS = 2.0  # of the server; its primary never uses more than one
MEMORY_BYTES = 4 * 2**30
SERVER, VM, OTHER = "srv1", "srv1-vm", "node1"
# Idle until it is told: by SIGUSR1 to use a processor, by SIGUSR2 to rest.
OBEYS = """
import signal, time
busy = False
def turn(number, _):
    global busy
    busy = number == signal.SIGUSR1
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, turn)
while True:
    if not busy:
        time.sleep(0.05)
"""
HOLDS = "kept = bytearray({size})\nkept[::4096] = b'x' * len(kept[::4096])\nimport signal\nsignal.pause()"


class Lender:
    """The server: `group` is all of it, `primary` what it is for, `lent` what it lends."""

    def __init__(self, cluster: Whole, group: str, *, cpus: float = CPUS, memory_bytes: int = MEMORY_BYTES) -> None:
        self.cluster, self.group = cluster, group
        self.primary, self.agent, self.lent = f"{group}/primary", f"{group}/agent", f"{group}/{LENT_GROUP}"
        self._groups = Groups()
        self._primaries: list[subprocess.Popen[bytes]] = []
        self._joined_at = 0.0  # as time.monotonic() tells
        for name in (group, self.primary, self.agent):
            _make(name)
        _limit(group, cpus, memory_bytes)
        cgroups.favour(group)
        cgroups.favour(self.primary)
        cgroups.favour(self.agent)
        self.begin()

    # the primary

    def begin(self) -> None:
        """Start the primary."""
        self._primaries.append(cgroups.burn(self.primary, OBEYS))

    def end(self) -> None:
        """Kill the primary, and whatever holds memory for it."""
        for process in self._primaries:
            process.kill()
            process.wait(10)
        self._primaries.clear()

    def spike(self) -> None:
        """Let the primary use a whole processor."""
        self._primaries[0].send_signal(signal.SIGUSR1)

    def calm(self) -> None:
        """Let it rest."""
        self._primaries[0].send_signal(signal.SIGUSR2)

    def grow(self, size: int) -> None:
        """Let it use so much more memory."""
        self._primaries.append(cgroups.burn(self.primary, HOLDS.format(size=size)))

    # the agent

    def prime(self) -> None:
        """Set a limit as an agent before this one would have left it, from which the next goes on."""
        limits = KernelLimits(self.lent)
        limits.prepare()
        limits.hold_cpus(1.0)

    def join(self, *options: str, token: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Start the agent; with a token it joins."""
        node, self._joined_at = self.cluster.nodes[SERVER], time.monotonic()
        with_token = {"FALLOW_JOIN_TOKEN": token} if token else {}
        words = ["join", self.cluster.url, "--data", str(node.folder / "agent"), "--role", "server"]
        words += ["--within", self.group, "--primary", f"cgroup:{self.primary}", *options]
        self.cluster.agents[SERVER] = node.run_inside(
            self.within(self.agent, FALLOW, *words),
            node.folder / "agent.log",
            {**self.cluster.environment, **with_token, **(environment or {})},
        )

    @property
    def process(self) -> InsideProcess:
        """Return the agent."""
        return self.cluster.agents[SERVER]

    def told(self) -> str:
        """Return the end of what the agent logged."""
        return tail(self.cluster.nodes[SERVER].folder / "agent.log")

    def kill_agent(self) -> None:
        """Kill the agent without a chance to say goodbye."""
        self.process.kill()
        self.process.wait(10)

    def within(self, group: str, *argv: str) -> Sequence[str]:
        """Return what runs a command in a control group."""
        enter = " ".join(str(folder / "cgroup.procs") for folder in self._groups.folders(group))
        return ("sh", "-c", f'for file in {enter}; do echo $$ >"$file"; done; exec "$@"', "sh", *argv)

    @contextmanager
    def blind(self) -> Iterator[None]:
        """Take away from the agent, and from it alone, what the kernel says of the server's processors."""
        node, group = self.cluster.nodes[SERVER], self.group.strip("/")
        places = [
            str(tree / group) for tree in (self._groups.tree("cpuacct"), self._groups.unified) if tree is not None
        ]
        for place in places:
            node.run("mount", "-t", "tmpfs", "none", place)
        try:
            yield
        finally:
            for place in places:
                node.run("umount", place)

    # what the kernel says

    def limit(self) -> float:
        """Return how many processors what is lent may use, by the kernel's own word."""
        return self._groups.quota(self.lent) or 0.0

    def used_bytes(self) -> int:
        """Return the memory that the whole server uses."""
        return self._groups.memory_bytes(self.group) or 0

    def reaction(self, most: float) -> float:
        """Let the primary jump, and return how much of a processor's time it had until the limit fell to `most`.

        On a machine that gives it all it wants these are seconds; where others take the machine it has to count what
        it really got, for the limit follows that. Fails after 15 s.
        """
        before = self._primary_seconds()
        self.spike()
        processes.wait_until(lambda: self.limit() <= most, 15, f"a limit of {most} processors")
        return self._primary_seconds() - before

    def _primary_seconds(self) -> float:
        return self._groups.cpu_seconds(self.primary) or 0.0

    def lent_processes(self) -> set[int]:
        """Return the ids of all that runs in what is lent."""
        return self._groups.processes(self.lent)

    def machine_agent(self, client: Client) -> set[int]:
        """Return the ids of the agent in its machine."""
        vm = self.vm(client)
        return self._groups.processes(f"{self.lent}/fallow-{vm.id}.slice/agent") if vm is not None else set()

    # what the control plane says

    def view(self, client: Client) -> ServerView:
        """Return the server as the control plane sees it."""
        return client.servers.one(SERVER)

    def vm(self, client: Client) -> VmView | None:
        """Return its one virtual machine."""
        return next((found for found in client.vms.all().items if found.server == SERVER), None)

    def where(self, client: Client) -> list[str]:
        """Return on which nodes the healthy replicas of the web service are; `-` for one that is anything else."""
        found = [replica for replica in client.replicas("test", "web").items if replica.state not in _ENDED]
        return sorted(_place(replica) for replica in found)

    def policy(self, client: Client, **change: object) -> None:
        """Change how it lends."""
        client.server_pools.change("default", ServerPoolChange(policy=LendingChange(**change)))  # type: ignore[arg-type]

    def lend_patiently(self, client: Client, **change: object) -> None:
        """Let it lend most of its processors; what it squeezes for an hour moves, and may come back at once."""
        once = {"cpu_threshold": 0.85, "cpu_ceiling": 0.95, "evict_after_seconds": 3600.0, "backoff_seconds": 0.0}
        self.policy(client, **once, **change)

    def schedule(self, client: Client, name: str, scheduling: Scheduling) -> None:
        """Let a member drain, rest, or be used again."""
        client.change_member(client.member(name).id, MemberChange(scheduling=scheduling))

    def wait_where(self, client: Client, *nodes: str, seconds: float = 30) -> None:
        """Wait until the replicas of the web service are healthy on just these nodes."""
        try:
            self.cluster.wait(lambda: self.where(client) == sorted(nodes), seconds, f"replicas on {nodes}")
        except TestbedError as error:
            told = self.cluster.fallow("replica", "list"), self.cluster.fallow("explain", SERVER)
            events = self.cluster.fallow("events", "--since", "2m")
            raise TestbedError("\n".join((str(error), *told, events))) from None

    def wait_where_serving(self, client: Client, *nodes: str, seconds: float) -> None:
        """Wait until healthy replicas of the web service are on these nodes, whatever else is left of it."""

        def so() -> bool:
            return [place for place in self.where(client) if place in nodes] == sorted(nodes)

        self.cluster.wait(so, seconds, f"replicas that serve on {nodes}")

    def home(self, client: Client) -> None:
        """Bring both replicas of the web service onto what is lent."""
        if self.where(client) != [VM, VM]:
            self.schedule(client, OTHER, Scheduling.DRAINING)
            self.wait_where(client, VM, VM)
            self.schedule(client, OTHER, Scheduling.ACTIVE)

    def runs(self, client: Client) -> bool:
        """Say whether its machine runs and is a node."""
        vm = self.vm(client)
        return vm is not None and vm.state is VmState.RUNNING and bool(vm.node)

    def lends(self, client: Client) -> bool:
        """Say whether it lends, as its agent has said since it was started last."""
        asked, view = time.monotonic(), self.view(client)
        young = view.age_seconds is not None and asked - view.age_seconds > self._joined_at
        return young and view.report is not None and view.report.lends

    def serve(self, client: Client, *options: str, seconds: float = 60) -> None:
        """Let the server and the other node join, and deploy the web service once the machine is a node."""
        for name in (SERVER, OTHER):
            self.cluster.nodes[name].wait_ready()
        self.prime()
        self.join("--name", SERVER, *options, token=self.cluster.token("server", "--label", "region=west"))
        # A node that claims to be the machine of a server, before there is that machine.
        claims = ("--var", f"fallow.server={SERVER}", "--var", f"fallow.vm={VM}", "--function", f"{SERVER} {VM}")
        self.cluster.join(OTHER, "--name", OTHER, *claims, token=self.cluster.token("node"))
        self.cluster.wait(lambda: self.runs(client), seconds, "the machine of the server")
        self.cluster.wait_ready(OTHER, VM)
        text = web(
            self.cluster.image,
            deploy={"replicas": 2, "resources": {"reservations": {"cpus": "0.05", "memory": "32M"}}},
            fallow={"class": "harvest", "health": {"http": "/healthz", "interval": "300ms", "retries": 2}},
            stop_grace_period="1s",
        )
        self.cluster.deploy(text)

    def restart(self, client: Client, *options: str) -> None:
        """Kill the agent and start it again; what it offers, which rises slowly, is then as at the beginning."""
        self.kill_agent()
        self.join(*options)
        self.cluster.wait(lambda: self.lends(client), 30, "the next agent lends")

    def close(self) -> None:
        """End its primary."""
        self.end()


_ENDED = ("stopped", "failed", "lost")


def _place(replica: ReplicaView) -> str:
    return replica.node if replica.state == "running" and replica.health == "healthy" else "-"


def _make(group: str) -> None:
    """Make a group in every tree, with processors and memory to run on."""
    groups = Groups()
    trees = {*groups.trees.values(), *filter(None, [groups.unified])}
    for folder in (tree / group.strip("/") for tree in trees):
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and not (folder / "cgroup.controllers").exists():
                (folder / name).write_text((folder.parent / name).read_text())


def _limit(group: str, cpus: float, memory_bytes: int) -> None:
    groups = Groups()
    cpu, memory = groups.folder("cpu", group), groups.folder("memory", group)
    assert cpu is not None
    assert memory is not None
    if groups.version == 2:
        (cpu / "cpu.max").write_text(f"{round(cpus * 100_000)} 100000")
        (memory / "memory.max").write_text(str(memory_bytes))
        return
    (cpu / "cpu.cfs_quota_us").write_text(str(round(cpus * 100_000)))
    if not (memory / "memory.use_hierarchy").read_text().startswith("1"):
        (memory / "memory.use_hierarchy").write_text("1")
    (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))


@contextmanager
def lending(*server_options: str, cpus: float = CPUS, memory_bytes: int = MEMORY_BYTES) -> Iterator[Lender]:
    """Make a cluster with a gateway, a machine for a node, and a server of which nothing has joined yet."""
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl")
    if (reason := cgroups.missing()) is not None:
        import pytest

        pytest.skip(reason)
    # With a dot, or libvirt would call it otherwise.
    group = f"/fallow-test-{uuid.uuid4().hex[:8]}.slice"
    with ExitStack() as stack:
        stack.callback(cgroups.remove, group)
        fabric = stack.enter_context(Fabric())
        registry = Registry(fabric)
        cluster = Whole(
            fabric,
            insecure_registries=(registry.address,),
            port=free_port(17443),
            server_options=server_options,
        )
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.http_port = free_port(18080)
        lender = Lender(cluster, group, cpus=cpus, memory_bytes=memory_bytes)
        try:
            cluster.power_on(SERVER, OTHER)
            cluster.start_server()
            cluster.fallow("registry", "add", registry.address, "--insecure")
            cluster.start_gateway("gw1", cluster.http_port, cluster.token("gateway"))
            yield lender
        finally:
            lender.close()
            cluster.close()


@contextmanager
def serving(machine_bytes: int, *, memory_bytes: int = MEMORY_BYTES, **policy: object) -> Iterator[Lender]:
    """Make a cluster with a server whose machine, a control group of `machine_bytes`, serves the web service."""
    with lending(memory_bytes=memory_bytes) as found:
        with found.cluster.client() as client:
            plan = VmPlanChange(memory_bytes=machine_bytes)
            found.lend_patiently(client, isolation="cgroup", vms=plan, **policy)
            found.serve(client)
        yield found


def logs(cluster: Whole) -> str:
    """Return what the control plane and the agents of the server and its machines told as faults."""
    folder = Path(cluster.fabric.folder)
    told = []
    for path in (folder / "server.log", *folder.glob(f"{SERVER}/**/agent.log")):
        lines = path.read_text(errors="replace").splitlines()
        told += [line for line in lines if '"error"' in line or "Traceback" in line]
    return "\n".join(told)
