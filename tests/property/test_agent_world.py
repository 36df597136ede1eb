"""The agent's state machine in a world that fails at will: nothing forbidden ever happens, and all ends well."""

from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fallow.decide.agent import AgentMachine
from fallow.decide.agent import messages as m
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec
from fallow.model.deployments import Activity, Health
from fallow.model.wire import Assignment

IDS = ("a", "b", "c", "d")
KINDS = ("failed", "unreachable", "port-in-use", "not-found", "denied", "conflict", "no-space")
SPEC_KINDS = {
    "a": ContainerSpec(image="one", ports=(PortSpec(container=80),), health=HealthCheck(kind="tcp")),
    "b": ContainerSpec(image="one"),
    "c": ContainerSpec(image="two", health=HealthCheck(kind="command", command=("true",), start_period_seconds=3.0)),
    "d": ContainerSpec(image="two", ports=(PortSpec(container=80),), health=HealthCheck(kind="http", retries=1)),
}


def assignment(id_, run):
    return Assignment(replica_id=id_, deployment="default/x", generation=1, run=run, container=SPEC_KINDS[id_])


class World:
    """An engine, a clock and a control plane around one machine. Asserts what must hold at every step."""

    def __init__(self):
        self.machine = AgentMachine()
        self.now = 1000.0
        self.pending = []
        self.timers = {}
        self.containers = {}
        self.made = 0
        self.wishes = {}
        self.stopped = set()
        self.ever_told = False
        self.journal = None
        self.serials = {}
        self.told = {}
        self.connect()

    # the machine

    def feed(self, event):
        self.now += 0.002
        for order in self.machine.handle(event, self.now):
            self.take(order)
        self.machine.check_invariants()

    def take(self, order):
        match order:
            case m.SetTimer():
                self.timers[order.key] = order
            case m.Report():
                for seen in order.observations:
                    assert seen.serial > self.serials.get(seen.replica_id, 0)
                    self.serials[seen.replica_id] = seen.serial
                    self.told[seen.replica_id] = seen
            case m.SaveJournal():
                self.journal = order
            case m.Warn():
                pass
            case _:
                self.check(order)
                self.pending.append(order)

    def check(self, order):
        if isinstance(order, m.StartContainer):
            id_ = order.assignment.replica_id
            assert self.wishes.get(id_), f"{id_} is started though it should not run"
            assert id_ not in self.stopped
            assert self.journal is not None and id_ in {kept.replica_id for kept in self.journal.assignments}
        if isinstance(order, m.StopContainer | m.RemoveContainer):
            assert self.ever_told
            fact = self.containers.get(order.replica_id)
            if isinstance(order, m.RemoveContainer) and fact is not None and fact.id == order.container_id:
                assert fact.status == "exited", "removed without being stopped"
        operations = (m.StartContainer, m.StopContainer, m.RemoveContainer)
        if isinstance(order, operations):
            assert not [
                other for other in self.pending if isinstance(other, operations) and subject(other) == subject(order)
            ]
        if isinstance(order, m.FindImage | m.PullImage):
            assert not [
                other
                for other in self.pending
                if isinstance(other, m.FindImage | m.PullImage)
                and (other.reference, other.pin) == (order.reference, order.pin)
            ]
        if isinstance(order, m.Probe):
            assert not [other for other in self.pending if isinstance(other, m.Probe) and other.serial == order.serial]

    # the control plane

    def connect(self):
        self.feed(m.EngineBack())

    def assign(self, full, ids_run):
        for id_, asked in ids_run:
            # a control plane never changes its mind about a replica it has stopped
            self.wishes[id_] = asked and id_ not in self.stopped
            if not self.wishes[id_]:
                self.stopped.add(id_)
        if full:
            named = {id_ for id_, _ in ids_run}
            self.wishes = {id_: run for id_, run in self.wishes.items() if id_ in named}
            self.ever_told = True
        self.feed(m.Assigned(full=full, assignments=tuple(assignment(id_, self.wishes[id_]) for id_, _ in ids_run)))

    def remove(self, id_):
        self.wishes.pop(id_, None)
        if self.ever_told or self.journal is not None:
            self.feed(m.Assigned(full=False, removed=(id_,)))

    # the engine

    def answer(self, index, kind):
        """Carry out one pending instruction, out of order perhaps; with a `kind` it fails."""
        order = self.pending.pop(index % len(self.pending))
        self.feed(self.carry_out(order, kind))

    def carry_out(self, order, kind):
        match order:
            case m.FindImage(reference=reference, pin=pin):
                return m.ImageMissing(reference=reference, pin=pin)
            case m.PullImage(reference=reference, pin=pin):
                failed = m.ImageFailed(reference=reference, pin=pin, kind=kind, text=kind)
                return failed if kind else m.ImageReady(reference=reference, pin=pin)
            case m.StartContainer():
                return self.start(order, kind)
            case m.StopContainer(replica_id=id_) | m.RemoveContainer(replica_id=id_):
                return self.end(order, kind, id_)
        return self.look(order, kind)

    def look(self, order, kind):
        if isinstance(order, m.ListContainers):
            listed = m.EngineListed(mark=order.mark, containers=tuple(self.containers.values()))
            return m.ListFailed(mark=order.mark, text=kind) if kind else listed
        id_ = order.replica_id
        fact = self.containers.get(id_)
        if isinstance(order, m.InspectContainer):
            found = fact if fact is not None and fact.id == order.container_id else None
            seen = m.ContainerSeen(replica_id=id_, container_id=order.container_id, mark=order.mark, container=found)
            return m.InspectFailed(replica_id=id_) if kind else seen
        good = not kind and fact is not None and fact.status == "running"
        outcome = "ok" if good else ("unknown" if kind == "unreachable" else "failed")
        return m.ProbeResult(replica_id=id_, serial=order.serial, outcome=outcome, text="no")

    def start(self, order, kind):
        id_ = order.assignment.replica_id
        if kind in ("", "unreachable"):
            fact = self.containers.get(id_)
            if fact is None:
                self.made += 1
                fact = m.ContainerFact(id=f"c{self.made}", replica_id=id_, spec_hash=order.spec_hash, status="created")
            assert fact.spec_hash == order.spec_hash
            self.containers[id_] = replace(fact, status="running", started_at=self.now)
        if kind:
            return m.StartFailed(replica_id=id_, kind=kind, text=kind)
        return m.ContainerStarted(replica_id=id_, container=self.containers[id_])

    def end(self, order, kind, id_):
        if kind:
            return m.StopFailed(replica_id=id_, kind=kind, text=kind)
        fact = self.containers.get(id_)
        if fact is not None and fact.id == order.container_id:
            if isinstance(order, m.RemoveContainer):
                del self.containers[id_]
                return m.ContainerRemoved(replica_id=id_)
            self.containers[id_] = replace(fact, status="exited", exit_code=143)
        return (
            m.ContainerRemoved(replica_id=id_)
            if isinstance(order, m.RemoveContainer)
            else m.ContainerStopped(replica_id=id_)
        )

    def crash(self, id_, told, vanish):
        """End a container by itself; the engine may forget to say so."""
        fact = self.containers.get(id_)
        if fact is None:
            return
        if vanish:
            del self.containers[id_]
        else:
            self.containers[id_] = replace(fact, status="exited", exit_code=1)
        if told:
            self.feed(m.ContainerChanged(replica_id=id_, container_id=fact.id))

    def restart_agent(self):
        """Kill the agent: what it had in mind and under way is lost, the engine and the journal stay."""
        self.machine = AgentMachine()
        self.pending = []
        self.timers = {}
        if self.journal is not None:
            self.ever_told = True
            self.feed(
                m.JournalLoaded(
                    assignments=self.journal.assignments, failed=self.journal.failed, serial=self.journal.serial
                )
            )
        self.connect()

    def fire(self, index):
        keys = sorted(self.timers)
        if keys:
            timer = self.timers.pop(keys[index % len(keys)])
            self.now = max(self.now, timer.at)
            self.feed(m.TimerFired(key=timer.key, serial=timer.serial))

    def settle(self):
        """Answer everything well, in order, and let time pass, until it is as wished."""
        self.connect()
        for _ in range(600):
            if self.pending:
                self.answer(0, "")
            elif self.settled():
                return
            else:
                first = min(self.timers.values(), key=lambda timer: timer.at)
                del self.timers[first.key]
                self.now = max(self.now, first.at)
                self.feed(m.TimerFired(key=first.key, serial=first.serial))
        raise AssertionError(f"not settled: {self.told}, {self.containers}, {self.wishes}")

    def settled(self):
        for id_, run in self.wishes.items():
            seen = self.told.get(id_)
            good = (Activity.RUNNING, Health.HEALTHY) if run else (Activity.STOPPED, Health.UNKNOWN)
            if seen is None or (seen.activity, seen.health) != good:
                return False
        running = {id_ for id_, fact in self.containers.items() if fact.status == "running"}
        return running == set(self.containers) == {id_ for id_, run in self.wishes.items() if run}


