"""Holding what a server lends, every half second, with or without a control plane."""

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from fallow.agent.folder import set_aside, write_private
from fallow.agent.measuring import Ring
from fallow.agent.peaks import Peaks
from fallow.agent.whole import MeasureError
from fallow.client.tasks import first_to_end
from fallow.decide.harvest.lending import BLIND_SECONDS, Expected, Held, Told, blind, hold, outside, stopped_if_empty
from fallow.decide.harvest.measured import Measured, merged
from fallow.decide.harvest.suppress import FLOOR_CPUS
from fallow.drivers.limits.contract import Limits, LimitsError
from fallow.model.server_frames import SetLending
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import RECENT_MEANS, RECENT_SECONDS, ServerReport
from fallow.model.vms import VmOrder, VmUse, VmWish

_log = structlog.get_logger("fallow.agent.lending")

FILE = "lending.json"
STEP_SECONDS = 0.5  # so that a jump is met within a second, wherever in a step it falls
WINDOW = 2  # steps that a report's figures are means of, and whose highest use counts for the limit
MEMORY_SECONDS = 2.0
RETRY_SECONDS = 10.0
SETTLE_SECONDS = 3.0  # what was placed just before the hours ended is known by then
IDLE_CPUS = 0.02
IDLE_BYTES = 16 * 2**20  # a group with nothing in it has a few pages
_PROBLEMS = 32
_PROBLEM_CHARS = 1000


class Measures(Protocol):
    """What measures this machine."""

    def measure(self) -> Measured | None:
        """Return the means since the last call, None at the first; blocks. Raises MeasureError."""


class Hosting(Protocol):
    """What makes and keeps virtual machines here."""

    def ordered(self, orders: tuple[VmOrder, ...]) -> None:
        """Take in all orders."""

    def uses(self) -> tuple[VmUse, ...]:
        """Return each machine as it was seen last."""

    def hold(self, memory_limit_bytes: int) -> None:
        """Let the machines have so much memory, all together."""

    def stop_lowest(self) -> str:
        """Stop the machine of the lowest rank, and return its name; empty: there is none."""


