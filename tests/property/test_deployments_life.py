"""The decisions together, through scaling, drains, new versions and dying nodes: what must hold, always holds."""

from collections import Counter
from contextlib import suppress
from math import floor
from random import Random

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records import NOW, applied, deployment, ids, member, snapshot, template

from fallow.decide.deploy import changed
from fallow.decide.deployments import reconcile
from fallow.decide.generations import Author, NoSuchGenerationError, restarted, rolled_back
from fallow.decide.placement import place
from fallow.decide.plan import Plan, Step
from fallow.decide.replicas import observe
from fallow.decide.routes import withdrawn
from fallow.decide.slots import slots_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import NothingUnderWayError, paused, portion, resumed
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Activity, Deployment, DeploymentSpec, Health, Observation, Replica, ReplicaState
from fallow.model.lifecycle import REPLICA_TRANSITIONS
from fallow.model.members import Lease, MemberState, Scheduling
from fallow.model.meta import Reason
from fallow.model.pools import PortRange
from fallow.model.updates import UpdateConfig, UpdateState

LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
CONTAINER = ContainerSpec(image="shop:1", ports=(PortSpec(container=80),), resources=Resources(cpus=0.5))
SICK = ("exits", "sick", "missing", "ends")  # images that never work, each in its own way
COMMON = (
    "scale",
    "agents",
    "agents",
    "loops",
    "loops",
    "time",
    "pause",
    "resume",
    "restart",
    "rollback",
    "deploy_good",
)
NODES = ("drain", "uncordon", "die", "revive", "send_away", "stays")
FAULTS = ("deploy_bad", "unwell")
CONFIGS = st.builds(
    UpdateConfig,
    parallelism=st.sampled_from((None, 0, 1, 2)),
    delay_seconds=st.sampled_from((0.0, 3.0)),
    monitor_seconds=st.sampled_from((0.0, 5.0)),
    max_failure_ratio=st.sampled_from((0.0, 0.4)),
    order=st.sampled_from(("start-first", "stop-first")),
    failure_action=st.sampled_from(("rollback", "pause", "continue")),
)


