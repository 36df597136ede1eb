"""Whole runs under virtual time and faults; and proof that the simulator finds mistakes and repeats itself."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from unittest import mock

import pytest

from simulation.mutations import MUTATIONS, Mutation
from simulation.promises import WIDE_FROM
from simulation.world import check, run

TESTS = Path(__file__).parents[1]


def test_whatever_happens_every_promise_is_kept(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_is_found(mutation: Mutation) -> None:
    assert found_by(mutation) is not None, f"no run of {mutation.within} noticed: {mutation.name}"


def found_by(mutation: Mutation) -> int | None:
    """Return the first seed that breaks the promise which a mistake breaks."""
    with mutation.made():
        broken = ((seed, run(seed).violation) for seed in mutation.seeds())
        return next((seed for seed, why in broken if str(why).startswith(mutation.breaks)), None)


def test_seeds_tell_the_same_story_in_another_process() -> None:
    told_twice(1, 7, WIDE_FROM, WIDE_FROM + 1, WIDE_FROM + 3, WIDE_FROM + 4)


def told_twice(*seeds: int) -> None:
    """Check that other processes, with other hash seeds, tell the same stories as this one on a slow machine."""

    def told(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "simulation", *map(str, seeds)]
        done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return done.stdout

    first = told("1")
    assert first == told("4711")
    assert _digests_on_a_slow_machine(seeds) == re.findall("hash ([0-9a-f]{16})$", first, re.MULTILINE)


def _digests_on_a_slow_machine(seeds: Sequence[int]) -> list[str]:
    """Run them where whoever measures how long something took finds that it took a second."""
    seconds = count(time.monotonic())
    with (
        mock.patch.object(time, "monotonic", lambda: next(seconds)),
        mock.patch.object(time, "perf_counter", lambda: next(seconds)),
    ):
        return [run(seed).digest[:16] for seed in seeds]
