"""Data of older versions is brought up to date, whatever happens in between."""

import json
import shutil
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from fallow.decide.events import event
from fallow.model.audit import AuditEntry
from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.model.members import Member
from fallow.model.registrations import MemberKey
from fallow.store.cache import Cache, decode_item
from fallow.store.contract import Check, Item, Put, StoreError
from fallow.store.memory import MemoryStore
from fallow.store.open import open_store
from fallow.store.sqlite import SqliteStore
from fallow.store.upgrade import PORTION, UPGRADES, Upgrade, bring_up_to_date, upgrade

DATA = Path(__file__).parents[2] / "data"
KEPT = {number: DATA / f"store-v{number}.db" for number in (1, 2)}


class Killed(BaseException):
    """The process ends here."""


class Mortal(MemoryStore):
    """Ends at its n-th commit from now: before anything is written, or after all of it was."""

    left = -1
    after = False

    async def commit(self, checks, writes):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        revision = await super().commit(checks, writes)
        if self.left == 0:
            raise Killed
        return revision


def version_1_event(number: int, actor: str) -> Put:
    told = event(f"e{number}", 1000.0 + number, actor, "member", "n-1", "node-1", "MemberChanged", f"number {number}")
    return Put(f"events/{told.id}", msgspec.msgpack.encode(told))


async def stored_by_version_1(store, count=PORTION * 3 + 7) -> None:
    for number in range(count):
        await store.commit([], [version_1_event(number, "api:ci" if number % 3 == 0 else "loop:members")])
    await store.commit([], [Put(SCHEMA_KEY, b"1")])


