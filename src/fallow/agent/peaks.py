"""The most that is expected to be needed beside what is lent: a history of 29 days, and who foretells from it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from fallow.agent.folder import set_aside, write_private
from fallow.decide.harvest.choose import PREDICTORS, choose
from fallow.decide.harvest.history import STEP_SECONDS, History, high_value, history
from fallow.decide.harvest.lending import Expected
from fallow.decide.harvest.measured import Measured
from fallow.decide.harvest.predict import MARGIN

_log = structlog.get_logger("fallow.agent.peaks")

FILE = "history.msgpack"
VERSION = 1
ROWS = 2  # processors and memory, as shares of what there is
HORIZON_STEPS = 12
CHOOSE_STEPS = 288  # a choice is made anew once a day, and earlier while the history is shorter than that
LATE_STEPS = 2  # a history that ended earlier says nothing of now
_MOST_BYTES = 4 * 2**20
AUTO = "auto"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A history on the disk: `usage` is little-endian single precision, row by row; at most 67 kB.

    Agents that kept eight days wrote the same with fewer steps, and take the newest of these.
    """

    version: int = VERSION
    ends_at: float
    step_seconds: int
    usage: bytes
    chosen: tuple[str, ...] = ()  # by row, the predictors in use


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """Peaks as shares of what there is, and of which predictor; from a history that ended at `ends_at`."""

    shares: tuple[float, ...]
    predictor: str
    why: str
    ends_at: float


class Peaks:
    """Foretells peaks. `add` and `expected` are quick; the work on the history is done in threads. `clock`: UTC."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._history = history(np.empty((ROWS, 0)), 0.0)
        self._loaded = False
        self._kept = self._history  # as it is on the disk
        self._seconds: list[tuple[float, float]] = []
        self._began: float | None = None  # the step, of a clock that never jumps
        self._wanted = AUTO
        self._chosen: tuple[str, ...] = ()
        self._closed = 0  # steps since this agent started
        self._choose_at = 0  # of these
        self._why = ""
        self._foretold: Foretold | None = None
        self._due = asyncio.Event()  # the history has grown, or another predictor is wanted

    @property
    def loaded(self) -> bool:
        """Say whether what was kept on the disk has been read."""
        return self._loaded

    @property
    def steps(self) -> int:
        """Return how long the history is."""
        return self._history.steps

    def add(self, measured: Measured) -> None:
        """Take in one second; every five minutes they become one step."""
        self._began = measured.at - measured.seconds if self._began is None else self._began
        self._seconds.append((measured.own_cpus / measured.cpus, measured.own_memory_bytes / measured.memory_bytes))
        if measured.at - self._began >= STEP_SECONDS:
            self._close(measured.at)

    def expected(self, measured: Measured, predictor: str = AUTO) -> Expected:
        """Return the peak that is expected now, by this predictor or by whichever does best here."""
        if predictor != self._wanted:
            self._wanted = predictor
            self._due.set()
        foretold = self._foretold
        if foretold is None or not -STEP_SECONDS <= self._clock() - foretold.ends_at <= LATE_STEPS * STEP_SECONDS:
            shares = (
                measured.own_cpus / measured.cpus + MARGIN,
                measured.own_memory_bytes / measured.memory_bytes + MARGIN,
            )
            name, why = f"fixed {MARGIN * 100:g}", "there is no history of the last minutes yet"
        else:
            shares, name, why = (foretold.shares[0], foretold.shares[1]), foretold.predictor, foretold.why
        return Expected(
            cpus=min(1.0, shares[0]) * measured.cpus,
            memory_bytes=int(min(1.0, shares[1]) * measured.memory_bytes),
            predictor=name,
            why=why,
        )

    async def work(self, folder: Path, complain: Callable[[str, tuple[str, ...]], None]) -> None:
        """Read the history, foretell whenever it grows, and keep it in `folder`; until cancelled."""
        if not self._loaded:
            await asyncio.to_thread(self._load, folder / FILE)
            self._loaded, self._kept = True, self._history
        while True:
            self._due.clear()
            newest = self._history
            if newest.steps:
                self._foretold = await asyncio.to_thread(self._foretell, newest)
            if newest is not self._kept:
                await self._save(folder / FILE, newest, complain)
                self._kept = newest
            await self._due.wait()

    def _close(self, at: float) -> None:
        """Turn the seconds so far into a step; one that was hardly measured counts as not measured."""
        rows: NDArray[np.float64] = np.full((ROWS, max(STEP_SECONDS, len(self._seconds))), np.nan)
        rows[:, : len(self._seconds)] = np.array(self._seconds).T
        self._seconds.clear()
        self._began = at
        now, before = self._clock(), self._history
        if before.ends_at > now + STEP_SECONDS:
            # The clock was ahead. What was measured by it is kept, as if it had ended just now.
            before = History(before.usage, now - STEP_SECONDS, STEP_SECONDS)
        values = high_value(rows)
        self._history = before.add(values, now) if before.steps else history(values[:, None], now)
        self._closed += 1
        self._due.set()

    def _foretell(self, known: History) -> Foretold:
        """Return what is expected after this history; chooses who foretells it when that is due. Takes a moment."""
        by_name = {each.name: each for each in PREDICTORS}
        names, why = (self._wanted,) * ROWS, "as its server pool asks for"
        if self._wanted != AUTO and self._wanted not in by_name:
            why = f"this version knows no predictor {self._wanted!r}"
        if self._wanted not in by_name:
            if self._closed >= self._choose_at:
                self._choose_at = self._closed + min(CHOOSE_STEPS, max(HORIZON_STEPS, known.steps))
                choices = choose(known, HORIZON_STEPS, self._chosen)
                self._chosen = tuple(each.name for each in choices)
                self._why = f"processors {choices[0].text}; memory {choices[1].text}"
            names = self._chosen
            why = self._why if self._wanted == AUTO else f"{why}; {self._why}"
        shares = [float(by_name[name].peak(known, HORIZON_STEPS)[row]) for row, name in enumerate(names)]
        label = names[0] if names[0] == names[1] else f"{names[0]}, memory {names[1]}"
        return Foretold(shares=tuple(shares), predictor=label[:64], why=why[:1000], ends_at=known.ends_at)

    # on the disk

    def _load(self, path: Path) -> None:
        """Go on with what was kept; what cannot be read is set aside, and the history begins anew."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large")
            stored = msgspec.msgpack.decode(path.read_bytes(), type=Stored)
            if stored.version != VERSION or stored.step_seconds != STEP_SECONDS:
                raise ValueError("it is of another version")
            usage = np.frombuffer(stored.usage, dtype="<f4").reshape(ROWS, -1)
            self._history = history(usage.astype(np.float64), stored.ends_at)
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.DecodeError) as error:
            _log.error("the history of this server begins anew", reason=str(error))
            try:
                set_aside(path)
            except OSError as moving:
                _log.warning("it stays where it is", reason=str(moving))
            return
        names = {each.name for each in PREDICTORS}
        if len(stored.chosen) == ROWS and names.issuperset(stored.chosen):
            self._chosen = stored.chosen

    async def _save(self, path: Path, newest: History, complain: Callable[[str, tuple[str, ...]], None]) -> None:
        stored = Stored(
            ends_at=newest.ends_at,
            step_seconds=STEP_SECONDS,
            usage=newest.usage.astype("<f4").tobytes(),
            chosen=self._chosen,
        )
        try:
            await asyncio.to_thread(write_private, path, msgspec.msgpack.encode(stored))
        except OSError as error:
            complain("history", (f"the history of this server cannot be kept: {error.strerror}",))
        else:
            complain("history", ())
