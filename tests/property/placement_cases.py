"""Random fleets for placement, and a slow judge of one binding at a time that shares no code with it."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import strategies as st

from fallow.decide.matching import matches
from fallow.decide.placement import Binding
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import PlacementPolicy, Preference, Replica, ReplicaState, Template
from fallow.model.labels import LabelSet, Requirement, Selector, Variable
from fallow.model.members import Facts, Lease, Member, MemberState, Role, Scheduling
from fallow.model.pools import PortRange
from fallow.model.wire import Usage

FIRST_PORT = 20000
LEAVING = (ReplicaState.LEAVING, ReplicaState.STOPPING)
ENDED = (ReplicaState.STOPPED, ReplicaState.FAILED, ReplicaState.LOST)
mostly = st.sampled_from

requirements = st.one_of(
    st.builds(
        Requirement, key=mostly(["zone", "role"]), operator=mostly(["in", "notin"]),
        values=st.lists(mostly(["a", "b", "web"]), min_size=1, max_size=2, unique=True).map(tuple),
    ),
    st.builds(Requirement, key=mostly(["zone", "gpu"]), operator=mostly(["exists", "absent"])),
    st.builds(
        Requirement, key=st.just("size"), operator=mostly(["gt", "ge", "lt", "le"]),
        values=mostly([("2",), ("1Ki",), ("0.5",)]),
    ),
)  # fmt: skip
GIB = 2**30
usages = st.builds(Usage, disk_free_bytes=mostly([0, GIB, 2 * GIB, 40 * GIB]), containers=mostly([0, 3]))
# What a node says of itself; "role" and "zone" are what selectors ask of labels.
said = st.fixed_dictionaries(
    {}, optional={"rack": mostly(["r1", "r2"]), "role": st.just("web"), "zone": mostly(["a", "b"]), "gpu": st.just("1")}
)
in_sets = st.one_of(
    requirements,
    st.builds(Requirement, key=st.just("@west"), operator=mostly(["exists", "absent"])),
    st.builds(Requirement, key=mostly(["@gone", "@told"]), operator=mostly(["exists", "absent"])),
)
resources = st.one_of(
    st.builds(
        Requirement,
        key=mostly(["disk.free", "var:disk.free"]),
        operator=mostly(["ge", "lt"]),
        values=mostly([("1GiB",), ("2GiB",), ("41000000000",)]),
    ),
    st.builds(
        Requirement, key=mostly(["rack", "var:zone"]), operator=mostly(["in", "notin"]), values=mostly([("r1",)])
    ),
    st.builds(Requirement, key=mostly(["rack", "@told"]), operator=mostly(["exists", "absent"])),
)
wishes = st.one_of(
    st.builds(
        Preference, selector=st.one_of(requirements, resources).map(lambda found: Selector(requirements=(found,))),
        weight=mostly([1, 3]),
    ),
    st.builds(
        Preference, order=mostly(["most", "least"]), key=mostly(["disk.free", "size", "rack"]), weight=mostly([1, 2])
    ),
)  # fmt: skip


def a_set(name: str, *found: Requirement) -> LabelSet:
    return LabelSet(id=name, created_at=0.0, updated_at=0.0, selector=Selector(requirements=found))


SETS = {
    "west": a_set("west", Requirement(key="zone", operator="in", values=("a", "c"))),
    "told": a_set("told", Requirement(key="var:rack", operator="exists")),  # no label answers it
}
labels = st.fixed_dictionaries(
    {},
    optional={
        "zone": mostly(["a", "b", "c"]), "role": mostly(["web", "db"]), "gpu": st.just("1"),
        "size": mostly(["1", "2", "3", "2Ki", "big"]),
    },
)  # fmt: skip
policies = st.builds(
    PlacementPolicy,
    selector=st.lists(in_sets, max_size=2).map(lambda found: Selector(requirements=tuple(found))),
    resources=st.lists(resources, max_size=2).map(lambda found: Selector(requirements=tuple(found))),
    prefer=mostly([0, 0, 1, 2]).flatmap(lambda count: st.lists(wishes, min_size=count, max_size=count)).map(tuple),
    strategy=mostly(["spread", "spread", "pack"]),
    spread_by=mostly([(), (), ("zone",), ("zone", "role")]),
    max_per_node=mostly([0, 0, 0, 1, 2]),
    architectures=mostly([(), (), (), (), ("amd64",), ("arm64", "riscv64")]),
)
port_lists = mostly(
    [
        (), (), (PortSpec(container=80),), (PortSpec(container=80), PortSpec(container=80, protocol="udp")),
        (PortSpec(container=80, host=80),), (PortSpec(container=53, host=20001), PortSpec(container=80)),
        (PortSpec(container=53, host=20001), PortSpec(container=53, host=20001, protocol="udp")),
        (PortSpec(container=53, host=20001, protocol="udp"), PortSpec(container=54)),
        (PortSpec(container=1, host=80), PortSpec(container=2, host=80)),
    ]
)  # fmt: skip


def a_member(number: int, **changes: Any) -> Member:
    values: dict[str, Any] = {
        "id": f"n-{number}", "name": f"node-{number}", "created_at": 0.0, "updated_at": 0.0, "role": Role.NODE,
        "key_sha256": "", "token_id": "", "certificate_expires_at": 0.0, "lease": Lease(address=f"10.0.0.{number + 1}"),
        "state": MemberState.READY, "facts": Facts(architecture="amd64", cpus=4.0, memory_bytes=8),
    }  # fmt: skip
    return Member(**(values | changes))


def a_template(number: int, container: ContainerSpec, placement: PlacementPolicy, generation: int = 1) -> Template:
    return Template(
        id=f"d-{number}.{generation}", created_at=0.0, updated_at=0.0, deployment_id=f"d-{number}",
        generation=generation, container=container, placement=placement,
    )  # fmt: skip


def a_replica(id_: str, of: Template, **changes: Any) -> Replica:
    values: dict[str, Any] = {
        "id": id_, "created_at": 0.0, "updated_at": 0.0, "deployment_id": of.deployment_id, "project": "default",
        "deployment": of.deployment_id, "slot": 0, "generation": of.generation, "template_id": of.id,
    }  # fmt: skip
    return Replica(**(values | changes))


class Case:
    """Draws values; most fleets lack one thing only, since where everything lacks little is ever placed."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.scarce = draw(mostly(["cpus", "memory", "ports", "crowd", "labels", "service", "everything"]))

    def pick(self, scarce: str, hard: Any, easy: Any) -> Any:
        """One of `hard` where that is what lacks, `easy` elsewhere."""
        return self.draw(hard) if self.scarce in (scarce, "everything") else easy

    def node(self, number: int) -> Member:
        address = f"10.0.0.{number + 1}"
        last = FIRST_PORT - 1 + self.pick("ports", mostly([0, 1, 2, 3, 5]), 50)
        return a_member(
            number,
            role=self.pick("service", mostly([Role.NODE] * 4 + [Role.GATEWAY]), Role.NODE),
            state=self.pick("service", mostly([MemberState.READY] * 4 + list(MemberState)), MemberState.READY),
            scheduling=self.pick("service", mostly([Scheduling.ACTIVE] * 4 + list(Scheduling)), Scheduling.ACTIVE),
            labels=self.pick("labels", labels, {"zone": "ab"[number % 2]}),
            variables=tuple(Variable(name=name, value=value) for name, value in self.pick("labels", said, {}).items()),
            lease=Lease(
                address=self.pick("service", mostly([address] * 4 + [""]), address),
                host_ports=PortRange(first=FIRST_PORT, last=last),
            ),
            facts=Facts(
                architecture=self.pick("labels", mostly(["amd64", "amd64", "arm64"]), "amd64"),
                cpus=self.pick("cpus", mostly([0.0, 0.3, 0.5, 1.0]), 1000.0),
                memory_bytes=self.pick("memory", mostly([0, 2, 3, 5]), 1000),
            ),
        )

    def template(self, number: int) -> Template:
        container = ContainerSpec(
            image="app:1",
            ports=self.pick("ports", port_lists, self.draw(mostly([(), (PortSpec(container=80),)]))),
            resources=Resources(
                cpus=self.pick("cpus", mostly([0.0, 0.1, 0.3, 0.5]), 0.0),
                memory_bytes=self.pick("memory", mostly([0, 1, 2, 3]), 0),
            ),
        )
        policy = self.draw(policies)
        policy = msgspec.structs.replace(
            policy,
            selector=self.pick("labels", st.just(policy.selector), Selector()),
            resources=self.pick("labels", st.just(policy.resources), Selector()),
            architectures=self.pick("labels", st.just(policy.architectures), ()),
            max_per_node=self.pick("crowd", mostly([0, 1, 1, 2]), 0),
        )
        return a_template(self.draw(mostly([number, number, 0])), container, policy, generation=number)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A fleet with replicas of all sorts, of which no two own the same port of a node."""
    case = Case(draw)
    members = {f"n-{number}": case.node(number) for number in range(draw(mostly([0, 1, 2, 3, 5])))}
    templates: dict[str, Template] = {}
    replicas: dict[str, Replica] = {}
    for number in range(draw(mostly([1, 2, 3, 4]))):
        template = case.template(number)
        templates[template.id] = template
        for slot in range(draw(mostly([1, 1, 2, 3, 7]))):
            placed = [
                old.id for old in replicas.values() if old.node_id and old.deployment_id == template.deployment_id
            ]
            replica = a_replica(
                f"r-{number}-{slot}", template, slot=slot, created_at=draw(mostly([0.0, 1.0])),
                replaces=draw(mostly(["", *placed])),
            )  # fmt: skip
            replicas[replica.id] = draw(placed_or_not(replica, sorted(members), number * 10 + slot))
    return Snapshot(members=members, templates=templates, replicas=replicas, label_sets=SETS)


@st.composite
def placed_or_not(draw: st.DrawFn, replica: Replica, node_ids: list[str], number: int) -> Replica:
    state = draw(mostly([ReplicaState.PENDING] * 12 + list(ReplicaState)))
    if state is ReplicaState.PENDING or not node_ids:
        return replica
    return msgspec.structs.replace(
        replica,
        state=state,
        node_id=node_ids[number % len(node_ids)],
        host_ports={"9/tcp": FIRST_PORT + number if number else 80},  # every number has one owner
    )


def with_bindings(snapshot: Snapshot, bindings: Iterable[Binding]) -> Snapshot:
    """Return the snapshot as it is once the bindings are stored."""
    replicas = dict(snapshot.replicas)
    for binding in bindings:
        replicas[binding.replica_id] = msgspec.structs.replace(
            replicas[binding.replica_id], node_id=binding.node_id, address=binding.address,
            host_ports=binding.host_ports, state=ReplicaState.PLACED,
        )  # fmt: skip
    return replace(snapshot, replicas=replicas)


def residents(snapshot: Snapshot, node_id: str) -> list[Replica]:
    return [found for found in snapshot.replicas.values() if found.node_id == node_id and found.state not in ENDED]


def counted(snapshot: Snapshot, replica: Replica, node_id: str) -> int:
    """How many of the replica's deployment are on the node to stay."""
    coming = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
    replaced = {found.replaces for found in snapshot.replicas.values() if found.state in coming}
    return sum(
        found.deployment_id == replica.deployment_id and found.state not in LEAVING and found.id not in replaced
        for found in residents(snapshot, node_id)
    )


