"""The decisions together, through scaling, drains, new versions and dying nodes: what must hold, always holds."""

from collections import Counter
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from records import NOW, applied, deployment, ids, member, snapshot, template

from fallow.decide.deployments import reconcile
from fallow.decide.placement import place
from fallow.decide.plan import Plan, Step
from fallow.decide.replicas import observe
from fallow.decide.routes import withdrawn
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Activity, DeploymentSpec, Health, Observation, Replica, ReplicaState
from fallow.model.lifecycle import REPLICA_TRANSITIONS
from fallow.model.members import Lease, MemberState, PortRange, Scheduling

LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
CONTAINER = ContainerSpec(image="shop:1", ports=(PortSpec(container=80),), resources=Resources(cpus=0.5))
ACTIONS = ("scale", "drain", "uncordon", "die", "revive", "update", "agents", "agents", "loops", "loops", "unwell")


class World:
    """Everything stored, and the loops and agents as pure functions over it."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.now = NOW
        self.new_id = ids()
        self.serial = 0
        web = deployment(replicas=3, spec=DeploymentSpec(replicas=3, container=CONTAINER))
        ports = Lease(address="10.0.0.1", host_ports=PortRange(first=20000, last=20020))
        nodes = [member(name, lease=ports) for name in "abcd"]
        self.state = snapshot(web, template(web), *nodes)

    def act(self, action: str) -> None:
        self.now += 1.0
        getattr(self, action)()
        self.check()

    def scale(self) -> None:
        (web,) = self.state.deployments.values()
        spec = msgspec.structs.replace(web.spec, replicas=self.chance.randint(0, 6))
        self.write(msgspec.structs.replace(web, spec=spec))

    def update(self) -> None:
        (web,) = self.state.deployments.values()
        newer = msgspec.structs.replace(web, generation=web.generation + 1)
        self.write(newer, template(newer))

    def drain(self) -> None:
        self.change_node(scheduling=Scheduling.DRAINING)

    def uncordon(self) -> None:
        self.change_node(scheduling=Scheduling.ACTIVE)

    def die(self) -> None:
        self.change_node(state=MemberState.DEAD)

    def revive(self) -> None:
        self.change_node(state=MemberState.READY)

    def change_node(self, **changes: object) -> None:
        node = self.chance.choice(sorted(self.state.members.values(), key=lambda found: found.id))
        self.write(msgspec.structs.replace(node, **changes))

    def agents(self) -> None:
        """Let some of the nodes that live do what they are told, and say so."""
        for replica in list(self.state.replicas.values()):
            node = self.state.members.get(replica.node_id)
            if node is not None and node.state is MemberState.READY and self.chance.random() < 0.7:
                self.observed(replica, Health.HEALTHY)

    def unwell(self) -> None:
        running = [found for found in self.state.replicas.values() if found.state is ReplicaState.RUNNING]
        if running:
            self.observed(self.chance.choice(running), Health.UNHEALTHY)

    def observed(self, replica: Replica, health: Health) -> None:
        stopped = replica.state is ReplicaState.STOPPING
        self.serial += 1
        seen = Observation(
            replica_id=replica.id, serial=self.serial, started=True, health=Health.UNKNOWN if stopped else health,
            activity=Activity.STOPPED if stopped else Activity.RUNNING,
        )  # fmt: skip
        after = observe(replica, seen, self.now)
        if after is not None:
            self.write(after)

    def loops(self) -> None:
        self.reconcile()
        self.place()
        self.apply(withdrawn(self.state, {}, self.now))

    def reconcile(self) -> None:
        before = served_slots(self.state)
        self.apply(reconcile(self.state, self.now, self.new_id))
        (web,) = self.state.deployments.values()
        after = served_slots(self.state)
        lost = {found.slot for found in self.state.replicas.values() if found.state is ReplicaState.LOST} & before
        assert len(after) >= min(len(before), web.spec.replicas) - len(lost - after), (
            "our own doing took healthy replicas below what is wanted"
        )

    def place(self) -> None:
        steps = [
            Step(puts=(bind(self.state.replicas[found.replica_id], found.node_id, found.host_ports),))
            for found in place(self.state, self.now).bindings
        ]
        self.apply(Plan(steps=steps))

    def apply(self, plan: Plan) -> None:
        for step in plan.steps:
            for record in step.puts:
                old = self.state.replicas.get(record.id)
                if isinstance(record, Replica) and old is not None and old.state is not record.state:
                    assert (old.state, record.state) in REPLICA_TRANSITIONS
        self.state = applied(self.state, plan)

    def write(self, *records: object) -> None:
        self.state = applied(self.state, Plan(steps=(Step(puts=records),)))  # type: ignore[arg-type]

    def check(self) -> None:
        live = {found.id: found for found in self.state.replicas.values() if found.state in LIVE}
        owners = Counter(found.slot for found in live.values() if found.replaces not in live)
        assert all(count == 1 for count in owners.values()), "a slot has two owners"
        for node_id, replicas in self.state.replicas_by_node.items():
            ports = Counter(port for found in replicas for port in found.host_ports.values())
            assert all(count == 1 for count in ports.values()), f"a port of {node_id} has two owners"

    def settle(self) -> None:
        """No more faults: everything alive, agents diligent."""
        for node in list(self.state.members.values()):
            self.write(msgspec.structs.replace(node, state=MemberState.READY, scheduling=Scheduling.ACTIVE))
        for _ in range(60):
            before = self.state.replicas
            self.now += 1.0
            self.loops()
            for replica in list(self.state.replicas.values()):
                self.observed(replica, Health.HEALTHY)
            self.check()
            if before == self.state.replicas:
                return
        raise AssertionError("it does not come to rest")


def healthy(state: Snapshot) -> list[Replica]:
    return [found for found in state.replicas.values() if found.healthy]


def served_slots(state: Snapshot) -> set[int]:
    """Return the slots with a healthy replica; one whose replica is being replaced may have two for a while."""
    return {found.slot for found in healthy(state)}


def bind(replica: Replica, node_id: str, ports: dict[str, int]) -> Replica:
    return msgspec.structs.replace(
        replica, node_id=node_id, host_ports=ports, address="10.0.0.1", state=ReplicaState.PLACED
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ACTIONS), max_size=30))
def test_whatever_happens_the_wanted_replicas_serve_in_the_end(seed: int, actions: list[str]) -> None:
    world = World(seed)
    for action in actions:
        world.act(action)
    world.settle()
    (web,) = world.state.deployments.values()
    serving = healthy(world.state)
    assert len(serving) == web.spec.replicas
    assert {found.generation for found in serving} <= {web.generation}
    assert all(found.ended for found in world.state.replicas.values() if not found.healthy)