def audit_of(items: list[Item]) -> dict[str, str]:
    found = [decode_item(item) for item in items if item.key.startswith("audit/")]
    return {entry.id: entry.summary for entry in found if isinstance(entry, AuditEntry)}


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the file that version 1 has written."""
    shutil.copy(KEPT[1], tmp_path / "s.db")
    return tmp_path / "s.db"


def only_of(shape, value):
    """Return the value without the fields that records have got since."""
    if isinstance(shape, dict) and isinstance(value, dict):
        return {name: only_of(shape[name], value[name]) for name in shape if name in value}
    if isinstance(shape, list) and isinstance(value, list) and len(shape) == len(value):
        return [only_of(one, other) for one, other in zip(shape, value, strict=True)]
    return value


VERSION_1_KINDS = {"members", "deployments", "templates", "replicas", "join-tokens", "api-tokens", "events"}


async def test_every_record_that_version_1_stored_is_read_and_unchanged(copy):
    store = await open_store(f"sqlite:{copy}")
    items, _ = await store.list("")
    told = json.loads((DATA / "store-v1.json").read_text())
    kinds = {key.partition("/")[0] for key in told} - {"meta"}
    assert kinds == VERSION_1_KINDS, "there is one of every kind that version 1 had"
    now = {
        item.key: json.loads(msgspec.json.encode(decode_item(item)))
        for item in items
        if not item.key.startswith("meta/")
    }
    for key in told.keys() - {SCHEMA_KEY}:
        assert only_of(told[key], now[key] | {"revision": 0}) == told[key], key
    cache = Cache(store)
    await cache.start()
    assert len(cache.snapshot().replicas) == 3
    await cache.stop()
    await store.close()


async def test_every_member_that_version_2_stored_has_its_key_on_record(tmp_path):
    shutil.copy(KEPT[2], tmp_path / "s.db")
    store = await open_store(f"sqlite:{tmp_path / 's.db'}")
    items = {item.key: decode_item(item) for item in (await store.list(""))[0] if not item.key.startswith("meta/")}
    told = json.loads((DATA / "store-v2.json").read_text())
    for key in told.keys() - {SCHEMA_KEY}:
        now = json.loads(msgspec.json.encode(items[key]))
        assert only_of(told[key], now | {"revision": 0}) == told[key], key
    members = [record for record in items.values() if isinstance(record, Member)]
    keys = {record.id: record for record in items.values() if isinstance(record, MemberKey)}
    assert len(members) == len(keys) == 2
    for one in members:
        assert (keys[one.key_sha256].member_id, keys[one.key_sha256].token_id) == (one.id, one.token_id)
    assert (items["join-tokens/jt-1"].spent, items["join-tokens/jt-1"].uses) == (1, 2), "the use of old counts"
    await store.close()


async def test_what_people_did_is_in_the_audit_record_after_the_upgrade(copy):
    store = await open_store(f"sqlite:{copy}")
    cache = Cache(store)
    await cache.start()
    found = {entry.id[14:]: entry for entry in cache.records("audit").values() if isinstance(entry, AuditEntry)}
    assert sorted(found) == ["e2", "e4", "e7"]
    assert (found["e4"].who, found["e4"].subject, found["e4"].outcome) == ("api:ci", "shop/web", "done")
    assert len(cache.records("events")) == 7, "they stay events, too"
    assert (await store.get(SCHEMA_KEY)).value == str(SCHEMA_VERSION).encode()
    await cache.stop()
    await store.close()


async def test_a_copy_of_the_file_is_kept_for_its_owner_alone(copy):
    before = copy.read_bytes()
    await (await open_store(f"sqlite:{copy}")).close()
    kept = copy.with_name("s.db.version-1")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    names = ["s.db", "s.db.lock", "s.db.version-1", "s.db.version-2"]
    assert sorted(path.name for path in copy.parent.iterdir()) == names
    rows = []
    for path in (kept, KEPT[1]):
        with sqlite3.connect(path) as connection:
            rows.append(connection.execute("SELECT * FROM items ORDER BY key").fetchall())
        connection.close()
    assert rows[0] == rows[1]
    assert KEPT[1].read_bytes() == before, "the kept file itself is not touched"
    made = kept.stat().st_mtime_ns
    await (await open_store(f"sqlite:{copy}")).close()
    assert kept.stat().st_mtime_ns == made, "once"


async def test_without_a_copy_nothing_is_changed(copy):
    (copy.with_name("s.db.version-1.unfinished")).mkdir()
    with pytest.raises(StoreError, match=r"keep a copy.*before the upgrade"):
        await open_store(f"sqlite:{copy}")
    store = await SqliteStore.open(copy)
    assert (await store.get(SCHEMA_KEY)).value == b"1"
    await store.close()


async def test_killed_at_any_commit_it_goes_on_and_ends_the_same():
    whole = MemoryStore()
    await stored_by_version_1(whole)
    await bring_up_to_date(whole)
    wanted = audit_of((await whole.list(""))[0])
    assert len(wanted) == (PORTION * 3 + 7 + 2) // 3
    commits = 5  # four portions, and the end
    for after in (False, True):
        for killed_at in range(1, commits + 1):
            store = Mortal()
            await stored_by_version_1(store)
            store.left, store.after = killed_at, after
            with pytest.raises(Killed):
                await bring_up_to_date(store)
            begun = killed_at > 1 or after
            if begun and (killed_at, after) != (commits, True):
                assert not (await store.get(SCHEMA_KEY)).value.isdigit(), "the older program stays out"
            store.left = -1
            await bring_up_to_date(store)
            assert audit_of((await store.list(""))[0]) == wanted
            assert (await store.get(SCHEMA_KEY)).value == str(SCHEMA_VERSION).encode()
        store.left = 1  # nothing is left to do
        await bring_up_to_date(store)


async def test_two_at_once_divide_the_work():
    store = MemoryStore()
    await stored_by_version_1(store)
    other = {"called": 0}

    def change(key, value):
        other["called"] += 1
        return UPGRADES[1].change(key, value)

    class Interrupted(MemoryStore):
        """Lets another program do the whole upgrade before our second commit."""

        async def commit(self, checks, writes):
            other["commits"] = other.get("commits", 0) + 1
            if other["commits"] == 2:
                await upgrade(store, {1: UPGRADES[1]}, 2)
            return await store.commit(checks, writes)

        async def get(self, key):
            return await store.get(key)

        async def list(self, prefix):
            return await store.list(prefix)

    await upgrade(Interrupted(), {1: Upgrade("events/", change)}, 2)
    assert other["called"] == PORTION * 2, "it stopped as soon as it saw the other's work"
    assert len(audit_of((await store.list(""))[0])) == (PORTION * 3 + 7 + 2) // 3


async def test_steps_follow_each_other_and_copies_are_kept_before_each():
    store, kept = MemoryStore(), []
    await store.commit([], [Put(SCHEMA_KEY, b"1"), Put("x/a", b"1"), Put("y/a", b"1")])

    def append(text: bytes):
        return lambda key, value: (Put(key, value + text),)

    async def keep(version: int) -> None:
        kept.append((version, (await store.get("x/a")).value))

    steps = {1: Upgrade("x/", append(b"2")), 2: Upgrade("x/", append(b"3")), 3: Upgrade("none/", append(b"4"))}
    await upgrade(store, steps, 4, keep)
    assert (await store.get("x/a")).value == b"123"
    assert (await store.get("y/a")).value == b"1"
    assert (await store.get(SCHEMA_KEY)).value == b"4"
    assert kept == [(1, b"1"), (2, b"12"), (3, b"123")]


@pytest.mark.parametrize("stored", [b"4", b"3>4:events/x", b"1>3:x", b"0", b"", b"2>", b"1>2", b"-1"])
async def test_newer_and_strange_versions_are_refused_and_left_alone(stored):
    store = MemoryStore()
    await store.commit([], [Put(SCHEMA_KEY, stored), version_1_event(0, "api:ci")])
    with pytest.raises(StoreError, match="this program knows version 3"):
        await bring_up_to_date(store)
    assert (await store.get(SCHEMA_KEY)).value == stored
    assert await store.commit([Check(SCHEMA_KEY, 1)], []) == 1, "nothing was written"


def test_there_is_a_step_from_every_version_and_a_file_of_each():
    assert sorted(UPGRADES) == sorted(KEPT) == list(range(1, SCHEMA_VERSION))