Heard = dict[str, Usage]


def heard_of(snapshot: Snapshot) -> Heard:
    """What nodes use: every third has not been heard yet."""
    return {
        id_: Usage(disk_free_bytes=[GIB, 2 * GIB, 40 * GIB][index % 3])
        for index, id_ in enumerate(sorted(snapshot.members))
        if index % 3 != 1
    }


def trusted(snapshot: Snapshot, wanted: Requirement, node: Member) -> bool:
    """One requirement of a deployment's selector: assigned labels alone, and label sets over nothing else."""
    if not wanted.key.startswith("@"):
        return matches(Selector(requirements=(wanted,)), node.labels)
    return wanted.key == "@west" and (node.labels.get("zone") in ("a", "c")) is (wanted.operator == "exists")


def resourceful(wanted: Requirement, node: Member, heard: Heard) -> bool:
    """One requirement of a deployment's resources: the amount that is measured, or what the node says."""
    told = {each.name: each.value for each in node.variables}
    if wanted.key.endswith("disk.free"):
        usage = heard.get(node.id)
        bound = int(wanted.values[0].removesuffix("GiB")) * (GIB if wanted.values[0].endswith("GiB") else 1)
        have = usage.disk_free_bytes if usage is not None else None
        return have is not None and (have >= bound if wanted.operator == "ge" else have < bound)
    if wanted.key == "@told":
        return ("rack" in told) is (wanted.operator == "exists")
    value = told.get(wanted.key.removeprefix("var:"))
    if wanted.operator in ("in", "notin"):
        return (value in wanted.values) is (wanted.operator == "in")
    return (value is not None) is (wanted.operator == "exists")


