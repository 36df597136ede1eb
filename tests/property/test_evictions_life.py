"""Servers whose primaries come and go, and all that is decided about what they lent: what must hold, always holds."""

from collections import Counter
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from lent_cases import MIB, a_report, a_server, a_vm
from records import NOW, deployment, following, ids, member, replica, snapshot, template

from fallow.decide.deployments import reconcile
from fallow.decide.harvest.evict import evict
from fallow.decide.harvest.heard import HeardServer
from fallow.decide.harvest.redated import lending_redated, moves_redated
from fallow.decide.placement import fits, place
from fallow.decide.placement.result import Binding
from fallow.decide.plan import Plan
from fallow.decide.replicas import observe
from fallow.decide.routes import withdrawn
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import (
    Activity,
    DeploymentSpec,
    Health,
    Observation,
    PlacementPolicy,
    Replica,
    ReplicaState,
)
from fallow.model.events import Event
from fallow.model.members import Facts, Scheduling
from fallow.model.meta import Reason
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending
from fallow.model.vms import VmUse

LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
CPUS, CEILING, ASKED = 8.0, 0.8, 0.5
BACKOFF, MOVE = 60.0, 20.0
APART = 5.0  # so far clocks may be apart
SERVERS = ("a", "b", "c")


class World:
    """Three servers with a virtual machine or two each, perhaps a node of their own, and two deployments."""

    def __init__(self, seed: int, own_cpus: float) -> None:
        self.chance = Random(seed)
        self.now = NOW
        self.new_id = ids()
        self.serial = 0
        self.primary = dict.fromkeys(SERVERS, 0.5)
        self.silent: set[str] = set()
        self.sent_away: Counter[str] = Counter()
        self.peaks = 0
        facts = Facts(cpus=4.0, memory_bytes=2**40, architecture="amd64")
        vms = [(number, SERVERS[number % 3]) for number in range(4)]
        records: list[Any] = [a_server(name) for name in SERVERS]
        records += [a_vm(number, name, f"n-v{number}", cpus=4.0) for number, name in vms]
        records += [member(f"v{number}", facts=facts) for number, _ in vms]
        records += [member("own", facts=msgspec.structs.replace(facts, cpus=own_cpus))]
        policy = LendingPolicy(backoff_seconds=BACKOFF, move_seconds=MOVE, cpu_ceiling=CEILING)
        records += [ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=policy)]
        for name, class_ in (("web", "harvest"), ("bulk", "spot")):
            container = ContainerSpec(image="shop:1", resources=Resources(cpus=ASKED, memory_bytes=64 * MIB))
            placement = PlacementPolicy(service_class=class_)  # type: ignore[arg-type]
            of = deployment(name, spec=DeploymentSpec(replicas=5, container=container, placement=placement))
            records += [of, template(of)]
        self.state = snapshot(*records)

    # what servers say

    def on(self, name: str) -> list[Replica]:
        nodes = [vm.node_id for vm in self.state.vms.values() if vm.server_id == f"s-{name}"]
        return [found for id_ in nodes for found in self.state.replicas_by_node.get(id_, ())]

    def heard(self) -> dict[str, HeardServer]:
        found = {}
        for name in SERVERS:
            running = [each for each in self.on(name) if each.state is not ReplicaState.PLACED]
            asked, limit = ASKED * len(self.on(name)), max(0.1, CPUS * CEILING - self.primary[name])
            used = min(limit, 0.9 * ASKED * len(running))
            lending = self.state.lendings.get(f"s-{name}")
            report = a_report(
                cpus=CPUS, memory_bytes=2**40, offer_memory_bytes=2**40, primary_cpus=self.primary[name],
                lent_cpus=used, offer_cpus=max(0.0, 0.65 * CPUS - self.primary[name]),
                relief_cpus=max(0.0, asked - limit / 0.8) if limit < 0.6 * asked else 0.0,
                lends=not (lending is not None and lending.closed),
                vms=tuple(VmUse(vm_id=vm.id, state="running") for vm in self.state.vms.values()),
            )  # fmt: skip
            found[f"s-{name}"] = HeardServer(report=report, age_seconds=9.0 if name in self.silent else 0.5)
        return found

    # what happens

    def act(self, action: str) -> None:
        getattr(self, action)(self.chance.choice(SERVERS))
        for _ in range(self.chance.choice((1, 3, 12))):
            self.second()

    def peak(self, name: str) -> None:
        self.primary[name] = self.chance.choice((5.0, 6.0, 6.4, 8.0))
        self.peaks += 1

    def calm(self, name: str) -> None:
        self.primary[name] = self.chance.choice((0.2, 1.0))

    def falls_silent(self, name: str) -> None:
        self.silent.add(name)

    def speaks(self, name: str) -> None:
        self.silent.discard(name)

    def drain(self, name: str) -> None:
        self.write([msgspec.structs.replace(self.state.members[f"s-{name}"], scheduling=Scheduling.DRAINING)])

    def shuts_down(self, name: str) -> None:
        self.close(name, "it shuts down")

    def opens(self, name: str) -> None:
        self.write([msgspec.structs.replace(self.state.members[f"s-{name}"], scheduling=Scheduling.ACTIVE)])
        self.close(name, "")

    def clock_set_back(self, _: str) -> None:
        self.now -= self.chance.choice((2.0, 15.0, 3600.0, 86400.0))

    def close(self, name: str, why: str) -> None:
        before = self.state.lendings.get(f"s-{name}") or Lending(id=f"s-{name}", created_at=NOW, updated_at=NOW)
        self.write([msgspec.structs.replace(before, closed=why)])

    # what is decided

    def second(self) -> None:
        self.now += 1.0
        self.evictions()
        self.decided(reconcile(self.state, self.now, self.new_id))
        self.place()
        self.decided(withdrawn(self.state, {}, self.now, {}))
        for found in list(self.state.replicas.values()):
            if self.chance.random() < 0.6:
                self.told(found)
        self.check()

    def evictions(self) -> None:
        plan = evict(self.state, self.heard(), self.now, self.new_id)
        for step in plan.steps:
            moved = [found for found in step.puts if isinstance(found, Replica) and found.move is not None]
            for found in moved:
                before = self.state.replicas[found.id]
                assert before.state in (ReplicaState.PLACED, ReplicaState.RUNNING)
                anew = before.move_by > self.now + MOVE  # its moment lies too far ahead: the clock was set back
                assert not (before.move is not None and before.move_by) or anew, "the same replica twice"
                assert not found.move_by or self.now <= found.move_by <= self.now + MOVE
            backing = [found for found in step.puts if isinstance(found, Lending)]
            self.sent_away.update(found.id for found in backing)
            assert all(found.backoff_until >= self.now + BACKOFF for found in backing)
        self.write([record for step in plan.steps for record in step.puts])
        for backing in self.state.lendings.values():
            assert backing.backoff_until <= self.now + BACKOFF + APART, "it backs off for longer than its policy says"
        for moving in live(self.state):
            assert moving.move_by <= self.now + MOVE + APART, "a move waits for longer than the policy says"
        again = evict(self.state, self.heard(), self.now, self.new_id)
        assert again.steps == [], "what is decided stays so while nothing changes"

    def decided(self, plan: Plan) -> None:
        served = serving(self.state)
        due = {
            slot_of(found) for found in live(self.state)
            if found.move is not None and 0 < found.move_by <= self.now
        }  # fmt: skip
        self.write([record for step in plan.steps for record in step.puts])
        assert served - due <= serving(self.state), "what serves stays until another does, or its time is up"

    def place(self) -> None:
        servers = self.heard()
        for found in place(self.state, self.now, None, servers).bindings:
            self.bind(found, servers)

    def bind(self, found: Binding, servers: dict[str, HeardServer]) -> None:
        assert fits(self.state, found, None, servers, self.now) is None
        vm = self.state.vms_by_node.get(found.node_id)
        lending = self.state.lendings.get(vm.server_id) if vm is not None else None
        assert lending is None or (lending.backoff_until <= self.now and not lending.closed), "straight back"
        assert vm is None or vm.server_id.removeprefix("s-") not in self.silent
        bound = msgspec.structs.replace(
            self.state.replicas[found.replica_id], node_id=found.node_id, address="10.0.0.1",
            state=ReplicaState.PLACED, state_since=self.now,
        )  # fmt: skip
        self.write([bound])

    def told(self, of: Replica) -> None:
        if of.state not in (ReplicaState.PLACED, ReplicaState.RUNNING, ReplicaState.STOPPING):
            return
        stops = of.state is ReplicaState.STOPPING
        self.serial += 1
        seen = Observation(
            replica_id=of.id, serial=self.serial, started=True, at=self.now,
            activity=Activity.STOPPED if stops else Activity.RUNNING,
            health=Health.UNKNOWN if stops else Health.HEALTHY,
        )  # fmt: skip
        after = observe(of, seen, self.now)
        if after is not None:
            self.write([after])

    def write(self, records: Any) -> None:
        kept = [found for found in records if not isinstance(found, Event)]
        if kept:
            self.state = following(self.state, kept)

    def check(self) -> None:
        ids_ = {found.id for found in live(self.state)}
        owners = Counter(slot_of(found) for found in live(self.state) if found.replaces not in ids_)
        assert all(count == 1 for count in owners.values()), "a slot has two owners"
        late = [
            found for found in live(self.state)
            if found.move is not None and 0 < found.move_by < self.now - 1 and found.node_id
        ]  # fmt: skip
        assert not late, "its time was up"

    def settle(self) -> None:
        for name in SERVERS:
            self.opens(name)
            self.primary[name] = 0.2
        self.silent.clear()
        for _ in range(int(BACKOFF) + 30):
            self.second()


