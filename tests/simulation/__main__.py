"""`python -m simulation SEED...` tells runs; `python -m simulation --seeds N [--from M]` tries many, on all cores."""

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from simulation.promises import FEDERATION_FROM, HOSTING_FROM, WIDE_FROM
from simulation.world import Outcome, report, run

AT_ONCE = 5
KINDS = {"narrow": 0, "wide": WIDE_FROM, "federation": FEDERATION_FROM, "hosting": HOSTING_FROM}


def _several(seeds: list[int]) -> list[Outcome]:
    return [run(seed) for seed in seeds]


def _chunks(first: int, count: int) -> Iterator[list[int]]:
    for start in range(first, first + count, AT_ONCE):
        yield list(range(start, min(start + AT_ONCE, first + count)))


def many(first: int, count: int, stop_at: int) -> int:
    """Run seeds on all cores with a progress line; tell up to `stop_at` broken ones and return how many broke."""
    began, done, broken = time.monotonic(), 0, 0
    totals = {"commits": 0, "planes": 0, "answered": 0, "virtual": 0.0}
    workers = multiprocessing.cpu_count()
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_several, seeds) for seeds in _chunks(first, count)]
        for job in as_completed(jobs):
            for found in job.result():
                done += 1
                totals["commits"] += found.commits
                totals["planes"] += found.planes
                totals["answered"] += found.answered
                totals["virtual"] += found.virtual_seconds
                if found.violation is not None:
                    broken += 1
                    sys.stdout.write(f"\n{report(found)}\n")
            spent = time.monotonic() - began
            sys.stdout.write(f"\r{done}/{count} seeds, {broken} broken, {spent:.0f} s, {done / spent:.1f} a second ")
            sys.stdout.flush()
            if broken >= stop_at:
                pool.shutdown(cancel_futures=True)
                break
    sys.stdout.write(
        f"\n{done} seeds: {broken} broken; {totals['virtual'] / 3600:.1f} virtual hours, {totals['commits']} commits, "
        f"{totals['planes']} starts of a control plane, {totals['answered']} requests answered\n"
    )
    return broken


def main() -> int:
    """Read the command line; return 1 when an invariant broke."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", default=[0], help="tell these runs")
    parser.add_argument("--seeds", type=int, default=0, help="try so many")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed of many")
    parser.add_argument("--kind", choices=KINDS, default="narrow", help="count seeds from the first of this kind on")
    parser.add_argument("--stop-at", type=int, default=5, help="end after so many broken ones")
    parser.add_argument("--lines", type=int, default=4000, help="lines of the story to tell")
    asked = parser.parse_args()
    if asked.seeds:
        most = next((end for end in sorted(KINDS.values()) if end > KINDS[asked.kind]), math.inf) - KINDS[asked.kind]
        if asked.first + asked.seeds > most:
            parser.error(f"there are {most} seeds of this kind; what follows is of another")
        return 1 if many(KINDS[asked.kind] + asked.first, asked.seeds, asked.stop_at) else 0
    broken = [seed for seed in asked.seed if _tell(seed, asked.lines)]
    return 1 if broken else 0


def _tell(seed: int, lines: int) -> bool:
    """Tell a run; return whether something broke."""
    found = run(seed, lines)
    sys.stdout.write("\n".join(found.lines) + "\n")
    sys.stdout.write(f"{found.violation or 'nothing broke'}; {found.told} lines, hash {found.digest[:16]}\n")
    return found.violation is not None


if __name__ == "__main__":
    sys.exit(main())