class World:
    """Everything stored, and the loops and agents as pure functions over it."""

    def __init__(self, seed: int, config: UpdateConfig | None = None) -> None:
        config = config or UpdateConfig()
        back = "pause" if config.failure_action == "rollback" else config.failure_action
        self.chance = Random(seed)
        self.now = NOW
        self.new_id = ids()
        self.serial = 0
        self.woken_by: float | None = None
        rollback = msgspec.structs.replace(config, failure_action=back)
        spec = DeploymentSpec(replicas=3, container=CONTAINER, update=config, rollback=rollback)
        web = deployment(replicas=3, spec=spec)
        self.versions = 1
        ports = Lease(address="10.0.0.1", host_ports=PortRange(first=20000, last=20020))
        nodes = [member(name, lease=ports) for name in "abcd"]
        self.state = snapshot(web, template(web), *nodes)

    def act(self, action: str) -> None:
        self.now += 1.0
        getattr(self, action)()
        self.check()

    @property
    def web(self) -> Deployment:
        (found,) = self.state.deployments.values()
        return found

    @property
    def author(self) -> Author:
        return Author(self.now, self.new_id, "token:test")

    def scale(self) -> None:
        self.spec(replicas=self.chance.randint(0, 6))

    def deploy_good(self) -> None:
        self.versions += 1
        self.spec(container=msgspec.structs.replace(CONTAINER, image=f"shop:{self.versions}"))

    def deploy_bad(self) -> None:
        self.versions += 1
        image = f"{self.chance.choice(SICK)}:{self.versions}"
        self.spec(container=msgspec.structs.replace(CONTAINER, image=image))

    def spec(self, **changes: object) -> None:
        done = changed(self.web, msgspec.structs.replace(self.web.spec, **changes), self.now, self.new_id)
        self.step(done.step)

    def restart(self) -> None:
        self.step(restarted(self.web, self.author))

    def rollback(self) -> None:
        with suppress(NoSuchGenerationError):
            self.step(rolled_back(self.state, self.web, None, self.author))

    def pause(self) -> None:
        with suppress(NothingUnderWayError):
            self.step(paused(self.web, self.author))

    def resume(self) -> None:
        with suppress(NothingUnderWayError):
            self.step(resumed(slots_of(self.state, self.web, self.now, self.new_id), self.author))

    def time(self) -> None:
        self.now += 6.0

    def step(self, step: Step | None) -> None:
        if step is not None:
            self.write(*step.puts)

    def drain(self) -> None:
        self.change_node(scheduling=Scheduling.DRAINING)

    def uncordon(self) -> None:
        self.change_node(scheduling=Scheduling.ACTIVE)

    def die(self) -> None:
        self.change_node(state=MemberState.DEAD)

    def revive(self) -> None:
        self.change_node(state=MemberState.READY)

    def send_away(self) -> None:
        """Let a server need back what some replica uses: at once, soon, or whenever another is ready."""
        there = [found for found in self.state.replicas.values() if found.state in LIVE and found.node_id]
        if there:
            move_by = self.chance.choice((self.now, self.now + 4, 0.0))
            move = Reason(code="ServerNeeds", text="the server needs it back")
            self.write(msgspec.structs.replace(self.chance.choice(there), move=move, move_by=move_by))

    def stays(self) -> None:
        for found in live(self.state):
            if found.move is not None:
                self.write(msgspec.structs.replace(found, move=None, move_by=0.0))

    def change_node(self, **changes: object) -> None:
        node = self.chance.choice(sorted(self.state.members.values(), key=lambda found: found.id))
        self.write(msgspec.structs.replace(node, **changes))

    def agents(self) -> None:
        """Let some of the nodes that live do what they are told, and say so."""
        for replica in list(self.state.replicas.values()):
            node = self.state.members.get(replica.node_id)
            if node is not None and node.state is MemberState.READY and self.chance.random() < 0.7:
                self.truth(replica)

    def truth(self, replica: Replica) -> None:
        """Let its node say how a replica of this image is."""
        image = self.state.templates[replica.template_id].container.image.partition(":")[0]
        if image == "shop" or replica.state is ReplicaState.STOPPING:
            self.observed(replica, Health.HEALTHY)
        elif image == "sick":
            self.observed(replica, Health.UNHEALTHY)
        elif image == "ends":
            self.observed(replica, Health.UNKNOWN, Activity.FAILED)
        else:
            self.observed(replica, Health.UNKNOWN, Activity.BACKING_OFF, started=image == "exits")

    def unwell(self) -> None:
        running = [found for found in self.state.replicas.values() if found.state is ReplicaState.RUNNING]
        if running:
            self.observed(self.chance.choice(running), Health.UNHEALTHY)

    def observed(
        self, replica: Replica, health: Health, activity: Activity = Activity.RUNNING, started: bool = True
    ) -> None:
        stopped = replica.state is ReplicaState.STOPPING
        self.serial += 1
        seen = Observation(
            replica_id=replica.id, serial=self.serial, started=started, health=Health.UNKNOWN if stopped else health,
            activity=Activity.STOPPED if stopped else activity,
        )  # fmt: skip
        after = observe(replica, seen, self.now)
        if after is not None:
            self.write(after)

    def loops(self) -> None:
        self.reconcile()
        self.place()
        self.apply(withdrawn(self.state, {}, self.now, {}))

    def reconcile(self) -> None:
        before, web = self.state, self.web
        portions = max(portion(web), portion(msgspec.structs.replace(web, update=None)))
        served = served_slots(before)
        due = {found.slot for found in live(before) if found.move is not None and 0 < found.move_by <= self.now}
        plan = reconcile(before, self.now, self.new_id)
        self.woken_by = plan.wake_after_seconds
        self.apply(plan)
        assert plan.steps or reconcile(self.state, self.now, self.new_id).steps == []
        lost = {found.slot for found in self.state.replicas.values() if found.state is ReplicaState.LOST} & served
        promised = min(len(served), web.spec.replicas)
        if "stop-first" in (web.spec.update.order, web.spec.rollback.order):
            promised = min(promised, web.spec.replicas - portions - tolerated(web))
        promised -= len(due & served)
        after = served_slots(self.state)
        assert len(after) >= promised - len(lost - after), "our own doing took replicas below what is promised"
        allowed = max(renewals(before), 0 if web.spec.update.order == "stop-first" else portions)
        assert renewals(self.state) <= allowed, "more than a portion is renewed at once"
        if web.spec.update.order == "stop-first":
            assert present(self.state) <= max(present(before), web.spec.replicas), "more than are wanted"

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
        """No more faults: everything alive, agents diligent, nobody holds an update up."""
        for node in list(self.state.members.values()):
            self.write(msgspec.structs.replace(node, state=MemberState.READY, scheduling=Scheduling.ACTIVE))
        self.resume()
        for _ in range(400):
            before = self.state
            self.now += 1.0
            self.loops()
            for replica in list(self.state.replicas.values()):
                self.truth(replica)
            self.check()
            if (before.replicas, before.deployments) == (self.state.replicas, self.state.deployments):
                if self.woken_by is None or self.woken_by > 300:
                    return
                self.now += self.woken_by
        raise AssertionError("it does not come to rest")