def may_run(snapshot: Snapshot, replica: Replica, node: Member, heard: Heard) -> bool:
    """Everything but the ports: whether one more replica is allowed on the node."""
    template = snapshot.templates[replica.template_id]
    policy, need = template.placement, template.container.resources
    if node.role is not Role.NODE or node.state is not MemberState.READY or not node.lease.address:
        return False
    if node.scheduling is not Scheduling.ACTIVE:
        return False
    selected = all(trusted(snapshot, each, node) for each in policy.selector.requirements)
    if not (selected and all(resourceful(each, node, heard) for each in policy.resources.requirements)):
        return False
    if policy.architectures and node.facts.architecture not in policy.architectures:
        return False
    if policy.max_per_node and counted(snapshot, replica, node.id) >= policy.max_per_node:
        return False
    held = [snapshot.templates[found.template_id].container.resources for found in residents(snapshot, node.id)]
    free_cpus = exact(node.facts.cpus) - sum(exact(other.cpus) for other in held)
    free_memory = node.facts.memory_bytes - sum(other.memory_bytes for other in held)
    return not (need.cpus and exact(need.cpus) > free_cpus) and not (need.memory_bytes > max(free_memory, 0))


def exact(share: float) -> Fraction:
    return Fraction(str(share))


def owners(snapshot: Snapshot, node_id: str) -> list[tuple[int, str]]:
    return [
        (number, key.split("/")[1])
        for found in residents(snapshot, node_id)
        for key, number in found.host_ports.items()
    ]  # fmt: skip


def ports_for(snapshot: Snapshot, replica: Replica, node: Member) -> dict[str, int] | None:
    """The ports one more replica would get, None when there are not enough."""
    given: dict[str, int] = {}
    taken = owners(snapshot, node.id)
    specs = snapshot.templates[replica.template_id].container.ports
    for spec in sorted(specs, key=lambda found: found.host is None):
        number = spec.host
        if number is None:
            free = set(range(node.lease.host_ports.first, node.lease.host_ports.last + 1)) - {port for port, _ in taken}
            if not free:
                return None
            number = min(free)
        elif (number, spec.protocol) in taken:
            return None
        given[spec.key] = number
        taken.append((number, spec.protocol))
    return given
