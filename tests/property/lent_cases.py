"""Random fleets of which a part is on lent capacity, and a slow judge of servers that shares no code with placement."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import strategies as st
from placement_cases import exact, mostly, residents, snapshots

from fallow.decide.harvest.heard import HeardServer
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Facts, Lease, Member, MemberState, Role, Scheduling
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending, ServerReport
from fallow.model.vms import Vm, VmUse, VmWish

NOW = 1_000_000.0
MIB = 2**20
LEAST_CPUS, LEAST_MEMORY = Fraction(1, 10), 64 * MIB


@dataclass(frozen=True)
class World:
    """A fleet, and what its servers said last."""

    snapshot: Snapshot
    servers: dict[str, HeardServer]

    def after(self, snapshot: Snapshot) -> "World":
        return replace(self, snapshot=snapshot)


def a_server(name: str, **changes: Any) -> Member:
    values: dict[str, Any] = {
        "id": f"s-{name}", "name": name, "created_at": 0.0, "updated_at": 0.0, "role": Role.SERVER, "key_sha256": "",
        "token_id": "", "certificate_expires_at": 0.0, "lease": Lease(address="10.9.0.1"), "state": MemberState.READY,
        "facts": Facts(cpus=99.0, memory_bytes=2**50),
    }  # fmt: skip
    return Member(**(values | changes))


def a_vm(number: int, server: str, node_id: str, **changes: Any) -> Vm:
    values: dict[str, Any] = {
        "id": f"v-{number}", "created_at": 0.0, "updated_at": 0.0, "name": f"vm-{number}", "server_id": f"s-{server}",
        "cpus": 4.0, "memory_bytes": 2**40, "disk_bytes": 0, "image": "default", "node_id": node_id,
    }  # fmt: skip
    return Vm(**(values | changes))


def a_report(**changes: Any) -> ServerReport:
    values: dict[str, Any] = {
        "cpus": 8.0, "memory_bytes": 2**33, "offer_cpus": 4.0, "offer_memory_bytes": 2**32, "lends": True,
    }  # fmt: skip
    return ServerReport(**(values | changes))


def a_pool(name: str, **policy: Any) -> ServerPool:
    wanted = Requirement(key="pool", operator="in", values=(name,))
    return ServerPool(
        id=name, created_at=0.0, updated_at=0.0, selector=Selector(requirements=(wanted,)),
        policy=LendingPolicy(**policy),
    )  # fmt: skip


class Choice:
    """Draws values; most worlds lack one thing only, since where everything lacks nothing is ever placed."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.scarce = draw(mostly(["cpus", "memory", "vms", "servers", "nothing", "everything"]))

    def pick(self, scarce: str, hard: list[Any], easy: Any) -> Any:
        """One of `hard` where that is what lacks, `easy` elsewhere."""
        return self.draw(mostly(hard)) if self.scarce in (scarce, "everything") else easy

    def heard(self, vms: list[Vm]) -> HeardServer:
        uses = tuple(
            VmUse(
                vm_id=vm.id, state="running",
                memory_limit_bytes=self.pick("memory", [0, 1, 3, 2**40], 0),
            )
            for vm in vms
        )  # fmt: skip
        report = a_report(
            cpus=self.pick("cpus", [0.0, 1.0, 2.0, 8.0], 8.0),
            memory_bytes=self.pick("memory", [0, 512 * MIB, 2**33], 2**33),
            primary_cpus=self.pick("cpus", [0.0, 0.3, 0.9], 0.5),
            lent_cpus=self.pick("cpus", [0.0, 0.1], 0.1),
            system_memory_bytes=self.pick("memory", [0, 100 * MIB], 0),
            offer_cpus=self.pick("cpus", [0.0, 0.35, 1.0, 4.0], 4.0),
            offer_memory_bytes=self.pick("memory", [0, 200 * MIB, 2**32], 2**32),
            lends=self.pick("servers", [True, True, True, False], True),
            vms=uses,
        )
        return HeardServer(report=report, age_seconds=self.pick("servers", [0.0, 1.0, 5.0, 5.1], 1.0))

    def vm(self, number: int, server: str, node_id: str) -> Vm:
        return a_vm(
            number, server, node_id,
            cpus=self.pick("vms", [0.2, 0.5, 4.0], 4.0),
            memory_bytes=self.pick("vms", [2, 4, 2**40], 2**40),
            wanted=self.pick("vms", [VmWish.RUNNING, VmWish.RUNNING, VmWish.STOPPED], VmWish.RUNNING),
            draining=self.pick("vms", [False, False, True], False),
        )  # fmt: skip

    def lending(self, name: str) -> Lending:
        return Lending(
            id=f"s-{name}", created_at=0.0, updated_at=0.0, closed=self.pick("servers", ["", "", "it shuts down"], ""),
            backoff_until=self.pick("servers", [0.0, NOW, NOW - 1, NOW + 0.1], 0.0),
        )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Nodes of a fleet as virtual machines on a few servers, most of which may lend."""
    before = draw(snapshots())
    choice = Choice(draw)
    names = ["a", "b"][: draw(mostly([1, 1, 2]))]
    members, vms, servers = dict(before.members), {}, {}
    for number, node_id in enumerate(sorted(before.members)):
        server = choice.pick("servers", [*names, *names, "", "gone"], draw(mostly(names)))
        if server:
            vms[f"v-{number}"] = choice.vm(number, server, node_id)
    for name in names:
        id_ = f"s-{name}"
        members[id_] = a_server(
            name,
            labels={"pool": draw(mostly(["", "keen"]))},
            scheduling=choice.pick("servers", [Scheduling.ACTIVE] * 4 + list(Scheduling), Scheduling.ACTIVE),
        )
        if choice.pick("servers", [True, True, True, False], True):
            servers[id_] = choice.heard([vm for vm in vms.values() if vm.server_id == id_])
    lends = choice.pick("servers", [True, True, False], True)
    pools = {"keen": a_pool("keen", cpu_threshold=0.9, cpu_ceiling=0.95, lends=lends)}
    snapshot = replace(
        before, members=members, vms=vms, server_pools=pools,
        lendings={f"s-{name}": choice.lending(name) for name in names if draw(st.booleans())},
        templates={id_: draw(classed(found)) for id_, found in before.templates.items()},
        replicas={id_: draw(aged(found)) for id_, found in before.replicas.items()},
    )  # fmt: skip
    return World(snapshot, servers)


@st.composite
def classed(draw: st.DrawFn, template: Any) -> Any:
    """Give a template a class, and mostly something to ask for."""
    policy = msgspec.structs.replace(
        template.placement, service_class=draw(mostly(["", "", "harvest", "spot", "standard"]))
    )
    return msgspec.structs.replace(template, placement=policy)


@st.composite
def aged(draw: st.DrawFn, replica: Replica) -> Replica:
    return msgspec.structs.replace(
        replica, state_since=draw(mostly([NOW - 3600, NOW - 6, NOW - 5.9, NOW + 2, NOW + 99]))
    )


def weight(snapshot: Snapshot, replica: Replica) -> tuple[Fraction, int]:
    need = snapshot.templates[replica.template_id].container.resources
    return max(exact(need.cpus), LEAST_CPUS), max(need.memory_bytes, LEAST_MEMORY)


def is_measured(replica: Replica, said: HeardServer) -> bool:
    if replica.state in (ReplicaState.LEAVING, ReplicaState.STOPPING):
        return True
    ago = NOW - replica.state_since
    return replica.state is ReplicaState.RUNNING and (ago < -5 or ago >= 5 + 1 + said.age_seconds)


def lent_room(world: World, replica: Replica, node: Member) -> bool:
    """Say whether lent capacity lets the node take one more; one that is not lent always may."""
    snapshot = world.snapshot
    vm = next((found for found in snapshot.vms.values() if found.node_id == node.id), None)
    if vm is None:
        return True
    server, said = snapshot.members.get(vm.server_id), world.servers.get(vm.server_id)
    template = snapshot.templates[replica.template_id]
    if template.placement.service_class == "standard" or vm.draining or vm.wanted is not VmWish.RUNNING:
        return False
    if server is None or server.scheduling is not Scheduling.ACTIVE or said is None or said.age_seconds > 5:
        return False
    lending = snapshot.lendings.get(server.id)
    if lending is not None and (lending.closed or lending.backoff_until > NOW):
        return False
    keen = server.labels["pool"] == "keen"
    if not said.report.lends or (keen and not snapshot.server_pools["keen"].policy.lends):
        return False
    return _server_room(world, vm.server_id, said, weight(snapshot, replica), keen) and _vm_room(
        world, vm, replica, said
    )


def _server_room(world: World, server_id: str, said: HeardServer, need: tuple[Fraction, int], keen: bool) -> bool:
    report = said.report
    nodes = [vm.node_id for vm in world.snapshot.vms.values() if vm.server_id == server_id]
    there = [found for id_ in nodes for found in residents(world.snapshot, id_)]
    for index, capacity, threshold, used, offer in (
        (0, exact(report.cpus), exact(0.9 if keen else 0.65), exact(report.used_cpus), exact(report.offer_cpus)),
        (1, Fraction(report.memory_bytes), exact(0.8), report.used_memory_bytes, report.offer_memory_bytes),
    ):
        placed = sum(weight(world.snapshot, found)[index] for found in there)
        coming = sum(weight(world.snapshot, found)[index] for found in there if not is_measured(found, said))
        if used + coming + need[index] > capacity * threshold or placed + need[index] > offer:
            return False
    return True


def _vm_room(world: World, vm: Vm, replica: Replica, said: HeardServer) -> bool:
    """Look at what the virtual machine was given; that its node has room is looked at elsewhere."""
    snapshot = world.snapshot
    limit = next(use.memory_limit_bytes for use in said.report.vms if use.vm_id == vm.id) or vm.memory_bytes
    held = [snapshot.templates[found.template_id].container.resources for found in residents(snapshot, vm.node_id)]
    need = snapshot.templates[replica.template_id].container.resources
    cpus = sum(exact(other.cpus) for other in [*held, need])
    memory = sum(other.memory_bytes for other in [*held, need])
    return not (need.cpus and cpus > exact(vm.cpus)) and not (
        need.memory_bytes and memory > min(vm.memory_bytes, limit)
    )
