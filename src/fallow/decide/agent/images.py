"""Image tasks of a node: which pull or removal is begun or ended when, and what is told of it.

At most PULLS_AT_ONCE pulls run at a time, and all but one of them may be of tasks: what a replica waits for is pulled
first, and does not wait for a task's pull to end unless it is of the same image. Two pulls of one image never run
side by side, since Podman would download it twice. Times are UTC seconds since the epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from fallow.model.image_jobs import ImageAction, ImageOrder, TaskReport
from fallow.model.images import PlatformImage

PULLS_AT_ONCE = 3
TASK_PULLS_AT_ONCE = 2  # of these
OWN_TASK = "pressure"  # the agent's own, of which no control plane knows
REMEMBERED = 1000  # tasks that ended, so that their order coming again does not begin anew

_PULLS = (ImageAction.PULL, ImageAction.UPDATE, ImageAction.LOAD)


# events


@dataclass(frozen=True, kw_only=True, slots=True)
class TasksOrdered:
    """The control plane's orders; see SetImageTasks."""

    full: bool
    orders: tuple[ImageOrder, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaWaits:
    """A replica cannot start without an image -> one ReplicaAnswered. Without `image` any of that name will do."""

    ticket: int
    reference: str
    replica_id: str
    image: PlatformImage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PullEnded:
    """Answer to StartPull, after StopPull too. `report` says how, without a task's id and attempt."""

    flight: int
    report: TaskReport


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalEnded:
    """Answer to StartRemoval, after StopRemoval too. `report` as in PullEnded."""

    removal: int
    report: TaskReport


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptDue:
    """The time of a SetDeadline has come."""

    task_id: str
    attempt: int


Event = TasksOrdered | ReplicaWaits | PullEnded | RemovalEnded | AttemptDue


# instructions


@dataclass(frozen=True, kw_only=True, slots=True)
class StartPull:
    """Pull an image, on behalf of a replica or a task -> PullEnded. `loading`: it comes from a file, not a registry."""

    flight: int
    reference: str
    image: PlatformImage | None
    replica_id: str
    task_id: str
    stall_seconds: float
    loading: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StopPull:
    """Nobody waits for a pull any more."""

    flight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRemoval:
    """Delete or clean as an order says -> RemovalEnded."""

    removal: int
    order: ImageOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRemoval:
    """Delete nothing more."""

    removal: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDeadline:
    """Feed AttemptDue at the time `at`; one set before for the same task is forgotten."""

    task_id: str
    attempt: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TellEnded:
    """Tell the control plane that a task ended, until it says that it is stored."""

    report: TaskReport


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaAnswered:
    """What became of a replica's pull."""

    ticket: int
    report: TaskReport


Instruction = StartPull | StopPull | StartRemoval | StopRemoval | SetDeadline | TellEnded | ReplicaAnswered


@dataclass(slots=True)
class _Task:
    """An order and how far it has come."""

    order: ImageOrder
    begun: float
    flight: int = 0  # 0: a removal


@dataclass(slots=True)
class _Flight:
    """One pull, waiting for its turn or under way, and who waits for it, in order."""

    number: int
    reference: str
    image: PlatformImage | None
    loading: bool
    stall_seconds: float
    tasks: dict[str, None] = field(default_factory=dict)
    replicas: dict[int, str] = field(default_factory=dict)  # ticket -> replica id
    state: Literal["waiting", "running", "stopping"] = "waiting"

    @property
    def image_id(self) -> str:
        return self.image.image_id if self.image is not None else ""

    @property
    def wanted(self) -> bool:
        return bool(self.tasks or self.replicas)

    def serves(self, reference: str, image: PlatformImage | None) -> bool:
        """Say whether it is what somebody waits for who wants `image`, or whatever the name stands for."""
        if self.state == "stopping" or self.reference != reference:
            return False
        return image is None or self.image_id == image.image_id

    def collides(self, other: "_Flight") -> bool:
        """Say whether the two must not run side by side."""
        return self.reference == other.reference or (bool(self.image_id) and self.image_id == other.image_id)


class ImageMachine:
    """The state of a node's image tasks. Deterministic: no clock, no chance, no I/O."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._flights: dict[int, _Flight] = {}
        self._ended: dict[str, TaskReport] = {}  # by task id, oldest first
        self._removing: tuple[int, str] | None = None  # the removal under way, and its task, which may be gone
        self._last_number = 0
        self._out: list[Instruction] = []

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event and return what to do, in order."""
        self._out = []
        _HANDLERS[type(event)](self, event, now)
        self._begin_what_may()
        return self._out

    def tasks_of(self, flight: int) -> tuple[str, ...]:
        """Return the tasks that wait for a pull, for those who show its progress."""
        found = self._flights.get(flight)
        return tuple(found.tasks) if found is not None else ()

    @property
    def working(self) -> tuple[str, ...]:
        """Return the tasks that have not ended."""
        return tuple(self._tasks)

    # orders

    def _ordered(self, event: TasksOrdered, now: float) -> None:
        if event.full:
            named = {order.task_id for order in event.orders}
            for task_id in [id_ for id_ in self._tasks if id_ not in named and id_ != OWN_TASK]:
                self._drop(task_id)
        for task_id in event.cancelled:
            task = self._drop(task_id)
            if task is not None:
                self._tell(task, TaskReport(task_id="", attempt=0, state="cancelled", text="it was cancelled"), now)
        for order in event.orders:
            if order.task_id not in event.cancelled:
                self._take(order, now)

    def _take(self, order: ImageOrder, now: float) -> None:
        """Begin an order, unless it has been begun, or has ended; then say so once more.

        An attempt before the last one is begun too: the control plane was restored from a backup, and waits for it.
        """
        ended, task = self._ended.get(order.task_id), self._tasks.get(order.task_id)
        if task is not None:
            # Another attempt while one is at work: the work goes on, and is the one's that is waited for.
            if task.order.attempt != order.attempt:
                task.order, task.begun = order, now
                self._deadline(order, now)
            return
        if ended is not None and ended.attempt == order.attempt:
            self._out.append(TellEnded(report=ended))
            return
        task = self._tasks[order.task_id] = _Task(order, now)
        self._deadline(order, now)
        if order.action in _PULLS:
            flight = self._board(order.reference, order.image, order.action is ImageAction.LOAD, order.stall_seconds)
            flight.tasks[order.task_id] = None
            task.flight = flight.number

    def _deadline(self, order: ImageOrder, now: float) -> None:
        at = now + order.attempt_seconds
        self._out.append(SetDeadline(task_id=order.task_id, attempt=order.attempt, at=at))

    def _replica_waits(self, event: ReplicaWaits, _now: float) -> None:
        flight = self._board(event.reference, event.image, False, 0.0)
        flight.replicas[event.ticket] = event.replica_id

    def _board(self, reference: str, image: PlatformImage | None, loading: bool, stall_seconds: float) -> _Flight:
        for flight in self._flights.values():
            if flight.serves(reference, image):
                return flight
        self._last_number += 1
        flight = _Flight(self._last_number, reference, image, loading, stall_seconds)
        self._flights[flight.number] = flight
        return flight

    def _drop(self, task_id: str) -> _Task | None:
        """Stop working for a task; others may still wait for the same pull."""
        task = self._tasks.pop(task_id, None)
        if task is None:
            return None
        if self._removing is not None and self._removing[1] == task_id:
            self._removing = (self._removing[0], "")
            self._out.append(StopRemoval(removal=self._removing[0]))
        flight = self._flights.get(task.flight)
        if flight is not None:
            flight.tasks.pop(task_id, None)
            if not flight.wanted and flight.state == "running":
                flight.state = "stopping"
                self._out.append(StopPull(flight=flight.number))
            elif not flight.wanted and flight.state == "waiting":
                del self._flights[flight.number]
        return task

    def _due(self, event: AttemptDue, now: float) -> None:
        task = self._tasks.get(event.task_id)
        if task is None or task.order.attempt != event.attempt:
            return
        self._drop(event.task_id)
        text = f"not done within {task.order.attempt_seconds:g} s"
        self._tell(task, TaskReport(task_id="", attempt=0, state="failed", kind="timeout", text=text), now)

    # outcomes

    def _pull_ended(self, event: PullEnded, now: float) -> None:
        flight = self._flights.pop(event.flight, None)
        if flight is None:
            return
        for task_id in flight.tasks:
            self._tell(self._tasks.pop(task_id), event.report, now)
        self._out += [ReplicaAnswered(ticket=ticket, report=event.report) for ticket in flight.replicas]

    def _removal_ended(self, event: RemovalEnded, now: float) -> None:
        if self._removing is None or self._removing[0] != event.removal:
            return
        task = self._tasks.pop(self._removing[1], None)
        self._removing = None
        if task is not None:
            self._tell(task, event.report, now)

    def _tell(self, task: _Task, report: TaskReport, now: float) -> None:
        order = task.order
        told = msgspec.structs.replace(
            report, task_id=order.task_id, attempt=order.attempt, seconds=max(0.0, now - task.begun)
        )
        self._ended.pop(order.task_id, None)
        self._ended[order.task_id] = told
        while len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._out.append(TellEnded(report=told))

    # turns

    def _begin_what_may(self) -> None:
        self._begin_pulls([flight for flight in self._flights.values() if flight.replicas], PULLS_AT_ONCE)
        self._begin_pulls(list(self._flights.values()), TASK_PULLS_AT_ONCE)
        if self._removing is None:
            waiting = [task for task in self._tasks.values() if not task.flight]
            for task in waiting[:1]:
                self._last_number += 1
                self._removing = (self._last_number, task.order.task_id)
                self._out.append(StartRemoval(removal=self._last_number, order=task.order))

    def _begin_pulls(self, flights: list[_Flight], limit: int) -> None:
        for flight in flights:
            under_way = [other for other in self._flights.values() if other.state != "waiting"]
            if len(under_way) >= limit:
                return
            if flight.state == "waiting" and not any(flight.collides(other) for other in under_way):
                flight.state = "running"
                self._out.append(
                    StartPull(
                        flight=flight.number,
                        reference=flight.reference,
                        image=flight.image,
                        replica_id=next(iter(flight.replicas.values()), ""),
                        task_id=next(iter(flight.tasks), ""),
                        stall_seconds=flight.stall_seconds,
                        loading=flight.loading,
                    )
                )

    def check_invariants(self) -> None:
        """Raise AssertionError when the state is one that must never be."""
        under_way = [flight for flight in self._flights.values() if flight.state != "waiting"]
        assert len(under_way) <= PULLS_AT_ONCE
        for number, flight in enumerate(under_way):
            assert not any(flight.collides(other) for other in under_way[:number]), "two pulls of one image"
        for flight in self._flights.values():
            assert flight.wanted or flight.state == "stopping", "a pull nobody waits for"
            for task_id in flight.tasks:
                assert self._tasks[task_id].flight == flight.number
        for task in self._tasks.values():
            assert not task.flight or task.flight in self._flights, "a task whose pull is gone"


_HANDLERS: dict[type, Callable[[ImageMachine, Any, float], None]] = {
    TasksOrdered: ImageMachine._ordered,
    ReplicaWaits: ImageMachine._replica_waits,
    PullEnded: ImageMachine._pull_ended,
    RemovalEnded: ImageMachine._removal_ended,
    AttemptDue: ImageMachine._due,
}
