"""What the events of the engine, of probes and of timers do to the machine's state."""

from fallow.decide.agent.flights import FINAL_KINDS, FlightKey
from fallow.decide.agent.messages import (
    ContainerChanged,
    ContainerFact,
    ContainerRemoved,
    ContainerSeen,
    ContainerStarted,
    ContainerStopped,
    EngineBack,
    EngineListed,
    EngineLost,
    FindImage,
    ImageFailed,
    ImageMissing,
    ImageReady,
    InspectFailed,
    ListFailed,
    ProbeResult,
    PullImage,
    StartFailed,
    StopFailed,
    TimerFired,
    Warn,
)
from fallow.decide.agent.replica import Run, Wish, retry_delay
from fallow.decide.agent.steps import LIST_KEY, RELIST_SECONDS, Steps
from fallow.model.deployments import Activity

LIST_SECONDS = 15.0  # events may be missed, so everything is listed now and then
FIRST_RELIST_SECONDS = 2.0  # and soon after the engine came back, while its events may not have been heard yet


class EngineSide(Steps):
    """Handlers of everything but wishes."""

    # the engine as a whole

    def _engine_back(self, _event: EngineBack, _now: float) -> None:
        self._ask_list()

    def _engine_lost(self, event: EngineLost, _now: float) -> None:
        self._listed = False
        self._listing = 0
        self._unclaimed = {}
        self._timers.pop(LIST_KEY, None)
        self._trouble = f"the container engine cannot be reached: {event.text}"
        self._dirty.update(self._runs)

    def _listing_arrived(self, event: EngineListed, now: float) -> None:
        if event.mark != self._listing:
            return
        first = not self._listed
        self._listing = 0
        self._listed = True
        self._trouble = ""
        self._timer(LIST_KEY, now + (FIRST_RELIST_SECONDS if first else LIST_SECONDS))
        found = self._by_replica(event.containers)
        for run in list(self._runs.values()):
            fact = found.pop(run.id, None)
            if not run.busy and run.touched <= event.mark:
                run.unsure = False
                self._see(run, fact, now)
        self._unclaimed = found
        for run in list(self._runs.values()):
            self._step(run, now)
        self._sweep(now)

    def _by_replica(self, containers: tuple[ContainerFact, ...]) -> dict[str, ContainerFact]:
        found: dict[str, ContainerFact] = {}
        for fact in containers:
            if fact.replica_id in found:
                self._out.append(Warn(text=f"{fact.replica_id} has more than one container; {fact.id} is left alone"))
            else:
                found[fact.replica_id] = fact
        return found

    def _list_failed(self, event: ListFailed, now: float) -> None:
        if event.mark == self._listing:
            self._listing = 0
            self._timer(LIST_KEY, now + RELIST_SECONDS)

    # one container

    def _changed(self, event: ContainerChanged, _now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is not None and (run.busy or (run.container is not None and run.container.id == event.container_id)):
            self._inspect(run)

    def _seen(self, event: ContainerSeen, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None:
            return
        run.inspecting = False
        if run.busy or run.touched > event.mark:
            self._inspect(run)
            return
        if run.container is not None and run.container.id == event.container_id:
            self._see(run, event.container, now)
            self._step(run, now)
        self._recheck(run)

    def _inspect_failed(self, event: InspectFailed, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None:
            return
        run.inspecting = False
        if self._listed:
            self._timer(LIST_KEY, now + RELIST_SECONDS)

    def _recheck(self, run: Run) -> None:
        if run.recheck and self._runs.get(run.id) is run:
            self._inspect(run)

    # operations

    def _container_started(self, event: ContainerStarted, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.busy != "start":
            return
        self._finish(run)
        if run.wish is Wish.RUN and not run.replace:
            self._up(run, event.container, now, adopted=False)
            self._see(run, event.container, now)
        else:
            run.container = event.container
            run.started = True
            run.phase = Activity.WAITING  # to be taken down, at once or when the engine answers again
        self._step(run, now)
        self._recheck(run)

    def _start_failed(self, event: StartFailed, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.busy != "start":
            return
        self._finish(run)
        if event.kind == "not-found":
            run.container = None
        elif event.container is not None:
            run.container = event.container
        run.unsure = run.container is None and event.kind != "not-found"
        if event.kind in FINAL_KINDS:
            self._fail(run, event.text)
        elif event.kind == "failed":
            self._restart_later(run, event.text, None, now)
        else:
            self._back_off(run, event.text, self._retry(run), now)
            if event.kind == "conflict":
                self._timer(LIST_KEY, now + RELIST_SECONDS)
        self._step(run, now)
        self._recheck(run)

    def _container_stopped(self, event: ContainerStopped, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.busy != "stop":
            return
        self._finish(run)
        run.halted = True
        run.tries = 0
        self._step(run, now)

    def _container_removed(self, event: ContainerRemoved, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.busy != "remove":
            return
        self._finish(run)
        run.container = None
        run.tries = 0
        self._step(run, now)

    def _stop_failed(self, event: StopFailed, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.busy not in ("stop", "remove"):
            return
        self._finish(run)
        self._pause(run, event.text, self._retry(run), now)
        self._step(run, now)

    # images

    def _image_ready(self, event: ImageReady, now: float) -> None:
        flight = self._flights.pop((event.reference, event.pin), None)
        for replica_id in flight.waiting if flight is not None else ():
            run = self._runs[replica_id]
            run.image_id = event.image_id
            self._dirty[run.id] = run
            run.message = ""
            if self._listed and not run.busy and now >= run.not_before:
                self._start(run)
            else:
                run.phase = Activity.WAITING

    def _image_missing(self, event: ImageMissing, now: float) -> None:
        flight = self._flights.get((event.reference, event.pin))
        if flight is None:
            return
        if not flight.waiting:
            del self._flights[event.reference, event.pin]
            return
        flight.stage = "pulling"
        self._out.append(PullImage(reference=event.reference, pin=event.pin, replica_id=next(iter(flight.waiting))))
        for replica_id in flight.waiting:
            flight.show(self._touch(replica_id))

    def _image_failed(self, event: ImageFailed, now: float) -> None:
        key = (event.reference, event.pin)
        flight = self._flights.get(key)
        if flight is None:
            return
        text = f"image {event.reference}: {event.text}"
        final = event.kind in FINAL_KINDS
        if final or not flight.waiting:
            del self._flights[key]
            for replica_id in flight.waiting:
                self._fail(self._touch(replica_id), text)
            return
        flight.stage = "pausing"
        flight.tries += 1
        flight.trouble = text
        for replica_id in flight.waiting:
            flight.show(self._touch(replica_id))
        self._timer(("image", _image_timer(key)), now + retry_delay(flight.tries))

    def _touch(self, replica_id: str) -> Run:
        run = self._dirty[replica_id] = self._runs[replica_id]
        return run

    def _find_again(self, subject: str, now: float) -> None:
        pin, _, reference = subject.partition(" ")
        flight = self._flights.get((reference, pin))
        if flight is None or flight.stage != "pausing":
            return
        if not flight.waiting:
            del self._flights[reference, pin]
        elif not self._listed:
            self._timer(("image", subject), now + RELIST_SECONDS)
        else:
            flight.stage = "finding"
            self._out.append(FindImage(reference=reference, pin=pin, replica_id=next(iter(flight.waiting))))

    # probes and timers

    def _probed(self, event: ProbeResult, now: float) -> None:
        run = self._runs.get(event.replica_id)
        if run is None or run.health.serial != event.serial or not event.serial:
            return
        self._dirty[run.id] = run
        delay = run.health.note(run.check, event.outcome, event.text, now)
        self._timer(("probe", run.id), now + delay)

    def _timer_fired(self, event: TimerFired, now: float) -> None:
        if self._timers.get(event.key) != event.serial:
            return
        del self._timers[event.key]
        kind, subject = event.key
        run = self._runs.get(subject)
        if kind == "list":
            self._ask_list()
        elif kind == "image":
            self._find_again(subject, now)
        elif run is not None and kind == "retry":
            run.not_before = 0.0
            self._step(run, now)
        elif run is not None and run.phase is Activity.RUNNING:
            self._probe(run)


def _image_timer(key: FlightKey) -> str:
    """Return the name of a flight's timer; a deployment's name has no space in it."""
    return f"{key[1]} {key[0]}"