class Lending:
    """Holds what is lent within its limit. `clock` gives UTC seconds.

    What was told last is kept in `folder`, so that a restart goes on without a control plane. `news` is set when
    something should be reported at once. Ending leaves all limits as they are.
    """

    def __init__(
        self,
        measuring: Measures,
        limits: Limits,
        hosting: Hosting,
        folder: Path,
        *,
        peaks: Peaks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._measuring = measuring
        self._limits = limits
        self._hosting = hosting
        self._path = folder / FILE
        self._peaks = peaks or Peaks()
        self._clock = clock
        self._run = secrets.token_hex(8)
        self.news = asyncio.Event()
        self._fresh = asyncio.Event()  # a measurement has come
        self._newest: Measured | None = None
        self._measured_at = 0.0  # of the event loop's clock
        self._recent: deque[Measured] = deque(maxlen=WINDOW)
        self._ring = Ring()
        self._unrung: list[Measured] = []
        self._shares: list[tuple[int, ...]] = [(), ()]  # of the last minutes: not lent, and lent
        self._held = Held()
        self._expected = Expected(cpus=0.0, memory_bytes=0, predictor="", why="")
        self._told: SetLending | None = None
        self._ordered: tuple[VmOrder, ...] | None = None
        self._outside_since: float | None = None  # its hours, by the event loop's clock
        self._prepared = False
        self._classes = ""
        self._problems: dict[str, tuple[str, ...]] = {}
        self._sums = [0.0, 0.0, 0.0]  # lent and used core-seconds, seconds above a ceiling
        self._unsaved = asyncio.Event()

    def told(self, frame: SetLending) -> None:
        """Take in how to lend; what was told before does not count any more."""
        if frame == self._told:
            return
        self._told = frame
        self._unsaved.set()
        self._order()

    def _order(self) -> None:
        """Pass on what is ordered; outside its hours a server's empty machines stop, also without a control plane."""
        if self._told is None or not self._prepared:
            return
        orders, now = self._told.vms, asyncio.get_running_loop().time()
        if not outside(self._told.policy, self._clock()):
            self._outside_since = None
        else:
            self._outside_since = now if self._outside_since is None else self._outside_since
            if now - self._outside_since >= SETTLE_SECONDS:
                orders = tuple(stopped_if_empty(order) for order in orders)
        if orders != self._ordered:
            self._ordered = orders
            self._hosting.ordered(orders)

    async def run(self) -> None:
        """Work until cancelled; faults are told and met with less being lent."""
        self._load()
        await self._prepare()
        await first_to_end(
            self._go_on(self._measure),
            self._go_on(self._hold),
            self._go_on(self._hold_memory),
            self._go_on(self._save),
            self._go_on(self._foretell),
        )

    async def _go_on(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run one part over and over: a fault of ours in one round must not end the others."""
        while True:
            try:
                await part()
            except Exception:  # noqa: BLE001 - what is lent must be held whatever fails
                _log.exception("lending failed; going on")
                await asyncio.sleep(STEP_SECONDS)

    async def _foretell(self) -> None:
        await self._peaks.work(self._path.parent, self._complain)

    async def _prepare(self) -> None:
        """Make the group of what is lent; without one nothing is lent, and nothing is started."""
        try:
            problems = await asyncio.to_thread(self._limits.prepare)
        except LimitsError as error:
            self._complain("limits", (str(error),))
            return
        self._complain("weights", problems)
        self._complain("limits", ())
        held = self._limits.cpus()  # of an agent before this one
        if not self._prepared and held is not None:
            self._held = replace(self._held, limit_cpus=max(FLOOR_CPUS, held))
        elif held is None:  # nothing starts without a limit, though nothing can be measured for now
            self._complain("processors", self._limits.hold_cpus(self._held.limit_cpus))
        self._prepared = True
        self._order()

    async def _measure(self) -> None:
        """Measure once. In a thread: what hangs there is noticed here by its silence."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            measured = await asyncio.to_thread(self._measuring.measure)
        except (MeasureError, OSError, ValueError) as error:
            self._complain("measuring", (f"this machine could not be measured: {error}",))
        else:
            self._complain("measuring", ())
            if measured is not None:
                self._newest = measured
                self._measured_at = loop.time()
                self._fresh.set()
        await asyncio.sleep(max(0.05, STEP_SECONDS - (loop.time() - began)))

    async def _hold(self) -> None:
        """Wait for a measurement, decide, and set the limit; without one for too long set the least."""
        before = self._held
        try:
            async with asyncio.timeout(BLIND_SECONDS):
                await self._fresh.wait()
        except TimeoutError:
            self._held = blind(before, asyncio.get_running_loop().time() - self._measured_at)
        else:
            self._fresh.clear()
            assert self._newest is not None
            self._take(self._newest)
        if self._prepared:
            self._complain("processors", self._limits.hold_cpus(self._held.limit_cpus))
        self._order()
        if self._held.relief.stop_one:
            self._stop_one()
        if _calls(before, self._held):
            self.news.set()

    def _take(self, measured: Measured) -> None:
        self._recent.append(measured)
        self._unrung.append(measured)
        if sum(sample.seconds for sample in self._unrung) >= 0.9:
            second = merged(self._unrung)
            self._unrung.clear()
            self._ring.add(second)
            if self._ring.count % RECENT_SECONDS == 0:
                self._shares = [
                    self._ring.shares(column, second.cpus, RECENT_SECONDS, RECENT_MEANS)
                    for column in ("own_cpus", "lent_cpus")
                ]
            self._peaks.add(second)
        highest = max(self._recent, key=lambda sample: sample.own_cpus)
        counted = replace(measured, used_cpus=min(measured.cpus, highest.own_cpus + measured.lent_cpus))
        told = self._as_told()
        self._expected = self._peaks.expected(counted, told.policy.predictor)
        self._held = hold(self._held, told, counted, self._expected, self._clock())
        self._count(measured, told.policy)

    def _as_told(self) -> Told:
        if not self._prepared:
            return Told(policy=LendingPolicy(), waits="what is lent cannot be limited here")
        if self._told is None:
            return Told(policy=LendingPolicy(), waits="the control plane has not said yet how to lend")
        asked = sum(
            order.cpus if order.asked_cpus is None else order.asked_cpus
            for order in self._told.vms
            if order.wanted is VmWish.RUNNING
        )
        return Told(policy=self._told.policy, closed=self._told.closed, asked_cpus=asked)

    def _count(self, measured: Measured, policy: LendingPolicy) -> None:
        """Add to the sums that harvest reports are made of."""
        orders = self._told.vms if self._told is not None else ()
        if self._held.lends and any(order.wanted is VmWish.RUNNING for order in orders):
            self._sums[0] += self._held.limit_cpus * measured.seconds
        self._sums[1] += measured.lent_cpus * measured.seconds
        over_cpus = measured.used_cpus > policy.cpu_ceiling * measured.cpus
        over_memory = measured.used_memory_bytes > policy.memory_ceiling * measured.memory_bytes
        uses_cpus, uses_memory = measured.lent_cpus > IDLE_CPUS, measured.lent_memory_bytes > IDLE_BYTES
        if (over_cpus and uses_cpus) or (over_memory and uses_memory):  # an idle machine has its memory all the same
            self._sums[2] += measured.seconds

    def _stop_one(self) -> None:
        name = self._hosting.stop_lowest()
        if name:
            _log.error("memory is far above its ceiling; machine stopped", machine=name)

    async def _hold_memory(self) -> None:
        """Set the memory limits now and then. In a thread: the kernel may take its time to get memory back."""
        await asyncio.sleep(MEMORY_SECONDS)
        if not self._prepared:
            await asyncio.sleep(RETRY_SECONDS)
            await self._prepare()
            return
        measured, high = self._newest, self._held.limit_memory_bytes
        if measured is None:
            return
        ceiling = self._told.policy.memory_ceiling if self._told is not None else LendingPolicy().memory_ceiling
        most = high + int((1 - ceiling) / 2 * measured.memory_bytes)
        self._hosting.hold(high)
        self._complain("memory", await asyncio.to_thread(self._limits.hold_memory, high, most))
        self._complain("weights", await asyncio.to_thread(self._limits.prepare))

        await self._hold_classes()

    async def _hold_classes(self) -> None:
        """Hold caches and memory bandwidth, what has come into the group since the last time included."""
        if self._told is None:
            return
        policy = self._told.policy
        shares = policy.cache_share, policy.memory_bandwidth_share
        classes = await asyncio.to_thread(self._limits.hold_classes, *shares)
        self._classes = classes.told
        self._complain("classes", classes.problems)

    def report(self) -> ServerReport:
        """Return what to tell the control plane now."""
        uses, held, expected = self._hosting.uses(), self._held, self._expected
        problems = tuple(text[:_PROBLEM_CHARS] for texts in self._problems.values() for text in texts)
        if not self._recent:
            why = held.why_not or "nothing was measured yet"
            return ServerReport(run=self._run, why_not=why, problems=problems[:_PROBLEMS], vms=uses)
        now = merged(self._recent)
        missing = tuple(f"{row.name}: {row.problem}" for row in now.primaries if row.problem)
        return ServerReport(
            cpus=now.cpus,
            memory_bytes=now.memory_bytes,
            primary_cpus=now.primary_cpus,
            primary_memory_bytes=now.primary_memory_bytes,
            system_cpus=max(0.0, now.own_cpus - now.primary_cpus),
            system_memory_bytes=max(0, now.own_memory_bytes - now.primary_memory_bytes),
            lent_cpus=now.lent_cpus,
            lent_memory_bytes=now.lent_memory_bytes,
            limit_cpus=held.limit_cpus,
            limit_memory_bytes=held.limit_memory_bytes,
            predicted_cpus=expected.cpus,
            predicted_memory_bytes=expected.memory_bytes,
            predictor=expected.predictor,
            predictor_why=expected.why,
            offer_cpus=_finite(held.offer_cpus) if held.lends else 0.0,
            offer_memory_bytes=int(_finite(held.offer_memory_bytes)) if held.lends else 0,
            cpu_waiting=now.cpu_waiting,
            memory_waiting=now.memory_waiting,
            io_waiting=now.io_waiting,
            io_bytes_per_second=now.io_bytes_per_second,
            lent_waiting=now.lent_waiting,
            throttled=now.throttled,
            classes=self._classes,
            window_seconds=now.seconds,
            relief_cpus=held.relief.cpus,
            relief_memory_bytes=held.relief.memory_bytes,
            relief_seconds=held.relief.seconds,
            urgent=held.relief.urgent,
            lends=held.lends,
            why_not=held.why_not,
            problems=(*problems, *missing)[:_PROBLEMS],
            primaries=now.primaries,
            vms=uses,
            recent_own=self._shares[0],
            recent_lent=self._shares[1],
            run=self._run,
            lent_core_seconds=self._sums[0],
            used_core_seconds=self._sums[1],
            over_seconds=self._sums[2],
        )

    def _complain(self, what: str, problems: tuple[str, ...]) -> None:
        """Keep what is wrong for the next report, and log it once."""
        if problems and problems != self._problems.get(what):
            _log.warning("lending is not as it should be", what=what, problems=problems)
        if problems:
            self._problems[what] = problems
        else:
            self._problems.pop(what, None)

    # what was told, kept for a restart

    def _load(self) -> None:
        """Go on as told last; a file that cannot be read is set aside."""
        try:
            self._told = msgspec.json.decode(self._path.read_bytes(), type=SetLending)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.error("what was told last cannot be read; waiting for the control plane", reason=str(error))
            try:
                set_aside(self._path)
            except OSError as moving:
                _log.warning("it stays where it is", reason=str(moving))

    async def _save(self) -> None:
        """Write what was told last, whenever it changes."""
        await self._unsaved.wait()
        self._unsaved.clear()
        assert self._told is not None
        try:
            await asyncio.to_thread(write_private, self._path, msgspec.json.encode(self._told))
            self._complain("saving", ())
        except OSError as error:
            self._complain("saving", (f"what was told cannot be kept for a restart: {error.strerror}",))
            await asyncio.sleep(RETRY_SECONDS)
            self._unsaved.set()


def _calls(before: Held, after: Held) -> bool:
    """Say whether the control plane should hear at once."""
    needs, needed = after.relief, before.relief
    begins = (needs.cpus > 0, needs.memory_bytes > 0, needs.urgent) > (
        needed.cpus > 0,
        needed.memory_bytes > 0,
        needed.urgent,
    )
    return begins or before.lends != after.lends


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) and value > 0 else 0.0
