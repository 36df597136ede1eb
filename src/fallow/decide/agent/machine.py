"""The node agent: which instruction follows from which event. See `docs/design/agent.md` for the phases."""

from collections.abc import Callable, Mapping
from typing import Any

from fallow.decide.agent.engine import EngineSide
from fallow.decide.agent.flights import flight_key
from fallow.decide.agent.messages import (
    Assigned,
    ContainerChanged,
    ContainerRemoved,
    ContainerSeen,
    ContainerStarted,
    ContainerStopped,
    EngineBack,
    EngineListed,
    EngineLost,
    Event,
    ImageFailed,
    ImageMissing,
    ImageReady,
    InspectFailed,
    Instruction,
    JournalLoaded,
    ListFailed,
    ProbeResult,
    Report,
    SaveJournal,
    StartFailed,
    StopFailed,
    TimerFired,
    Warn,
)
from fallow.decide.agent.replica import Run, Wish, fingerprint
from fallow.model.deployments import Activity, Observation
from fallow.model.references import qualified
from fallow.model.wire import Assignment


class AgentMachine(EngineSide):
    """The whole state of one node's agent. Deterministic and picklable: no clock, no chance, no I/O.

    It touches no container before it knows what is wished: from the journal, or from a full assignment.
    """

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event and return what to do, in order."""
        self._tick += 1
        self._out = []
        _HANDLERS[type(event)](self, event, now)
        self._report(now)
        if self._unsaved and self._informed:
            self._out.insert(0, self._journal())
            self._unsaved = False
        return self._out

    def observations(self) -> tuple[Observation, ...]:
        """Return the newest thing reported of every replica somebody still asks about."""
        return tuple(
            run.reported for run in self._runs.values() if run.reported is not None and run.wish is not Wish.GONE
        )

    def container_id(self, replica_id: str) -> str:
        """Return the container of a replica; empty when it has none."""
        run = self._runs.get(replica_id)
        return run.container.id if run is not None and run.container is not None else ""

    def needed_images(self) -> set[str]:
        """Return the references, in full, and the ids of images that replicas run from or wait for."""
        wanted = [run for run in self._runs.values() if run.wish is Wish.RUN and run.assignment is not None]
        return {
            name
            for run in wanted
            if run.assignment
            for name in (qualified(run.assignment.container.image), run.image_id)
            if name
        }

    @property
    def running(self) -> int:
        """Return how many containers run."""
        return sum(run.phase is Activity.RUNNING for run in self._runs.values())

    @property
    def empty(self) -> bool:
        """Say whether the engine has told that nothing of ours is left."""
        return self._listed and not self._runs

    @property
    def listed(self) -> bool:
        """Say whether the engine answers and has told which containers there are."""
        return self._listed

    # wishes

    def _loaded(self, event: JournalLoaded, now: float) -> None:
        self._informed = True
        self._serial_floor = max(self._serial_floor, event.serial)
        for assignment in event.assignments:
            run = self._wish(assignment, now)
            if assignment.replica_id in event.failed:
                run.phase = Activity.FAILED
                run.message = event.failed[assignment.replica_id]
        self._sweep(now)

    def _assigned(self, event: Assigned, now: float) -> None:
        self._unsaved = True
        for assignment in event.assignments:
            self._wish(assignment, now)
        gone = set(event.removed)
        if event.full:
            self._informed = True
            gone = set(self._runs) - {assignment.replica_id for assignment in event.assignments}
        for replica_id in sorted(gone):
            run = self._runs.get(replica_id)
            if run is not None:
                run.wish = Wish.GONE
                self._step(run, now)
        self._rise_above(event.serials)
        self._risen = self._risen or event.full
        self._sweep(now)

    def _rise_above(self, serials: Mapping[str, int]) -> None:
        """Say again what was said with a serial below the stored one: it was not heard.

        With the very same serial it was heard, unless the agent had not yet been told what its last run said: then it
        may have counted anew from an older journal, and met one of those serials by chance.
        """
        self._serial_floor = max(self._serial_floor, *serials.values(), 0)
        for replica_id, serial in serials.items():
            run = self._runs.get(replica_id)
            if run is not None and run.reported is not None and run.reported.serial < serial + (not self._risen):
                run.reported = None
                self._dirty[run.id] = run

    def _wish(self, assignment: Assignment, now: float) -> Run:
        """Take in one assignment; a replica that was asked to stop stays so."""
        wish = Wish.RUN if assignment.run else Wish.STOP
        run = self._runs.get(assignment.replica_id)
        if run is None:
            run = self._open(assignment, wish)
            self._adopt(run, now)
        elif run.assignment is None:
            self._claim(run, assignment, wish)
        else:
            before = run.assignment
            if (before.container, before.host_ports) != (assignment.container, assignment.host_ports):
                self._out.append(Warn(text=f"{run.id}: another container for the same replica is ignored"))
            if run.final and wish is Wish.RUN:
                self._out.append(Warn(text=f"{run.id}: a stopped replica is not started again"))
                wish = Wish.STOP
            elif run.wish is Wish.GONE and wish is Wish.RUN:
                self._revive(run)
            run.wish = wish
        run.final = run.final or run.wish is Wish.STOP
        self._step(run, now)
        return run

    def _open(self, assignment: Assignment, wish: Wish) -> Run:
        run = Run(id=assignment.replica_id, assignment=assignment, wish=wish, spec_hash=fingerprint(assignment))
        self._runs[run.id] = run
        return run

    def _claim(self, run: Run, assignment: Assignment, wish: Wish) -> None:
        """Give a container that nobody asked for, and that is being removed, to the replica it was made for."""
        run.assignment, run.wish, run.spec_hash = assignment, wish, fingerprint(assignment)
        if wish is Wish.RUN:
            self._revive(run)

    def _revive(self, run: Run) -> None:
        """Let a replica that was leaving run again: what is left of its container goes first."""
        if run.phase is Activity.STOPPING:
            run.replace = True
            run.phase = Activity.WAITING

    # what is told and kept

    def _report(self, now: float) -> None:
        fresh: list[Observation] = []
        for run in self._dirty.values():
            if self._runs.get(run.id) is not run:
                continue
            before = max(run.reported.serial if run.reported else 0, self._serial_floor)
            seen = run.observe(max(before + 1, int(now * 1000)), now, self._trouble)
            if seen is not None:
                run.reported = seen
                self._newest_serial = max(self._newest_serial, seen.serial)
                fresh.append(seen)
        self._dirty = {}
        if fresh:
            self._out.append(Report(observations=tuple(fresh)))

    def _journal(self) -> SaveJournal:
        kept = [run for run in self._runs.values() if run.wish is not Wish.GONE and run.assignment is not None]
        return SaveJournal(
            assignments=tuple(_as_wished(run) for run in kept),
            failed={run.id: run.message for run in kept if run.phase is Activity.FAILED},
            serial=max(self._newest_serial, self._serial_floor),
        )

    def check_invariants(self) -> None:
        """Raise AssertionError when the state is one that must never be."""
        for id_, run in self._runs.items():
            assert run.id == id_
            assert run.assignment is not None or run.wish is Wish.GONE
            assert run.wish is not Wish.GONE or self._informed, "a container is removed before anything is known"
            if run.phase is Activity.RUNNING:
                assert run.container is not None, "running without a container"
                assert run.started
                assert not run.busy or run.wish is not Wish.RUN or run.replace
            if run.phase is Activity.STOPPED:
                assert run.container is None, "stopped with a container left"
                assert not run.busy
                assert run.wish is not Wish.RUN
            if run.phase is Activity.CREATING:
                assert run.busy == "start"
            assert not run.health.serial or run.phase is Activity.RUNNING, "probing what does not run"
            assert not run.halted or run.phase is not Activity.RUNNING
        for key, flight in self._flights.items():
            for id_ in flight.waiting:
                waiting = self._runs[id_]
                assert waiting.wish is Wish.RUN
                assert waiting.assignment is not None
                assert flight_key(waiting.assignment) == key
        assert not set(self._unclaimed) & set(self._runs)


def _as_wished(run: Run) -> Assignment:
    assert run.assignment is not None
    kept = run.assignment
    return Assignment(
        replica_id=kept.replica_id,
        deployment=kept.deployment,
        generation=kept.generation,
        run=run.wish is Wish.RUN,
        container=kept.container,
        host_ports=kept.host_ports,
    )


_HANDLERS: dict[type, Callable[[AgentMachine, Any, float], None]] = {
    JournalLoaded: AgentMachine._loaded,
    Assigned: AgentMachine._assigned,
    EngineBack: AgentMachine._engine_back,
    EngineLost: AgentMachine._engine_lost,
    EngineListed: AgentMachine._listing_arrived,
    ListFailed: AgentMachine._list_failed,
    ContainerChanged: AgentMachine._changed,
    ContainerSeen: AgentMachine._seen,
    InspectFailed: AgentMachine._inspect_failed,
    ImageReady: AgentMachine._image_ready,
    ImageMissing: AgentMachine._image_missing,
    ImageFailed: AgentMachine._image_failed,
    ContainerStarted: AgentMachine._container_started,
    StartFailed: AgentMachine._start_failed,
    ContainerStopped: AgentMachine._container_stopped,
    ContainerRemoved: AgentMachine._container_removed,
    StopFailed: AgentMachine._stop_failed,
    ProbeResult: AgentMachine._probed,
    TimerFired: AgentMachine._timer_fired,
}