def live(state: Snapshot) -> list[Replica]:
    return [found for found in state.replicas.values() if found.state in LIVE]


def slot_of(replica: Replica) -> tuple[str, int]:
    return replica.deployment_id, replica.slot


def serving(state: Snapshot) -> set[tuple[str, int]]:
    return {slot_of(found) for found in state.replicas.values() if found.healthy}


ACTIONS = ("peak", "peak", "calm", "falls_silent", "speaks", "drain", "shuts_down", "opens", "opens", "clock_set_back")


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ACTIONS), max_size=12), st.sampled_from([1.0, 8.0]))
def test_whatever_servers_need_back(seed: int, actions: list[str], own_cpus: float) -> None:
    world = World(seed, own_cpus)
    for action in actions:
        world.act(action)
    world.settle()
    assert len(serving(world.state)) == 10
    assert all(found.move is None for found in live(world.state))
    before = {found.id for found in live(world.state)}
    for _ in range(20):
        world.second()
    assert {found.id for found in live(world.state)} == before, "nothing moves any more"


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.floats(5.0, 8.0), st.sampled_from([1.0, 8.0]))
def test_a_peak_that_stays_is_answered_once(seed: int, peak: float, own_cpus: float) -> None:
    """A server whose primary needs more from now on sends just enough away, and gets nothing it could not hold."""
    world = World(seed, own_cpus)
    for _ in range(20):
        world.second()
    world.primary["a"] = peak
    held = len(world.on("a"))
    for _ in range(100):
        world.second()
        served = {slot for id_, slot in serving(world.state) if id_ == "d-web"}
        assert len(served) == 5 or own_cpus < 8, "where there is room, harvest replicas are replaced before they stop"
    assert world.sent_away["s-a"] <= 1 if held else not world.sent_away["s-a"]
    assert len(world.on("a")) * ASKED <= max(0.1, CPUS * CEILING - peak) / 0.6 + 1e-9