def subject(order):
    return order.assignment.replica_id if isinstance(order, m.StartContainer) else order.replica_id


ids = st.sampled_from(IDS)
index = st.integers(0, 7)
maybe = st.booleans()
steps = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), index, st.sampled_from(("", "", "", *KINDS))),
        st.tuples(st.just("answer"), index, st.just("")),
        st.tuples(
            st.just("assign"), maybe, st.lists(st.tuples(ids, maybe), max_size=4, unique_by=lambda pair: pair[0])
        ),
        st.tuples(st.just("remove"), ids),
        st.tuples(st.just("fire"), index),
        st.tuples(st.just("crash"), ids, maybe, maybe),
        st.tuples(st.just("restart")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("back")),
    ),
    max_size=60,
)


def play(world, script):
    for name, *rest in script:
        match name:
            case "answer":
                if world.pending:
                    world.answer(*rest)
            case "assign":
                world.assign(*rest)
            case "remove":
                world.remove(*rest)
            case "fire":
                world.fire(*rest)
            case "crash":
                world.crash(*rest)
            case "restart":
                world.restart_agent()
            case "lose":
                world.feed(m.EngineLost(text="gone"))
            case "back":
                world.connect()


@settings(max_examples=150, deadline=None)
@example([("answer", 0, ""), ("answer", 0, ""), ("answer", 1, ""), ("assign", True, []), ("lose",)])
@given(steps)
def test_nothing_forbidden_happens_and_all_ends_as_wished(script):
    world = World()
    world.assign(True, [("a", True), ("b", True), ("c", True)])
    play(world, script)
    world.assign(True, sorted(world.wishes.items()))
    world.settle()


@settings(max_examples=60, deadline=None)
@given(steps)
def test_without_a_journal_or_full_assignment_no_container_is_touched(script):
    world = World()
    for id_ in IDS:
        world.containers[id_] = m.ContainerFact(id=f"old-{id_}", replica_id=id_, spec_hash="old", status="running")
    before = dict(world.containers)
    play(world, [step for step in script if step[0] in ("answer", "fire", "restart", "lose", "back")])
    assert world.containers == before