def healthy(state: Snapshot) -> list[Replica]:
    return [found for found in state.replicas.values() if found.healthy]


def served_slots(state: Snapshot) -> set[int]:
    """Return the slots with a healthy replica; one whose replica is being replaced may have two for a while."""
    return {found.slot for found in healthy(state)}


def live(state: Snapshot) -> list[Replica]:
    return [found for found in state.replicas.values() if found.state in LIVE]


def renewals(state: Snapshot) -> int:
    """Return how many newer replicas live beside the one they replace, but for those of drained nodes."""
    found = {replica.id: replica for replica in live(state)}
    return sum(
        replica.replaces in found
        and replica.generation > found[replica.replaces].generation
        and not drained(state, found[replica.replaces])
        for replica in found.values()
    )


def tolerated(web: Deployment) -> int:
    """Return how many replicas may fail without holding up an update that stops replicas first."""
    configs = (web.spec.update, web.spec.rollback)
    if any(config.failure_action == "continue" for config in configs):
        return web.spec.replicas
    forgiven = web.update.forgiven if web.update is not None else 0
    return forgiven + floor(web.spec.replicas * max(config.max_failure_ratio for config in configs))


def drained(state: Snapshot, replica: Replica) -> bool:
    if replica.move is not None:
        return True
    node = state.members.get(replica.node_id)
    return node is not None and node.scheduling is Scheduling.DRAINING


def present(state: Snapshot) -> int:
    """Return how many replicas live or are going for an update's sake; moves are another matter."""
    ids = {found.id for found in live(state)}
    stopping = [
        found
        for found in state.replicas.values()
        if found.state in (ReplicaState.LEAVING, ReplicaState.STOPPING)
        and found.reason is not None
        and found.reason.code == "Updating"
    ]
    return sum(found.replaces not in ids for found in live(state)) + len(stopping)


def bind(replica: Replica, node_id: str, ports: dict[str, int]) -> Replica:
    return msgspec.structs.replace(
        replica, node_id=node_id, host_ports=ports, address="10.0.0.1", state=ReplicaState.PLACED
    )


def serves_what_is_wanted(world: World) -> None:
    serving = healthy(world.state)
    assert len(serving) == world.web.spec.replicas
    assert all(world.web.wants(found.generation) for found in serving)
    assert all(found.ended for found in world.state.replicas.values() if not found.healthy)


def at_rest(world: World) -> None:
    for later in (0.0, 3600.0):
        assert reconcile(world.state, world.now + later, world.new_id).steps == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(COMMON + NODES), max_size=30), CONFIGS)
def test_whatever_happens_the_wanted_replicas_serve_in_the_end(
    seed: int, actions: list[str], config: UpdateConfig
) -> None:
    world = World(seed, config)
    for action in actions:
        world.act(action)
        status = world.web.update
        assert status is None or not status.rollback or status.reason.startswith("token:"), "a node's fault counted"
    world.settle()
    serves_what_is_wanted(world)
    assert world.web.update is None or not world.web.update.under_way
    at_rest(world)


# The first update is bad and paused, for there is no good one before it; then a replica of the old one has to move.
@example(0, ["loops", "agents", "deploy_bad", "send_away"], UpdateConfig(failure_action="rollback"))
@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(COMMON + NODES + FAULTS), max_size=40), CONFIGS)
def test_bad_versions_come_to_rest_and_go_back_where_that_is_asked_for(
    seed: int, actions: list[str], config: UpdateConfig
) -> None:
    world = World(seed, config)
    for action in actions:
        world.act(action)
    world.settle()
    status = world.web.update
    works = world.web.spec.container.image.startswith("shop")
    if works and (status is None or not status.under_way):
        serves_what_is_wanted(world)
    if status is not None and status.state is UpdateState.PAUSED:
        assert status.paused_because


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(("agents", "loops", "time", "drain")), max_size=30), CONFIGS)
def test_a_bad_version_after_a_good_one_goes_back_and_loses_nothing(
    seed: int, actions: list[str], config: UpdateConfig
) -> None:
    config = msgspec.structs.replace(config, failure_action="rollback", max_failure_ratio=0.0, order="start-first")
    world = World(seed, config)
    world.settle()
    world.deploy_bad()
    for action in actions:
        world.act(action)
        assert len(served_slots(world.state)) == 3, "the good version serves all the time"
    world.settle()
    status = world.web.update
    assert status is not None
    assert status.state is UpdateState.ROLLED_BACK
    assert world.web.spec.container == CONTAINER
    serves_what_is_wanted(world)
    at_rest(world)
