"""The only loop: wait for a change or for time to pass, take a snapshot, decide, apply. Everything else plugs in here.

Level-triggered: a controller may be woken twice, late, or after a crash, and does the same.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Fenced, StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 1.0
SESSIONS = "sessions"  # wakes like a kind of record: a member has come, or a gateway reported something new
APPLIED = "applied"  # so does this: gateways of a member do what follows from a newer revision; that is very often
LAST_RUN = "fallow_loop_last_run_timestamp_seconds"
AGAIN_SECONDS = 0.1  # after dropped steps; a change that made them drop wakes the loop at once
MOST_REST_SECONDS = 1.0
FOLLOWER_REST = 9.0  # a rest_factor: a tenth of the time is enough for what only follows what others decide
LONGER_REST_SECONDS = 0.04  # a loop with a smaller share of the time makes nobody wait for longer than this


@dataclass(kw_only=True)
class Controller:
    """One control loop: `decide` is called after a change of one of `kinds`, and at least every `every_seconds`.

    `rest_factor`: so many times as long as a run took it rests, within bounds; see `rest_seconds`.
    """

    name: str
    kinds: frozenset[str]
    every_seconds: float
    decide: Callable[[Snapshot, float], Plan]
    rest_factor: float = 1.0
    awake: asyncio.Event = field(default_factory=asyncio.Event)


def rest_seconds(spent: float, factor: float) -> float:
    """Return how long a loop rests that has just taken `spent` seconds; what changes meanwhile is decided together.

    So it takes at most half of the time, and less with a factor above one: as long as nobody waits noticeably for it.
    """
    return min(max(spent, min(spent * factor, LONGER_REST_SECONDS)), MOST_REST_SECONDS)


class LoopMetrics:
    """What is counted of all control loops of a process; one for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "fallow_loop_seconds", "Time of one run of a control loop", ["loop"], registry=registry
        )
        self.steps = Counter(
            "fallow_loop_steps_total", "Steps planned by control loops", ["loop", "outcome"], registry=registry
        )
        self.ran = Gauge(LAST_RUN, "When a control loop last ran through", ["loop"], registry=registry)
        self._spent: dict[str, Histogram] = {}  # by loop: to find them by their labels takes longer than most runs
        self._last: dict[str, Gauge] = {}

    def spent(self, loop: str, seconds: float) -> None:
        """Count one run."""
        if (found := self._spent.get(loop)) is None:
            found = self._spent[loop] = self.seconds.labels(loop)
        found.observe(seconds)

    def ran_through(self, loop: str, now: float) -> None:
        """Note when a loop last ran through."""
        if (found := self._last.get(loop)) is None:
            found = self._last[loop] = self.ran.labels(loop)
        found.set(now)

    def ended(self, controllers: Sequence[Controller]) -> None:
        """Forget when these last ran: this process runs them no more."""
        for controller in controllers:
            self._last.pop(controller.name, None)
            with contextlib.suppress(KeyError):
                self.ran.remove(controller.name)


class Runner:
    """Runs controllers side by side, each never twice at once, until stopped."""

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        controllers: Sequence[Controller],
        clock: Callable[[], float],
        metrics: LoopMetrics,
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._controllers = controllers
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Run until cancelled. Raises Fenced, in a group, once another process may decide instead of this one."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_on_changes())
            for controller in self._controllers:
                group.create_task(self._repeat(controller), name=f"loop:{controller.name}")

    def wake(self, kinds: Set[str]) -> None:
        """Run the controllers that look at any of these kinds soon."""
        for controller in self._controllers:
            if controller.kinds & kinds:
                controller.awake.set()

    async def _wake_on_changes(self) -> None:
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                self.wake({kind for kind, _ in changed})
        finally:
            subscription.close()

    async def _repeat(self, controller: Controller) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            pause = await self._once(controller)
            spent = loop.time() - began
            await asyncio.sleep(rest_seconds(spent, controller.rest_factor))
            due = loop.call_later(pause, controller.awake.set)
            try:
                await controller.awake.wait()
            finally:
                due.cancel()

    async def _once(self, controller: Controller) -> float:
        """Run one controller once and return after how many seconds to run it again at the latest."""
        controller.awake.clear()
        pause = controller.every_seconds
        try:
            began = time.perf_counter()
            try:
                plan = controller.decide(self._cache.snapshot(), self._clock())
            finally:
                self._metrics.spent(controller.name, time.perf_counter() - began)
            if plan.steps:
                applied = await self._applier.apply(plan)
                self._metrics.steps.labels(controller.name, "committed").inc(applied.committed)
                self._metrics.steps.labels(controller.name, "dropped").inc(applied.dropped)
                if applied.dropped:
                    pause = min(pause, AGAIN_SECONDS)
        except Fenced:
            raise
        except StoreError as error:
            _log.warning("store refused a plan", loop=controller.name, error=str(error))
            return RETRY_SECONDS
        except Exception:  # noqa: BLE001 - one loop's bug must not stop the others; it is logged whole
            _log.exception("control loop failed; it is run again", loop=controller.name)
            return RETRY_SECONDS
        self._metrics.ran_through(controller.name, self._clock())
        return pause if plan.wake_after_seconds is None else min(pause, plan.wake_after_seconds)