@given(
    st.lists(st.tuples(st.floats(0.0, 2 * BACKOFF), st.floats(0.0, 1e6)), max_size=5),
    st.booleans(),
)
def test_a_clock_that_is_set_back_begins_a_wait_anew_at_most(jumps: list[tuple[float, float]], moves: bool) -> None:
    """A back-off, or a move, is looked at each second; after some seconds each time the clock is set back."""
    seconds = MOVE if moves else BACKOFF
    policy = LendingPolicy(backoff_seconds=BACKOFF, move_seconds=MOVE)
    clock, waited = 1e7, 0.0
    until = clock + seconds

    def look() -> None:
        nonlocal until
        if moves:
            waits = replica(deployment(), move=Reason(code="ServerNeeds", text=""), move_by=until)
            until = next((found.move_by for found in moves_redated([waits], policy, clock)), until)
        else:
            backing = Lending(id="s-a", created_at=NOW, updated_at=NOW, backoff_until=until)
            found = lending_redated(backing, policy, clock)
            until = found.backoff_until if found is not None else until

    for after, back in jumps:
        if after >= until - clock:
            break
        clock, waited = clock + after - back, waited + after
        look()
        assert clock < until <= clock + seconds + APART, "it has neither ended for that, nor become longer"
        before = until
        look()
        assert until == before, "once is enough"
    assert waited + until - clock <= (len(jumps) + 1) * (seconds + APART)
