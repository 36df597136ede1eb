"""Predictors of a server's peak, replayed on real traces: how often and how far they were wrong, and what they lend.

Every five minutes each predictor foretells the peak of the next hour from at most 29 days before, and is judged by
what came. `chosen by replay` is what a server does: once a day it takes the predictor that did best on its own last
seven days. `oracle` knows the future. Settings were made on parts
named `tune`; docs/design/harvest-prediction.md tells what was seen of parts named `judge` before. `prices` tells, of
small parts, what the learned margin would do at other prices of a violation.

    python benchmarks/harvest/replay.py --traces FOLDER [--only alibaba] [--plots FOLDER] [--json FILE]
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import options_of, write
from machine import describe
from plots import draw
from traces import DAY, HOW, MissingTraceError, Trace, alibaba, bitbrains, numenta

from fallow.decide.harvest.choose import PREDICTORS, Replayed, Rule, choose, pick
from fallow.decide.harvest.cost import Cost, mean_use
from fallow.decide.harvest.history import LONGEST_SECONDS, STEP_SECONDS, Floats, history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.predict import Predictor
from fallow.decide.harvest.replay import Score, score
from fallow.decide.harvest.windows import peak_ahead

HORIZON = 12
LONGEST = LONGEST_SECONDS // STEP_SECONDS
PRICES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # times the usual ones
FEW = 20  # servers: of larger parts the sweep over prices would take an hour
CHOSEN, ORACLE, RIVAL = "chosen by replay", "oracle", "mean+5sd"
SETS = ("alibaba", "numenta", "bitbrains")


@dataclass(frozen=True)
class Part:
    """A trace, and the days of it, from 1 on, that are scored; days before them are history."""

    trace: Trace
    use: str
    days: range


def parts_of(folder: Path, name: str) -> Iterator[Part]:
    """Yield what is replayed of a trace."""
    if name == "alibaba":
        for resource in ("cpu", "memory"):
            trace = alibaba(folder, resource)
            yield Part(trace, "tune", range(2, 5))
            yield Part(trace, "judge", range(5, 9))
    elif name == "bitbrains":
        yield Part(bitbrains(folder, "cpu", 7, range(1, 251)), "tune", range(2, 32))
        yield Part(bitbrains(folder, "cpu", 7, range(251, 501)), "judge", range(2, 32))
        yield Part(bitbrains(folder, "memory", 7, range(251, 501)), "judge", range(2, 32))
        yield Part(bitbrains(folder, "cpu", 8, range(1, 501)), "judge", range(2, 32))
    else:
        yield Part(numenta(folder), "judge", range(2, 16))


def foretell(trace: Trace, predictor: Predictor, days: int, longest: int = LONGEST, first: int = 1) -> Floats:
    """Return (servers, steps) what would have been foretold at every step, a day at a time as its history moves on.

    From day `first` on until the last of so many days; `longest` is how many steps a history has at most.
    """
    foretold = []
    for end in range(first * DAY, days * DAY + 1, DAY):
        usage = trace.usage[:, max(end - longest, 0) : end]
        seen = history(usage, trace.starts_at + end * STEP_SECONDS)
        foretold.append(predictor.peaks(seen, HORIZON, DAY))
    return np.concatenate(foretold, axis=1)


def chosen(trace: Trace, foretold: dict[str, Floats], peaks: Floats) -> tuple[Floats, dict[str, int], int]:
    """Return what the predictors chosen day by day foretold, on how many server days each was used, and changes."""
    result = foretold[PREDICTORS[0].name].copy()
    names: list[str] = [PREDICTORS[0].name] * len(result)
    rule, days, changes = Rule(), dict.fromkeys(foretold, 0), 0
    for start in range(DAY, result.shape[1], DAY):
        past = slice(max(start - rule.days * DAY, 0), start - HORIZON)  # later peaks are not over yet
        looked = {name: each[:, past] for name, each in foretold.items()}
        choices = pick(Replayed(looked, peaks[:, past], mean_use(trace.usage[:, past]), DAY), names, rule)
        changes += sum(choice.name != name for choice, name in zip(choices, names, strict=True))
        names = [choice.name for choice in choices]
        for server, name in enumerate(names):
            result[server, start : start + DAY] = foretold[name][server, start : start + DAY]
            days[name] += 1
    return result, days, changes


def replay(part: Part) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return the figures of a part, and what was foretold by predictor."""
    peaks = peak_ahead(part.trace.usage, HORIZON)
    last = part.days.stop - 1
    foretold, seconds = {}, {}
    for predictor in PREDICTORS:
        started = time.process_time()
        foretold[predictor.name] = foretell(part.trace, predictor, last)
        seconds[predictor.name] = round(time.process_time() - started, 2)
    peaks = peaks[:, : last * DAY]
    taken, days, changes = chosen(part.trace, foretold, peaks)
    foretold |= {CHOSEN: taken, ORACLE: np.where(np.isfinite(peaks), peaks, 1.0)}
    judged = slice((part.days.start - 1) * DAY, last * DAY)
    scores = {name: score(each[:, judged], peaks[:, judged]) for name, each in foretold.items()}
    figures = {
        "trace": part.trace.name,
        "resource": part.trace.resource,
        "use": part.use,
        "servers": len(part.trace.servers),
        "days": [part.days.start, last],
        "steps": scores[ORACLE].steps,
        "predictors": {name: _figures(each, scores) for name, each in scores.items()},
        "prices": _prices(part, peaks[:, judged], judged, scores),
        "chosen_server_days": days,
        "changes_per_server_and_week": round(changes / len(taken) / max(last - 1, 1) * 7, 2),
        "processor_seconds": seconds,
    }
    return figures, foretold


