"""Image tasks of a node in any order of events: what must never be, and that everything comes to an end."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fallow.decide.agent import images as m
from fallow.model.image_jobs import ImageAction, ImageOrder, TaskReport
from fallow.model.images import Blob, PlatformImage

REFERENCES = ("reg.test/a:1", "reg.test/b:1", "reg.test/c:1", "reg.test/d:1")
TASKS = tuple(f"job{number}.n" for number in range(8))


def image(number):
    digest = f"sha256:{number:064x}"
    return PlatformImage(platform="linux/amd64", manifest=Blob(digest=digest, size_bytes=1), image_id=digest)


IMAGES = (None, image(1), image(2))


def instruction(number, attempt):
    """What a task is to do does not change from one attempt to the next."""
    return ImageOrder(
        task_id=TASKS[number],
        attempt=attempt,
        action=list(ImageAction)[number % 5],
        reference=REFERENCES[number % 3],
        image=IMAGES[number // 3],
    )


wishes = st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=4, unique_by=lambda wish: wish[0])


class Node(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.machine = m.ImageMachine()
        self.now = 1000.0
        self.pulls = {}
        self.removals = {}
        self.deadlines = {}
        self.replicas = set()
        self.told = {}  # task and attempt -> how it ended
        self.open = {}  # task -> newest order that has not ended
        self.attempts = {}
        self.ticket = 0

    def feed(self, event):
        self.now += 0.1
        for order in self.machine.handle(event, self.now):
            self.take(order)

    def take(self, order):
        match order:
            case m.StartPull():
                for other in self.pulls.values():
                    assert other.reference != order.reference
                    assert other.image is None or order.image is None or other.image != order.image
                if not order.replica_id:
                    assert len(self.pulls) < m.TASK_PULLS_AT_ONCE
                assert len(self.pulls) < m.PULLS_AT_ONCE
                self.pulls[order.flight] = order
            case m.StopPull():
                assert order.flight in self.pulls
            case m.StartRemoval():
                assert not self.removals
                self.removals[order.removal] = order
            case m.StopRemoval():
                assert order.removal in self.removals
            case m.SetDeadline():
                self.deadlines[order.task_id] = order
            case m.TellEnded(report=report):
                key = (report.task_id, report.attempt)
                assert self.told.setdefault(key, report) == report, "one attempt ended in two ways"
                self.open.pop(report.task_id, None)
            case m.ReplicaAnswered(ticket=ticket):
                self.replicas.remove(ticket)  # once

    @rule(wishes=wishes, full=st.booleans())
    def order(self, wishes, full):
        for number, again in wishes:
            self.attempts[number] = self.attempts.get(number, 1) + again  # they never go back
        wanted = [instruction(number, self.attempts[number]) for number, _ in wishes]
        if full:
            self.open = {}
        for order in wanted:
            before = self.open.get(order.task_id)
            ended = max([attempt for task, attempt in self.told if task == order.task_id], default=0)
            if order.attempt > ended and (before is None or before.attempt < order.attempt):
                self.open[order.task_id] = order
        self.feed(m.TasksOrdered(full=full, orders=tuple(wanted)))

    @rule(task=st.sampled_from(TASKS))
    def cancel(self, task):
        self.feed(m.TasksOrdered(full=False, cancelled=(task,)))
        assert task not in self.open

    @rule(reference=st.sampled_from(REFERENCES), wanted=st.sampled_from(IMAGES))
    def wait(self, reference, wanted):
        self.ticket += 1
        self.replicas.add(self.ticket)
        self.feed(m.ReplicaWaits(ticket=self.ticket, reference=reference, replica_id="r", image=wanted))

    @precondition(lambda self: self.pulls)
    @rule(number=st.integers(0, 9), state=st.sampled_from(["done", "failed", "cancelled"]))
    def end_pull(self, number, state):
        flight = sorted(self.pulls)[number % len(self.pulls)]
        del self.pulls[flight]
        self.feed(m.PullEnded(flight=flight, report=TaskReport(task_id="", attempt=0, state=state)))

    @precondition(lambda self: self.removals)
    @rule()
    def end_removal(self):
        removal, _ = self.removals.popitem()
        self.feed(m.RemovalEnded(removal=removal, report=TaskReport(task_id="", attempt=0, state="done")))

    @precondition(lambda self: self.deadlines)
    @rule(number=st.integers(0, 9))
    def come_due(self, number):
        task = sorted(self.deadlines)[number % len(self.deadlines)]
        due = self.deadlines.pop(task)
        self.now = max(self.now, due.at)
        self.feed(m.AttemptDue(task_id=task, attempt=due.attempt))

    @invariant()
    def nothing_forbidden(self):
        self.machine.check_invariants()
        assert set(self.machine.working) == set(self.open)
        if self.replicas:
            assert self.pulls, "a replica waits and nothing is pulled"
        if any(order.action in (ImageAction.DELETE, ImageAction.CLEAN) for order in self.open.values()):
            assert self.removals

    def teardown(self):
        """Everything under way ends well: then every order has ended, and every replica was answered."""
        for _ in range(100):
            if self.pulls:
                self.end_pull(0, "done")
            elif self.removals:
                self.end_removal()
        assert not self.open
        assert not self.replicas
        assert not self.machine.working


Node.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestImageMachine = Node.TestCase


def test_an_attempt_before_the_last_one_is_begun_for_a_control_plane_that_was_restored():
    machine = m.ImageMachine()
    for attempt in (1, 2):
        (flight,) = [
            order.flight
            for order in machine.handle(m.TasksOrdered(full=False, orders=(instruction(0, attempt),)), 1.0)
            if isinstance(order, m.StartPull)
        ]
        state = "failed" if attempt == 1 else "done"
        machine.handle(m.PullEnded(flight=flight, report=TaskReport(task_id="", attempt=0, state=state)), 2.0)
    again = machine.handle(m.TasksOrdered(full=True, orders=(instruction(0, 1),)), 3.0)
    (flight,) = [order.flight for order in again if isinstance(order, m.StartPull)]
    ended = machine.handle(m.PullEnded(flight=flight, report=TaskReport(task_id="", attempt=0, state="done")), 4.0)
    assert [(order.report.attempt, order.report.state) for order in ended] == [(1, "done")]
