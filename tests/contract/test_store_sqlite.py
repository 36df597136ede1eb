"""What only the SQLite store promises: one owner, a file that is ours, restarts, bounded history, failures."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
from store_backends import FakeTimers, take, until

from fallow.store.contract import Compacted, LeaseGone, Put, StoreError
from fallow.store.ledger import Keep, Ledger
from fallow.store.sqlite import SqliteStore


async def test_everything_is_there_after_a_restart(tmp_path):
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path)
    first = await store.commit([], [Put("a", b"1")])
    second = await store.commit([], [Put("b", b"2")])
    await store.compact(first)
    await store.close()
    store = await SqliteStore.open(path)
    items, revision = await store.list("")
    assert [(item.key, item.revision) for item in items] == [("a", first), ("b", second)]
    assert revision == second
    watch = store.watch("", first)
    assert [batch.revision for batch in await take(watch, 1)] == [second]
    with pytest.raises(Compacted):
        await anext(store.watch("", first - 1))
    assert await store.commit([], [Put("c", b"3")]) == second + 1
    await store.close()


async def test_leases_survive_a_restart_and_their_time_starts_anew(tmp_path):
    path, timers = tmp_path / "s.db", FakeTimers()
    store = await SqliteStore.open(path, later=timers.later)
    lease = await store.grant(10)
    await store.commit([], [Put("a", b"1", lease)])
    await timers.advance(9)
    await store.close()

    timers = FakeTimers()
    store = await SqliteStore.open(path, later=timers.later)
    await timers.advance(9)
    await store.keep_alive(lease)
    await timers.advance(9)
    assert await store.get("a") is not None
    await timers.advance(1)

    async def gone() -> bool:
        return await store.get("a") is None

    await until(gone)
    with pytest.raises(LeaseGone):
        await store.commit([], [Put("a", b"1", lease)])
    await store.close()


async def test_a_second_opening_of_the_same_file_is_refused(tmp_path):
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path)
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        await SqliteStore.open(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(StoreError, match="in use"):
        await SqliteStore.open(link)
    program = (
        "import asyncio, pathlib, sys; from fallow.store.sqlite import SqliteStore;"
        "asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1])))"
    )
    other = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, path], capture_output=True, text=True
    )
    assert f"in use by process {os.getpid()}" in other.stderr
    await store.commit([], [Put("a", b"1")])
    await store.close()
    await (await SqliteStore.open(path)).close()


async def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database at all, and long enough not to be taken for one" * 100)
    with pytest.raises(StoreError, match=r"text\.db"):
        await SqliteStore.open(text)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore.open(foreign)
    with pytest.raises(StoreError, match="another program"):  # and the lock was given back
        await SqliteStore.open(foreign)


async def test_tables_of_another_layout_are_refused(tmp_path):
    path = tmp_path / "s.db"
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreError, match=r"layout 9.*layout 1"):
        await SqliteStore.open(path)


async def test_an_unwritable_place_is_a_clear_error(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        await SqliteStore.open(tmp_path / "missing" / "s.db")
    with pytest.raises(StoreError, match="Is a directory"):
        await SqliteStore.open(tmp_path)


async def test_only_the_owner_may_read_the_files(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    await store.commit([], [Put("a", b"1")])
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    await store.close()


async def test_every_commit_is_synced(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    assert store._files.writing.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._files.writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


@pytest.mark.parametrize("keep", [Keep(commits=50), Keep(bytes=50 * 1000)])
async def test_history_is_trimmed_by_itself(tmp_path, keep):
    store = await SqliteStore.open(tmp_path / "s.db", keep=keep)
    for _ in range(200):
        revision = await store.commit([], [Put("a", bytes(990))])
    with pytest.raises(Compacted) as caught:
        await anext(store.watch("", 1))
    assert revision - 56 <= caught.value.oldest <= revision - 40
    watch = store.watch("", caught.value.oldest - 1)
    batches = await take(watch, revision - caught.value.oldest + 1)
    assert batches[0].revision == caught.value.oldest
    assert batches[-1].revision == revision
    await watch.aclose()
    await store.close()


async def test_a_slow_watch_reads_the_file_and_then_goes_on_from_memory(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", keep=Keep(recent_commits=3))
    watch = store.watch("", 0)
    await store.commit([], [Put("a", b"0")])
    await take(watch, 1)
    await asyncio.gather(*(store.commit([], [Put("a", b"%d" % number)]) for number in range(50)))
    assert len(store._feed._recent) == 3
    assert [batch.revision for batch in await take(watch, 50)] == list(range(2, 52))
    last = await store.commit([], [Put("a", b"last")])
    assert [batch.revision for batch in await take(watch, 1)] == [last]
    await store.close()


async def test_a_slow_watch_that_history_has_left_behind_is_told_so(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", keep=Keep(recent_commits=3))
    watch = store.watch("", 0)
    await store.commit([], [Put("a", b"0")])
    await take(watch, 1)
    for _ in range(10):
        revision = await store.commit([], [Put("a", b"")])
    await store.compact(revision)
    with pytest.raises(Compacted):
        await anext(watch)
    await store.close()


async def test_a_write_the_database_cannot_do_fails_alone(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    store._files.writing.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    outcomes = await asyncio.gather(
        *(store.commit([], [Put(f"k{n}", b"x"), Put(f"l{n}", bytes(9000 if n == 5 else 9))]) for n in range(10)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [n == 5 for n in range(10)]
    items, revision = await store.list("")
    assert {item.key for item in items} == {f"{letter}{n}" for letter in "kl" for n in range(10) if n != 5}
    assert revision == 9
    watch = store.watch("", 0)
    assert [batch.revision for batch in await take(watch, 9)] == list(range(1, 10))
    await store.close()


async def test_when_a_transaction_fails_nobody_is_told_it_worked_and_the_next_one_works(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    before = await store.commit([], [Put("a", b"1")])
    pages = store._files.writing.execute("PRAGMA page_count").fetchone()[0]
    store._files.writing.execute(f"PRAGMA max_page_count = {pages}")
    held = threading.Event()
    holding = asyncio.ensure_future(store._writer.run(lambda _ledger: held.wait(10)))
    await asyncio.sleep(0)
    both = asyncio.gather(  # they wait together, so they share a transaction
        store.commit([], [Put("small", b"1")]), store.commit([], [Put("b", bytes(100_000))]), return_exceptions=True
    )
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(holding, return_exceptions=True)
    assert ["full" in str(error) for error in await both if isinstance(error, StoreError)] == [True, True]
    assert [item.key for item in (await store.list(""))[0]] == ["a"]
    store._files.writing.execute("PRAGMA max_page_count = 1000000")
    assert await store.commit([], [Put("b", bytes(100_000))]) == before + 1
    watch = store.watch("", before)
    assert [batch.revision for batch in await take(watch, 1)] == [before + 1]
    await store.close()


async def test_a_caller_who_gives_up_disturbs_nobody(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    tasks = [asyncio.ensure_future(store.commit([], [Put(f"k{n}", b"")])) for n in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, int) for outcome in outcomes] == [n % 2 == 1 for n in range(10)]
    assert await store.commit([], [Put("z", b"")]) == 11
    await store.close()


async def test_concurrent_commits_share_transactions(tmp_path, monkeypatch):
    transactions = 0
    original = Ledger.transaction

    def counted(self):
        nonlocal transactions
        transactions += 1
        return original(self)

    monkeypatch.setattr(Ledger, "transaction", counted)
    store = await SqliteStore.open(tmp_path / "s.db")
    await asyncio.gather(*(store.commit([], [Put(f"k{n}", b"")]) for n in range(500)))
    assert transactions < 100
    await store.close()


async def test_a_commit_that_waits_when_the_store_closes_is_still_done(tmp_path):
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path)
    tasks = [asyncio.ensure_future(store.commit([], [Put(f"k{n}", b"")])) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert sorted(await asyncio.gather(*tasks)) == list(range(1, 21))
    store = await SqliteStore.open(path)
    assert (await store.list(""))[1] == 20
    await store.close()
