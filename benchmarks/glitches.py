"""Outages under the threshold: a thousand of them, at random, and how many replicas they move.

The simulator plays lives of a federation (tests/simulation): the control planes are the real code, on virtual time. Of
its courses only "glitches" is played here: a cluster is cut off, heard but not answered, answered but not heard, or
killed, or the host is, for up to the time after which it is suspect. Any replica that a cluster is told to run or to
give up meanwhile, and any new division, breaks the run.

    python benchmarks/glitches.py [--outages 1000] [--from 0] [--workers 2]
"""

import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

from figures import options_of, write
from machine import describe

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

from simulation.federation.scenario import chance_of, course_of  # noqa: E402
from simulation.promises import FEDERATION_FROM  # noqa: E402
from simulation.world import Outcome, run  # noqa: E402

ALL_LINES = 1_000_000
_OUTAGE = re.compile(r"FAULT\s+for ([\d.]+) s: (cut off|mute|deaf|killed|host) ")

AT_ONCE = 20  # runs


def seeds(first: int) -> Iterator[int]:
    """Yield the runs of a federation whose course it is."""
    return (seed for seed in count(FEDERATION_FROM + first) if course_of(chance_of(seed)) == "glitches")


def whole(seed: int) -> Outcome:
    """Play one run and keep all of its story."""
    return run(seed, ALL_LINES)


def measure(wanted: int, first: int, workers: int) -> dict[str, Any]:
    """Play until there were so many outages, and return all numbers."""
    kinds: Counter[str] = Counter()
    lengths: list[float] = []
    broken: dict[int, str] = {}
    machine, runs, left = describe(), 0, seeds(first)
    with ProcessPoolExecutor(workers) as pool:
        while len(lengths) < wanted:
            for found in pool.map(whole, islice(left, AT_ONCE)):
                outages = [_OUTAGE.search(line) for line in found.lines]
                kinds.update(outage[2] for outage in outages if outage)
                lengths += [float(outage[1]) for outage in outages if outage]
                runs += 1
                if found.violation is not None:
                    broken[found.seed] = found.violation
            sys.stderr.write(f"{runs} runs, {len(lengths)} outages, {len(broken)} broken\n")
    return {
        "benchmark": "glitches",
        "machine": machine,
        "runs": runs,
        "outages": len(lengths),
        "kinds": dict(sorted(kinds.items())),
        "outage_seconds": {"median": statistics.median(lengths), "longest": max(lengths)},
        "moved": sum("a glitch moves nothing" in how for how in broken.values()),
        "broken": broken,
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--outages", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed to look at")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    write(measure(options.outages, options.first, options.workers), options)


if __name__ == "__main__":
    main()
