"""What comes next for one replica: towards running, or towards stopped. At most one operation at a time for each."""

import math

from fallow.decide.agent.flights import Flight, FlightKey, flight_key
from fallow.decide.agent.messages import (
    ContainerFact,
    FindImage,
    InspectContainer,
    Instruction,
    ListContainers,
    Probe,
    RemoveContainer,
    SetTimer,
    StartContainer,
    StopContainer,
    TimerKey,
)
from fallow.decide.agent.replica import UNENDED, Run, Wish, ending, refusal, restart_delay, retry_delay
from fallow.model.deployments import Activity

LIST_KEY: TimerKey = ("list", "")
RELIST_SECONDS = 1.0


class Steps:
    """The state of the machine, and the moves that every event has in common."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._flights: dict[FlightKey, Flight] = {}
        self._unclaimed: dict[str, ContainerFact] = {}  # containers seen that no assignment names, by replica id
        self._timers: dict[TimerKey, int] = {}
        self._dirty: dict[str, Run] = {}  # replicas about which there may be something new to report
        self._out: list[Instruction] = []
        self._tick = 0  # events taken in
        self._last_timer = 0  # serial of the newest timer or probe
        self._listing = 0  # mark of the listing under way, 0 when there is none
        self._listed = False  # the engine answers, and its containers are known
        self._informed = False  # wishes are known, so that a container without one may go
        self._unsaved = False
        self._trouble = ""  # the engine's, for people
        self._serial_floor = 0  # every observation's serial is above it
        self._risen = False  # the floor is above every serial of the agent's earlier runs
        self._newest_serial = 0
        self._awaiting_ports: dict[str, None] = {}  # replicas that wait until others have let go of a host port

    def _step(self, run: Run, now: float) -> None:
        """Do the next thing for a replica, if anything can be done now; calling it once too often does no harm."""
        self._dirty[run.id] = run
        if run.wish is not Wish.RUN:
            self._leave_flight(run)
        if run.busy or not self._listed:
            return
        if run.wish is not Wish.RUN or run.replace:
            self._step_down(run, now)
        elif run.phase in UNENDED:
            self._step_up(run, now)

    def _step_up(self, run: Run, now: float) -> None:
        if now < run.not_before:
            return
        if run.container is not None:
            self._start(run)
        else:
            self._want_image(run)

    def _step_down(self, run: Run, now: float) -> None:
        if run.phase is Activity.STOPPED and run.container is None and run.wish is Wish.STOP:
            return
        if run.wish is not Wish.RUN and run.phase is not Activity.STOPPING:
            run.phase = Activity.STOPPING
            run.message = ""
            run.completed = False
            run.tries = 0
            run.not_before = 0.0
            self._quiet(run)
        if now < run.not_before:
            return
        if run.container is None and run.unsure:
            self._timer(LIST_KEY, now + RELIST_SECONDS)
        elif run.container is None:
            self._down(run, now)
        elif run.halted:
            self._begin(run, "remove", RemoveContainer(replica_id=run.id, container_id=run.container.id))
        else:
            order = StopContainer(replica_id=run.id, container_id=run.container.id, grace_seconds=run.grace_seconds)
            self._begin(run, "stop", order)

    def _down(self, run: Run, now: float) -> None:
        """Finish stopping: no container is left."""
        run.halted = False
        run.replace = False
        if run.wish is Wish.STOP:
            run.phase = Activity.STOPPED
        elif run.wish is Wish.GONE:
            del self._runs[run.id]
            self._timers.pop(("retry", run.id), None)
            self._timers.pop(("probe", run.id), None)
        else:
            run.phase = Activity.WAITING
            run.message = ""
            self._step_up(run, now)
        awaiting, self._awaiting_ports = self._awaiting_ports, {}
        for waiting in awaiting:
            if waiting in self._runs:
                self._step(self._runs[waiting], now)

    def _begin(self, run: Run, operation: str, order: Instruction) -> None:
        run.busy = operation  # type: ignore[assignment]
        run.touched = self._tick
        self._out.append(order)

    def _finish(self, run: Run) -> None:
        run.busy = ""
        run.touched = self._tick
        self._dirty[run.id] = run

    def _start(self, run: Run) -> None:
        assert run.assignment is not None
        self._leave_flight(run)
        if (holder := self._holder_of_ports(run)) is not None:
            run.phase = Activity.WAITING
            run.message = f"waits until {holder.id}, which is stopping, has let go of its host port"
            self._awaiting_ports[run.id] = None
            return
        run.phase = Activity.CREATING
        run.halted = False
        order = StartContainer(assignment=run.assignment, spec_hash=run.spec_hash, image_id=run.image_id)
        self._begin(run, "start", order)

    def _holder_of_ports(self, run: Run) -> Run | None:
        """Return a replica on its way out whose container still has a host port that `run` is to get.

        A control plane gives a port away once it is free; one that was restored from a backup may not know that it is
        not. An engine would publish it twice, and what it forwards may then lead to the container that is gone.
        """
        wanted = _published(run)
        for other in self._runs.values() if wanted else ():
            there = other.container is not None or other.busy or other.unsure
            if other.wish is not Wish.RUN and there and not wanted.isdisjoint(_published(other)):
                return other
        return None

    def _want_image(self, run: Run) -> None:
        assert run.assignment is not None
        key = flight_key(run.assignment)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight()
            self._out.append(FindImage(reference=key[0], pin=key[1], replica_id=run.id))
        flight.waiting[run.id] = None
        flight.show(run)

    def _leave_flight(self, run: Run) -> None:
        if run.assignment is not None:
            flight = self._flights.get(flight_key(run.assignment))
            if flight is not None:
                flight.waiting.pop(run.id, None)

    def _see(self, run: Run, fact: ContainerFact | None, now: float) -> None:
        """Take in what the engine says of a replica's container; None: it has none."""
        self._dirty[run.id] = run
        before, run.container = run.container, fact
        if run.wish is not Wish.RUN or run.replace or run.phase is Activity.FAILED:
            return
        if fact is None:
            if run.phase is Activity.RUNNING:
                self._ended(run, now)
        elif fact.spec_hash != run.spec_hash:
            self._replace(run)
        elif fact.status in ("running", "paused"):
            if run.phase is not Activity.RUNNING:
                self._up(run, fact, now, adopted=True)
        elif run.phase is Activity.RUNNING or (before is None and fact.status == "exited"):
            self._ended(run, now)

    def _replace(self, run: Run) -> None:
        self._leave_flight(run)
        self._quiet(run)
        run.replace = True
        run.phase = Activity.WAITING
        run.message = "its container is out of date and is made anew"
        run.not_before = 0.0

    def _up(self, run: Run, fact: ContainerFact, now: float, adopted: bool) -> None:
        """Note that a container runs; it was just started, or found running."""
        self._leave_flight(run)
        if run.started and not adopted:
            run.restarts += 1
        run.container = fact
        run.phase = Activity.RUNNING
        run.started = True
        run.halted = False
        run.unsure = False
        run.message = ""
        run.tries = 0
        run.not_before = 0.0
        run.health.begin(run.check, now, adopted)
        if adopted and 0 < fact.started_at < now:
            run.health.up_since = fact.started_at
        if run.check.kind != "none":
            self._probe(run)

    def _ended(self, run: Run, now: float) -> None:
        """Decide what becomes of a replica whose container ended or vanished by itself."""
        lasted = now - run.health.up_since if run.phase is Activity.RUNNING else math.inf
        fact = run.container
        run.started = True
        run.exit_code = fact.exit_code if fact is not None else None
        if 0 < run.policy.window_seconds <= lasted:
            run.attempts = 0
        self._restart_later(run, ending(fact), run.exit_code, now)

    def _restart_later(self, run: Run, how: str, exit_code: int | None, now: float) -> None:
        """Back off and start again, or give up, as the restart policy says."""
        self._quiet(run)
        why = refusal(run.policy, exit_code, run.attempts)
        if why:
            run.completed = exit_code == 0
            self._fail(run, f"{how}; not started again: {why}")
            return
        self._back_off(run, how, restart_delay(run.policy, run.attempts), now)
        run.attempts += 1

    def _back_off(self, run: Run, message: str, delay: float, now: float) -> None:
        run.phase = Activity.BACKING_OFF
        self._pause(run, message, delay, now)

    def _pause(self, run: Run, message: str, delay: float, now: float) -> None:
        run.message = message
        run.not_before = now + delay
        self._timer(("retry", run.id), run.not_before)

    def _retry(self, run: Run) -> float:
        """Count a failed operation and return the wait before the next try, in seconds."""
        run.tries += 1
        return retry_delay(run.tries)

    def _fail(self, run: Run, message: str) -> None:
        self._leave_flight(run)
        self._quiet(run)
        run.phase = Activity.FAILED
        run.message = message
        self._unsaved = True

    def _probe(self, run: Run) -> None:
        assert run.container is not None
        self._last_timer += 1
        run.health.serial = self._last_timer
        self._out.append(
            Probe(
                replica_id=run.id,
                serial=run.health.serial,
                check=run.check,
                container=run.container,
                port=run.probe_port,
            )
        )

    def _quiet(self, run: Run) -> None:
        """End probing."""
        run.health.end()
        self._timers.pop(("probe", run.id), None)

    def _timer(self, key: TimerKey, at: float) -> None:
        self._last_timer += 1
        self._timers[key] = self._last_timer
        self._out.append(SetTimer(key=key, serial=self._last_timer, at=at))

    def _inspect(self, run: Run) -> None:
        """Look at a replica's container; later, when something is under way."""
        if run.busy or run.inspecting:
            run.recheck = True
        elif run.container is not None:
            run.recheck = False
            run.inspecting = True
            self._out.append(
                InspectContainer(replica_id=run.id, container_id=run.container.id, mark=self._tick),
            )

    def _ask_list(self) -> None:
        self._listing = self._tick
        self._out.append(ListContainers(mark=self._tick))

    def _adopt(self, run: Run, now: float) -> None:
        """Give a new replica the container that an earlier listing found for it."""
        fact = self._unclaimed.pop(run.id, None)
        if self._listed:
            run.touched = self._tick
        if fact is not None:
            self._see(run, fact, now)

    def _sweep(self, now: float) -> None:
        """Remove the containers nobody asked for, once it is known what is asked for."""
        if not self._informed:
            return
        for replica_id, fact in self._unclaimed.items():
            run = Run(id=replica_id, assignment=None, wish=Wish.GONE, container=fact)
            self._runs[replica_id] = run
            self._step(run, now)
        self._unclaimed = {}


def _published(run: Run) -> set[tuple[int, str]]:
    """Return the host ports of a replica, with their protocols."""
    ports = run.assignment.host_ports if run.assignment is not None else {}
    return {(port, key.rpartition("/")[2]) for key, port in ports.items()}
