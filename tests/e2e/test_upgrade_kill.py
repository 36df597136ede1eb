"""An upgrade that is killed at any instant goes on at the next start and ends as if it never was."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from fallow.decide.events import event
from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.store.contract import Put
from fallow.store.open import open_store
from fallow.store.sqlite import SqliteStore
from fallow.store.upgrade import PORTION

EVENTS = PORTION * 40
ROUNDS = 4
# Opens the store as a control plane does, and tells of every commit that is under way.
OPENER = """
import asyncio, os, sys
from fallow.store.open import open_store
from fallow.store.sqlite import SqliteStore

commit = SqliteStore.commit
async def told(self, checks, writes):
    os.write(2, b".")
    return await commit(self, checks, writes)
SqliteStore.commit = told

async def main():
    store = await open_store(sys.argv[1])
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
async def kept(tmp_path) -> Path:
    """Return a file of version 1 with many more events than one portion."""
    path = tmp_path / "kept.db"
    shutil.copy(Path(__file__).parents[1] / "data" / "store-v1.db", path)
    store = await SqliteStore.open(path)
    writes = []
    for number in range(EVENTS):
        actor = "api:ci" if number % 3 == 0 else "loop:members"
        told = event(f"e{number:05d}", 2e6 + number, actor, "member", "n-1", "node-1", "MemberChanged", str(number))
        writes.append(Put(f"events/{told.id}", msgspec.msgpack.encode(told)))
    await store.commit([], writes)
    await store.close()
    return path


async def content(path: Path) -> dict[str, bytes]:
    store = await open_store(f"sqlite:{path}")
    items, _ = await store.list("")
    await store.close()
    return {item.key: item.value for item in items}


def begin_and_kill(path: Path, commits: int, further_seconds: float) -> None:
    """Open the store in a process of its own and kill it after so many commits have begun."""
    command = [sys.executable, "-c", OPENER, f"sqlite:{path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.read(commits)
        time.sleep(further_seconds)
        process.kill()
        process.wait()


def version_in(path: Path) -> str:
    connection = sqlite3.connect(path)
    (value,) = connection.execute("SELECT value FROM items WHERE key = ?", (SCHEMA_KEY,)).fetchone()
    connection.close()
    return str(value.decode())


@pytest.mark.timeout(120)
async def test_an_upgrade_survives_kill_9(kept, tmp_path):
    whole = tmp_path / "whole.db"
    shutil.copy(kept, whole)
    wanted = await content(whole)
    assert sum(key.startswith("audit/") for key in wanted) == -(-EVENTS // 3) + 3
    chance = random.Random()
    in_the_middle = 0
    for turn in range(ROUNDS):
        path = tmp_path / f"killed-{turn}.db"
        shutil.copy(kept, path)
        while version_in(path) != str(SCHEMA_VERSION):
            begin_and_kill(path, chance.randint(1, 16), chance.uniform(0, 0.003))
            in_the_middle += ">" in version_in(path)
        assert await content(path) == wanted
        with sqlite3.connect(path.with_name(f"{path.name}.version-1")) as copy:
            assert copy.execute("SELECT count(*) FROM items").fetchone()[0] == EVENTS + 20
        copy.close()
    assert in_the_middle >= ROUNDS, "or this would have tested nothing"