def _prices(part: Part, peaks: Floats, judged: slice, scores: dict[str, Score]) -> dict[str, dict[str, float]]:
    """Return the figures of the learned margin at other prices."""
    usual, figures = Cost(), {}
    for times in PRICES if len(part.trace.servers) <= FEW else ():
        predictor = LearnedMargin(cost=Cost(usual.violation * times, usual.overshoot * times))
        foretold = foretell(part.trace, predictor, judged.stop // DAY)[:, judged]
        figures[f"{times:g}"] = _figures(score(foretold, peaks), scores)
    return figures


def _figures(done: Score, scores: dict[str, Score]) -> dict[str, float]:
    rival, best = scores[RIVAL], scores[ORACLE]
    return {
        "violation_percent": round(done.violations * 100, 2),
        "overshoot_points": round(done.overshoot * 100, 2),
        "overshoot_p99_points": round(done.overshoot_p99 * 100, 1),
        "overshoot_worst_points": round(done.worst * 100, 1),
        "overshoot_per_step_points": round(done.overshoot * done.violations * 100, 3),
        "harvested_percent": round(done.harvested * 100, 2),
        "of_the_way_from_5sd_to_oracle_percent": round(
            (done.harvested - rival.harvested) / (best.harvested - rival.harvested) * 100, 1
        ),
    }


def speed() -> dict[str, float]:
    """Return milliseconds of one prediction over 29 days, for one server and for a thousand, and of a choice."""
    steps = np.arange(LONGEST)
    wave = 0.3 + 0.2 * np.sin(2 * np.pi * steps / DAY) + 0.1 * ((steps * 2_654_435_761) % 1_000 / 1_000)
    figures = {}
    for servers in (1, 1_000):
        seen = history(np.tile(wave, (servers, 1)), float(LONGEST * STEP_SECONDS))
        for predictor in PREDICTORS:
            predictor.peak(seen, HORIZON)
            started = time.perf_counter()
            predictor.peak(seen, HORIZON)
            figures[f"{predictor.name}, {servers} servers, ms"] = round((time.perf_counter() - started) * 1e3, 2)
    started = time.perf_counter()
    choose(history(wave[None], float(LONGEST * STEP_SECONDS)), HORIZON)
    figures["choice over 7 days, 1 server, ms"] = round((time.perf_counter() - started) * 1e3, 1)
    return figures


def main(arguments: Sequence[str]) -> int:
    """Replay and write one JSON object; return 2 when a trace is missing."""
    parser = options_of(f"{__doc__}\n{HOW}")
    parser.add_argument("--traces", type=Path, required=True, help="the folder with the repositories named below")
    parser.add_argument("--only", choices=SETS, help="replay one trace")
    parser.add_argument("--plots", type=Path, help="draw plots as SVG into this folder")
    options = parser.parse_args(arguments)
    answer: dict[str, Any] = {"benchmark": "harvest-replay", "machine": describe(), "speed": speed()}
    answer |= {"step_seconds": STEP_SECONDS, "horizon_steps": HORIZON, "replays": []}
    try:
        for name in [options.only] if options.only else SETS:
            for part in parts_of(options.traces, name):
                figures, foretold = replay(part)
                answer["replays"].append(figures)
                _tell(figures)
                if options.json:
                    write(answer, options)  # all but the last part is kept when somebody stops it
                if options.plots:
                    draw(options.plots, part, figures, foretold)
    except MissingTraceError as missing:
        print(missing, file=sys.stderr)
        return 2
    write(answer, options)
    return 0


def _tell(figures: dict[str, Any]) -> None:
    print(" ".join(str(figures[key]) for key in ("trace", "resource", "use", "servers", "days")), file=sys.stderr)
    for name, done in (figures["predictors"] | figures["prices"]).items():
        print(f"  {name:18} {' '.join(f'{value:9}' for value in done.values())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
