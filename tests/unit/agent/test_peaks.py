"""Peaks are foretold from a history that survives restarts, jumps of the clock, and files that are cut off."""

import asyncio
import contextlib

import msgspec
import numpy as np
import pytest
from session_peer import until

from fallow.agent.peaks import FILE, HORIZON_STEPS, Peaks, Stored
from fallow.decide.harvest.history import LONGEST_SECONDS, STEP_SECONDS
from fallow.decide.harvest.measured import Measured

START = 1_790_000_100.0


class Clock:
    def __init__(self):
        self.utc, self.steady = START, 50.0

    def __call__(self):
        return self.utc


def second(clock, share, memory=0.25, seconds=1.0):
    return Measured(
        at=clock.steady,
        seconds=seconds,
        cpus=8,
        memory_bytes=1000,
        used_cpus=8 * share,
        used_memory_bytes=int(1000 * memory),
    )


def live(peaks, clock, share, steps=1, seconds=STEP_SECONDS):
    for _ in range(steps):
        for _ in range(seconds):
            clock.steady += STEP_SECONDS / seconds
            clock.utc += STEP_SECONDS / seconds
            peaks.add(second(clock, share, seconds=STEP_SECONDS / seconds))


@pytest.fixture
def clock():
    return Clock()


@contextlib.asynccontextmanager
async def at_work(folder, clock):
    problems = {}
    peaks = Peaks(clock)
    task = asyncio.create_task(peaks.work(folder, problems.__setitem__))
    try:
        await until(lambda: peaks.loaded)
        yield peaks, problems
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_a_history_a_fixed_margin_is_expected(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        found = peaks.expected(second(clock, 0.2))
    assert found.cpus == pytest.approx(8 * 0.6) and found.memory_bytes == 650
    assert found.predictor == "fixed 40" and "no history" in found.why
    assert peaks.expected(second(clock, 0.9)).cpus == 8


async def test_a_quiet_server_is_expected_to_stay_quiet_once_it_is_known(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, problems):
        await until(lambda: peaks.steps == 0)
        live(peaks, clock, 0.1, steps=60)
        await until(lambda: "no history" not in peaks.expected(second(clock, 0.1)).why)
        found = peaks.expected(second(clock, 0.1))
        assert 0.1 * 8 <= found.cpus < 0.4 * 8 and 250 <= found.memory_bytes < 550
        assert found.predictor and "chosen" in found.why and "memory" in found.why
        await until(lambda: problems == {"history": ()})  # told once the file is there
        assert (tmp_path / FILE).exists()


async def test_the_predictor_of_the_policy_is_used_and_an_unknown_one_is_told(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=30)
        await until(lambda: peaks.expected(second(clock, 0.1), "mean+5sd").predictor == "mean+5sd")
        assert peaks.expected(second(clock, 0.1), "mean+5sd").cpus == pytest.approx(0.8, abs=0.05)
        await until(lambda: "knows no predictor 'oracle'" in peaks.expected(second(clock, 0.1), "oracle").why)


async def test_a_restart_goes_on_with_the_history(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=40)
        await until((tmp_path / FILE).exists)
    clock.utc += 200
    clock.steady = 3.0
    async with at_work(tmp_path, clock) as (again, _):
        await until(lambda: again.steps == 40)
        await until(lambda: "chosen" in again.expected(second(clock, 0.1)).why)
        assert again.expected(second(clock, 0.1)).cpus < 0.4 * 8


def kept(folder):
    return msgspec.msgpack.decode((folder / FILE).read_bytes(), type=Stored)


@pytest.mark.parametrize("days", [8, 29, 40])
async def test_weeks_survive_a_restart_and_what_older_agents_kept_is_read(tmp_path, clock, days):
    usage = np.full((2, days * 288), 0.25, dtype="<f4")
    stored = Stored(ends_at=clock.utc, step_seconds=STEP_SECONDS, usage=usage.tobytes(), chosen=("fixed 40",) * 2)
    (tmp_path / FILE).write_bytes(msgspec.msgpack.encode(stored))
    async with at_work(tmp_path, clock) as (peaks, _):
        assert peaks.steps == days * 288
        live(peaks, clock, 0.25, seconds=150)
        assert peaks.steps == min(days * 288 + 1, LONGEST_SECONDS // STEP_SECONDS)
        await until(lambda: len(kept(tmp_path).usage) == 2 * 4 * peaks.steps)
        assert (tmp_path / FILE).stat().st_size < 68_000


async def test_a_history_that_ended_long_ago_says_nothing_of_now(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=40)
        await until((tmp_path / FILE).exists)
    clock.utc += 3600
    async with at_work(tmp_path, clock) as (again, _):
        await until(lambda: again.steps == 40)
        assert "no history of the last minutes" in again.expected(second(clock, 0.1)).why
        live(again, clock, 0.1)
        assert again.steps == 40 + 13  # with the hour that was not measured
        await until(lambda: "chosen" in again.expected(second(clock, 0.1)).why)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
async def test_a_file_that_cannot_be_read_begins_anew(tmp_path, clock, damage):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=3)
        await until((tmp_path / FILE).exists)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-5] if damage is None else damage)
    async with at_work(tmp_path, clock) as (again, _):
        await until((tmp_path / f"{FILE}.1").exists)
        assert again.steps == 0
        live(again, clock, 0.1)
        await until((tmp_path / FILE).exists)


async def test_a_file_killed_at_any_byte_is_whole_or_set_aside(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=2)
        await until((tmp_path / FILE).exists)
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(0, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:cut])
        found = Peaks(clock)
        found._load(tmp_path / FILE)
        assert found.steps == 0
    (tmp_path / FILE).write_bytes(whole)
    found._load(tmp_path / FILE)
    assert found.steps == 2


def test_a_history_is_bounded(clock):
    peaks = Peaks(clock)
    live(peaks, clock, 0.1, steps=LONGEST_SECONDS // STEP_SECONDS + 50, seconds=2)
    assert peaks.steps == LONGEST_SECONDS // STEP_SECONDS


async def test_a_clock_that_was_ahead_does_not_stop_the_history(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=30)
        clock.utc += 10 * 365 * 86400
        live(peaks, clock, 0.1)
        clock.utc -= 10 * 365 * 86400
        steps = peaks.steps
        live(peaks, clock, 0.1, steps=5)
        assert peaks.steps >= min(steps + 5, LONGEST_SECONDS // STEP_SECONDS)
        await until(lambda: "chosen" in peaks.expected(second(clock, 0.1)).why)


async def test_seconds_that_are_missing_make_a_step_that_was_not_measured(tmp_path, clock):
    async with at_work(tmp_path, clock) as (peaks, _):
        live(peaks, clock, 0.1, steps=30)
        live(peaks, clock, 0.0, steps=HORIZON_STEPS, seconds=10)  # hardly anything was measured: full, not idle
        await until(lambda: peaks.expected(second(clock, 0.0)).cpus == 8.0)


async def test_a_disk_that_is_full_is_told(tmp_path, clock):
    (tmp_path / "taken").write_text("")
    async with at_work(tmp_path / "taken" / "below", clock) as (peaks, problems):
        live(peaks, clock, 0.1, steps=1)
        await until(lambda: problems.get("history"))
        assert "cannot be kept" in problems["history"][0]
