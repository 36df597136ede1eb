"""A process that is killed at any instant has lost nothing it was told is stored."""

import asyncio
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fallow.store.sqlite import SqliteStore

ROUNDS = 12
CALLERS = 8

# Commits pairs of keys as fast as it can and prints each number with its revision once it is told that it is stored.
WRITER = """
import asyncio, itertools, os, pathlib, sys
from fallow.store.contract import Put
from fallow.store.sqlite import SqliteStore

async def write(store, numbers):
    for number in numbers:
        writes = [Put(f"left/{number}", b"%d" % number), Put(f"right/{number}", b"%d" % number)]
        revision = await store.commit([], writes)
        os.write(1, b"%d %d\\n" % (number, revision))

async def main(path, first, callers):
    store = await SqliteStore.open(pathlib.Path(path))
    numbers = itertools.count(first)
    await asyncio.gather(*(write(store, numbers) for _ in range(callers)))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def write_until_killed(path: Path, first: int, wanted_lines: int, further_seconds: float) -> dict[int, int]:
    """Return what a writer was told is stored before it was killed: number -> revision."""
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(CALLERS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(wanted_lines)]
        timer = threading.Timer(further_seconds, process.kill)
        timer.start()
        lines += process.stdout.readlines()
        timer.join()
        assert process.wait() == -9, "it was killed, and did not fail by itself"
    return {int(number): int(revision) for number, revision in (line.split() for line in lines if line.endswith(b"\n"))}


@pytest.mark.timeout(120)
async def test_acknowledged_writes_survive_kill_9(tmp_path):
    path = tmp_path / "store.db"
    chance = random.Random()
    acknowledged: dict[int, int] = {}
    newest = 0
    for _ in range(ROUNDS):
        first = max(acknowledged, default=0) + 1000
        told = await asyncio.to_thread(
            write_until_killed, path, first, chance.randrange(1, 30), chance.uniform(0, 0.05)
        )
        assert told
        acknowledged |= told

        store = await SqliteStore.open(path)
        items, revision = await store.list("")
        found = {item.key: item for item in items}
        assert revision >= max(newest, *told.values()), "revisions never go back"
        assert min(told.values()) > newest, "a revision is given once"
        newest = revision
        for number, at in acknowledged.items():
            assert found[f"left/{number}"].revision == at
            assert found[f"left/{number}"].value == b"%d" % number
        for key, item in found.items():  # those nobody was told of, too: whole or not at all
            side, _, number_text = key.partition("/")
            other = found["right/" + number_text if side == "left" else "left/" + number_text]
            assert (other.revision, other.value) == (item.revision, item.value)
        watch = store.watch("", 0)
        async with asyncio.timeout(10):
            assert [(await anext(watch)).revision for _ in range(revision)] == list(range(1, revision + 1))
        await watch.aclose()
        await store.close()
