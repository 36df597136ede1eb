"""How fast an offer should rise after a peak: by real traces, and by bursts of seconds, which no trace at hand has.

Traces: what an offer stands on is `max(foretold, used now)`, which falls by no more than a whole server in `rise`
seconds. It is judged like a predictor, by what came within the next hour. Alibaba's samples, 100 s apart on average,
are held until the next; the others have one value in five minutes.

Bursts: the loop of a server itself, second by second for six hours, after two days of history. The primary uses 15 %
of the processors and in its bursts 90 %. Whatever is offered is taken at once, if the server is below its threshold
with it, and stays until a relief sends it away; then the server backs off.

    python benchmarks/harvest/rises.py --traces FOLDER [--json FILE]
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import options_of, write
from machine import describe
from replay import HORIZON, foretell
from traces import DAY, HOW, MissingTraceError, Trace, alibaba, alibaba_samples, bitbrains, numenta

from fallow.decide.harvest import lending
from fallow.decide.harvest.history import STEP_SECONDS, Floats, high_value, history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.lending import Expected, Held, Told, hold
from fallow.decide.harvest.measured import Measured
from fallow.decide.harvest.replay import score
from fallow.decide.harvest.windows import peak_ahead
from fallow.model.server_pools import LendingPolicy

RISES = (1.0, 60.0, 120.0, 300.0, 600.0, 1200.0)  # seconds
CPUS, MEMORY = 16.0, 64 * 2**30
CALM, BURST = 0.15, 0.90  # of the processors
IN_USE = lending.CPU_RISE_SECONDS
LEARNT, PLAYED = 2 * 86_400, 6 * 3600  # seconds


@dataclass(frozen=True)
class Part:
    """A trace, what was used every `look` seconds of it, and the days, from 1 on, that are judged."""

    trace: Trace
    used: Floats
    look: int
    days: range


def parts_of(folder: Path) -> Iterator[Part]:
    """Yield what is replayed."""
    yield Part(alibaba(folder, "cpu"), alibaba_samples(folder, 10), 10, range(2, 5))
    yield Part(alibaba(folder, "cpu"), alibaba_samples(folder, 10), 10, range(5, 9))
    coarse = [(numenta(folder), range(2, 16))]
    coarse += [(bitbrains(folder, "cpu", month, range(251, 351)), range(2, 32)) for month in (7, 8)]
    for trace, days in coarse:
        yield Part(trace, np.repeat(trace.usage, STEP_SECONDS // 60, axis=1), 60, days)


def replayed(part: Part) -> dict[str, Any]:
    """Return the figures of a part."""
    last, per_step = part.days.stop - 1, STEP_SECONDS // part.look
    told = np.repeat(foretell(part.trace, LearnedMargin(), last), per_step, axis=1)
    used = part.used[:, : told.shape[1]]
    told = np.concatenate([np.ones((len(told), per_step)), told[:, :-per_step]], axis=1)  # known once its step is over
    peaks = peak_ahead(part.used, HORIZON * per_step)[:, : told.shape[1]]
    judged = slice((part.days.start - 1) * DAY * per_step, None)
    figures: dict[str, Any] = {}
    for rise in RISES:
        found = score(falling(np.fmax(told, used), part.look / rise)[:, judged], peaks[:, judged])
        figures[f"{rise:g}"] = {
            "above_percent": round(found.violations * 100, 2),
            "above_per_step_points": round(found.violations * found.overshoot * 100, 3),
            "lent_percent": round(found.harvested * 100, 2),
        }
    idle = 1 - float(np.nanmean(used[:, judged]))
    names = {"trace": part.trace.name, "servers": len(used), "days": [part.days.start, last]}
    return {**names, "look_seconds": part.look, "idle_percent": round(idle * 100, 2), "rises": figures}


def falling(wanted: Floats, most: float) -> Floats:
    """Return (servers, looks) values as wanted, which fall by no more than `most` from look to look."""
    found = wanted.copy()
    for at in range(1, found.shape[1]):
        np.maximum(wanted[:, at], found[:, at - 1] - most, out=found[:, at])
    return found


@dataclass(frozen=True)
class Bursts:
    """Bursts every so many seconds, or so many on average; `new`: only since the six hours began."""

    every: float
    shortest: float
    longest: float
    regular: bool = False
    new: bool = False

    @property
    def name(self) -> str:
        """As `3 s every 60 s`."""
        long = f"{self.shortest:g}" + (f" to {self.longest:g}" if self.longest > self.shortest else "")
        on_average = "" if self.regular else " on average"
        return f"{long} s every {self.every:g} s{on_average}{', never before' if self.new else ''}"

    def used(self) -> Floats:
        """Return what the primary uses each second, as a share of the processors."""
        chance = Random(7)
        used = np.full(LEARNT + PLAYED, CALM)
        at = self.every + (LEARNT if self.new else 0)
        while at < len(used):
            used[int(at) : int(at + chance.uniform(self.shortest, self.longest))] = BURST
            at += self.every if self.regular else chance.expovariate(1 / self.every)
        return used


BURSTS = (
    Bursts(15.0, 3.0, 3.0, regular=True),
    Bursts(30.0, 2.0, 2.0, regular=True),
    Bursts(60.0, 3.0, 3.0, regular=True),
    Bursts(300.0, 10.0, 10.0, regular=True),
    Bursts(300.0, 1.0, 15.0),
    Bursts(60.0, 1.0, 4.0),
    Bursts(900.0, 10.0, 120.0),
    Bursts(900.0, 30.0, 200.0, new=True),
    Bursts(300.0, 30.0, 200.0, new=True),
    Bursts(7200.0, 60.0, 300.0, new=True),
)


def played(used: Floats, rise: float) -> dict[str, float]:
    """Return the figures of six hours."""
    lending.CPU_RISE_SECONDS = rise
    policy = LendingPolicy()
    steps = high_value(used.reshape(-1, STEP_SECONDS))
    held, placed, rests_until, share = Held(), 0.0, 0.0, 1.0
    relieved, sums = 0, np.zeros(3)  # offered, placed, lent
    for second, own in enumerate(used[LEARNT:]):
        if second % STEP_SECONDS == 0:
            known = history(steps[None, : (LEARNT + second) // STEP_SECONDS], float(LEARNT + second))
            share = float(LearnedMargin().peak(known, HORIZON)[0])
        lent = min(placed, held.limit_cpus, CPUS * (1 - own))
        measured = Measured(
            at=float(second), seconds=1.0, cpus=CPUS, memory_bytes=MEMORY, used_cpus=own * CPUS + lent,
            used_memory_bytes=0, lent_cpus=lent, throttled=float(lent < placed),
        )  # fmt: skip
        expected = Expected(cpus=share * CPUS, memory_bytes=0, predictor="", why="")
        held = hold(held, Told(policy=policy, asked_cpus=placed), measured, expected, float(second))
        if held.relief.cpus > 0:
            placed, rests_until, relieved = placed - held.relief.cpus, second + policy.backoff_seconds, relieved + 1
        elif second >= rests_until:
            below = policy.cpu_threshold * CPUS - measured.used_cpus
            placed += max(0.0, min((held.offer_cpus or 0.0) - placed, below))
        sums += (held.offer_cpus or 0.0, placed, lent)
    idle = float((1 - used[LEARNT:]).sum()) * CPUS
    offered, asked, taken = (sums / idle * 100).round(1).tolist()
    return {
        "offered_percent_of_idle": offered,
        "placed_percent_of_idle": asked,
        "lent_percent_of_idle": taken,
        "evictions_an_hour": round(relieved / (PLAYED / 3600), 2),
    }


def main(arguments: Sequence[str]) -> int:
    """Replay and write one JSON object; return 2 when a trace is missing."""
    parser = options_of(f"{__doc__}\n{HOW}")
    parser.add_argument("--traces", type=Path, required=True, help="the folder with the repositories named below")
    options = parser.parse_args(arguments)
    answer: dict[str, Any] = {"benchmark": "harvest-rises", "machine": describe(), "in_use_seconds": IN_USE}
    try:
        answer["traces"] = [replayed(part) for part in parts_of(options.traces)]
    except MissingTraceError as missing:
        print(missing, file=sys.stderr)
        return 2
    answer["bursts"] = {each.name: {f"{rise:g}": played(each.used(), rise) for rise in RISES} for each in BURSTS}
    write(answer, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
