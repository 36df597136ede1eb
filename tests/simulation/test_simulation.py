"""Whole runs under virtual time and faults; and proof that the simulator finds mistakes and repeats itself."""

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("told_again", [7, WIDE_FROM + 5])
def test_a_seed_tells_the_same_story_in_another_process(told_again: int) -> None:
    told_twice(told_again)


def told_twice(seed: int) -> None:
    """Check that other processes, with other hash seeds, tell the same story as this one."""

    def told(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "simulation", str(seed)]
        done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return done.stdout

    here = run(seed)
    first = told("1")
    assert first == told("4711")
    assert here.digest[:16] in first
