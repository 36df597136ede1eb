"""What a term of the week does: synthetic weeks of servers that are busy in office hours, and what changes them.

Five weeks from a Monday's midnight on, of which the last two are judged: with a history of eight days, which knows no
week, and with the one that servers keep. None of the traces tells of weekends: Alibaba's has eight days, and the
virtual machines of the others hardly know one. Each server has its own office hours, height and day-to-day
differences, noise that holds for an hour or so, and a burst a day at any time. Scenarios differ in nothing but what
they are named for.

    python benchmarks/harvest/weeks.py [--plots FOLDER] [--json FILE]
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import options_of, write
from machine import describe
from plots import draw_days
from replay import HORIZON, LONGEST, foretell
from traces import DAY, Trace

from fallow.decide.harvest.history import Floats
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.replay import score
from fallow.decide.harvest.windows import peak_ahead

WEEKS, SERVERS = 5, 40
MONDAY = 4 * 86_400.0  # 1970-01-05, UTC
_HOUR = DAY // 24
_IDLE = 0.1
_JUDGED = range(22, 36)  # days, from 1 on
_HISTORIES = {"of eight days": 8 * DAY, "with weeks": LONGEST}
_SHOWN = ("office", 3, range(25, 31))  # a server, and days: Thursday to Tuesday
Busy = NDArray[np.float64]  # (days,): how much of its usual height a day reaches


def _office() -> Busy:
    return np.tile([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], WEEKS)


def _with(days: Mapping[int, float]) -> Callable[[], Busy]:
    """Return a maker of office weeks in which some days, from 1 on, are otherwise."""

    def busy() -> Busy:
        made = _office()
        for day, share in days.items():
            made[day - 1] = share
        return made

    return busy


SCENARIOS: dict[str, Callable[[], Busy]] = {
    "office": _office,
    "every day": lambda: np.ones(7 * WEEKS),
    "always idle": lambda: np.zeros(7 * WEEKS),
    "worked weekend": _with({27: 1.0, 28: 1.0}),
    "long weekend": _with({26: 0.0}),
    "holiday on a Monday": _with({22: 0.0}),
    "new weekends": lambda: np.concatenate([np.ones(7 * (WEEKS - 2)), _office()[-14:]]),
    "no weekends any more": lambda: np.concatenate([_office()[:-14], np.ones(14)]),
    "two weeks off": _with(dict.fromkeys(range(15, 29), 0.0)),
    "clocks change": _office,
}


def weeks(scenario: str, servers: int = SERVERS, seed: int = 12) -> Trace:
    """Return the usage of a scenario, (servers, steps) of five minutes."""
    chance = np.random.default_rng(seed)
    busy = SCENARIOS[scenario]()
    height = chance.uniform(0.25, 0.6, (servers, 1)) * np.clip(chance.normal(1, 0.12, (servers, len(busy))), 0.5, 1.4)
    opens = chance.uniform(6, 10, (servers, 1)) + chance.normal(0, 0.15, (servers, len(busy)))
    closes = opens + chance.uniform(8, 11, (servers, 1))
    hour = np.arange(DAY) / _HOUR
    if scenario == "clocks change":
        opens[:, 27:], closes[:, 27:] = opens[:, 27:] - 1, closes[:, 27:] - 1
    open_ = 1 / (1 + np.exp(-(hour - opens[..., None]) * 6)) / (1 + np.exp((hour - closes[..., None]) * 4))
    usage = (_IDLE + (height * busy)[..., None] * open_).reshape(servers, -1)
    noise = chance.normal(0, 1, usage.shape)
    slow = np.apply_along_axis(np.convolve, 1, noise, np.exp(-np.arange(36) / 8) / 2, mode="same")
    usage = usage * (1 + 0.06 * slow + 0.04 * chance.normal(0, 1, usage.shape))
    starts = chance.random(usage.shape) < 1 / DAY
    size = np.where(starts, chance.uniform(0.1, 0.4, usage.shape), 0.0)
    usage += np.maximum(size, np.roll(size, 1, axis=1))
    names = tuple(f"{scenario} {number}" for number in range(servers))
    return Trace(f"weeks: {scenario}", "cpu", names, np.clip(usage, 0.0, 1.0), MONDAY)


def judged(scenario: str) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return the figures of a scenario, and what was foretold by history, (servers, steps) of the judged days."""
    trace, first, last = weeks(scenario), _JUDGED.start, _JUDGED.stop - 1
    foretold = {name: foretell(trace, LearnedMargin(), last, longest, first) for name, longest in _HISTORIES.items()}
    step = np.arange((first - 1) * DAY, last * DAY)
    peaks = peak_ahead(trace.usage, HORIZON)[:, step]
    day, hour = step // DAY + 1, step % DAY / _HOUR
    weekday, morning = (day - 1) % 7, (hour >= 5) & (hour < 12)
    parts = {
        "all": day > 0,
        "weekdays": weekday < 5,
        "weekends": weekday >= 5,
        "mornings from Tuesday to Friday": morning & (weekday > 0) & (weekday < 5),
        "last Monday": day == 29,
        "its morning": (day == 29) & morning,
    }
    figures = {
        part: {name: _figures(told[:, steps], peaks[:, steps]) for name, told in foretold.items()}
        for part, steps in parts.items()
    }
    return figures, foretold


def _figures(foretold: Floats, peaks: Floats) -> dict[str, float]:
    done = score(foretold, peaks)
    return {
        "violation_percent": round(done.violations * 100, 2),
        "overshoot_per_step_points": round(done.overshoot * done.violations * 100, 3),
        "harvested_percent": round(done.harvested * 100, 2),
        "oracle_percent": round(done.possible * 100, 2),
    }


def main(arguments: Sequence[str]) -> int:
    """Replay all scenarios and write one JSON object."""
    parser = options_of(__doc__)
    parser.add_argument("--plots", type=Path, help="draw the plot as SVG into this folder")
    options = parser.parse_args(arguments)
    answer: dict[str, Any] = {"benchmark": "harvest-weeks", "machine": describe(), "servers": SERVERS}
    answer |= {"days": [_JUDGED.start, _JUDGED.stop - 1], "scenarios": {}}
    for scenario in SCENARIOS:
        answer["scenarios"][scenario], foretold = judged(scenario)
        if options.plots and scenario == _SHOWN[0]:
            draw_days(options.plots / "harvest-weeks.svg", weeks(scenario), _SHOWN[1:], foretold, _JUDGED.start)
    write(answer, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
