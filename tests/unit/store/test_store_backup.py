"""Backup and restore: the same records come back, in the same order of age, and nothing half is taken for whole."""

import stat

import msgspec
import pytest
from store_records import event, put, replica

from fallow.model.kinds import SCHEMA_KEY
from fallow.store import backup as backup_module
from fallow.store.backup import back_up, migrate, restore
from fallow.store.cache import Cache
from fallow.store.contract import Put, StoreError
from fallow.store.open import open_store, open_unchecked, read_store
from fallow.store.upgrade import UNFINISHED


def silent(_done: int, _total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch):
    """As large as each commit of `full`, since records of one portion are of the same age afterwards."""
    monkeypatch.setattr(backup_module, "PORTION_WRITES", 2)


def url(folder, name: str) -> str:
    return f"sqlite:{folder / name}"


async def contents(of: str) -> dict[str, bytes]:
    return {item.key: item.value for item in (await read_store(of))[0]}


async def records(of: str) -> dict[str, list[object]]:
    """Return every record without its revision, of each kind the oldest first."""
    store = await open_store(of)
    cache = Cache(store)
    await cache.start()
    found = {
        kind: [
            msgspec.structs.replace(record, revision=0)
            for record in sorted(cache.records(kind).values(), key=lambda found: found.revision)
        ]
        for kind in ("replicas", "events")
    }
    await cache.stop()
    await store.close()
    return found


@pytest.fixture
async def full(tmp_path):
    """A store of some records whose age and name say different things, and of keys that belong to a lease."""
    made = url(tmp_path, "full.db")
    store = await open_store(made)
    for number in (3, 1, 2):
        await put(store, replica(f"r{number}"), event(f"e{number}"))
    lease = await store.grant(60)
    await store.commit([], [Put("leases/here", b"", lease)])
    await store.close()
    return made


async def test_what_is_restored_is_what_was_backed_up(full, tmp_path):
    file, target = tmp_path / "b", url(tmp_path, "new.db")
    copied = await back_up(full, file)
    assert (copied.records, copied.revision) == (6, (await read_store(full))[1])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await restore(file, target, replace=False, progress=silent) == copied
    wanted = await contents(full)
    del wanted["leases/here"]
    assert await contents(target) == wanted
    assert await records(target) == await records(full)
    assert [found.id for found in (await records(target))["events"]] == ["e3", "e1", "e2"]


async def test_a_store_in_use_can_be_backed_up_and_not_be_restored_to(full, tmp_path):
    store = await open_store(full)
    await put(store, replica("late"))
    await back_up(full, tmp_path / "b")
    with pytest.raises(StoreError, match="in use by process"):
        await restore(tmp_path / "b", full, replace=True, progress=silent)
    await store.close()
    await restore(tmp_path / "b", url(tmp_path, "new.db"), replace=False, progress=silent)
    assert "replicas/late" in await contents(url(tmp_path, "new.db"))


async def test_a_store_that_holds_something_is_replaced_only_when_told(full, tmp_path):
    other = url(tmp_path, "other.db")
    store = await open_store(other)
    await put(store, replica("old"), replica("r1", slot=7))
    await store.close()
    before = await contents(other)
    with pytest.raises(StoreError, match=r"holds 2 records already.*--replace"):
        await migrate(full, other, replace=False, progress=silent)
    assert await contents(other) == before
    told = []
    await migrate(full, other, replace=True, progress=lambda done, total: told.append((done, total)))
    assert await records(other) == await records(full)
    assert told[0] == (0, 8)
    assert told[-1] == (8, 8)


async def test_a_store_where_somebody_has_a_lease_is_in_use(full, tmp_path):
    with pytest.raises(StoreError, match="a control plane is using this store"):
        await migrate(full, full.replace("full.db", "../" + tmp_path.name + "/full.db"), replace=True, progress=silent)


async def test_an_opened_but_empty_store_is_empty(full, tmp_path):
    target = url(tmp_path, "new.db")
    await (await open_store(target)).close()
    await migrate(full, target, replace=False, progress=silent)
    assert await records(target) == await records(full)


@pytest.mark.parametrize("commits", range(5))
async def test_a_restore_that_does_not_finish_leaves_nothing_that_opens(full, tmp_path, monkeypatch, commits):
    """It fails after each of its commits: the mark, three portions; only with the last one it is a store."""
    await back_up(full, tmp_path / "b")
    target = url(tmp_path, "new.db")
    left = commits

    async def failing(of: str):
        store = await open_unchecked(of)
        real = store.commit

        async def commit(checks, writes):
            nonlocal left
            if left == 0:
                raise StoreError("the disk is full")
            left -= 1
            return await real(checks, writes)

        monkeypatch.setattr(store, "commit", commit)
        return store

    with monkeypatch.context() as patch:
        patch.setattr(backup_module, "open_unchecked", failing)
        with pytest.raises(StoreError, match="the disk is full"):
            await restore(tmp_path / "b", target, replace=False, progress=silent)
    if commits:
        with pytest.raises(StoreError, match="did not finish: run it again"):
            await open_store(target)
        with pytest.raises(StoreError, match="did not finish: run it again"):
            await back_up(target, tmp_path / "c")
        assert not (tmp_path / "c").exists()
    await restore(tmp_path / "b", target, replace=False, progress=silent)
    assert await records(target) == await records(full)


async def test_somebody_who_writes_the_mark_meanwhile_ends_a_restore(full, tmp_path, monkeypatch):
    target = url(tmp_path, "new.db")
    stores = []

    async def remembered(of: str):
        stores.append(await open_unchecked(of))
        return stores[-1]

    monkeypatch.setattr(backup_module, "open_unchecked", remembered)

    def progress(done: int, _total: int) -> None:
        if done == 2:
            real = stores[0].commit

            async def commit(checks, writes):
                await real([], [Put(SCHEMA_KEY, UNFINISHED)])
                return await real(checks, writes)

            monkeypatch.setattr(stores[0], "commit", commit)

    with pytest.raises(StoreError, match="somebody else wrote to this store"):
        await migrate(full, target, replace=False, progress=progress)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[:-1], "damaged or cut short"),
        (lambda content: content[: len(content) // 2], "damaged or cut short"),
        (lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:], "damaged or cut short"),
        (lambda content: content + b"\0", "damaged or cut short"),
        (lambda content: b"fallow-backup 1\n", "damaged or cut short"),
        (lambda content: b"", "is no backup"),
        (lambda content: b"PK" + content, "is no backup"),
        (lambda content: content.replace(b"backup 1", b"backup 2"), "a form that this program does not know"),
    ],
)
async def test_a_damaged_file_is_found_before_anything_is_written(full, tmp_path, damage, told):
    file, target = tmp_path / "b", tmp_path / "new.db"
    await back_up(full, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreError, match=told):
        await restore(file, f"sqlite:{target}", replace=False, progress=silent)
    assert not target.exists()


async def test_reading_makes_nothing(tmp_path):
    missing = tmp_path / "none.db"
    with pytest.raises(StoreError, match="there is no store at"):
        await back_up(f"sqlite:{missing}", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="no data of Fallow's"):
        await back_up("memory:", tmp_path / "b")
    with pytest.raises(ValueError, match="no kind of store"):
        await back_up("consul://host", tmp_path / "b")
    with pytest.raises(ValueError, match="to itself"):
        await migrate("memory:", "memory:", replace=False, progress=silent)


async def test_a_backup_replaces_the_one_before_it_at_once(full, tmp_path):
    file = tmp_path / "b"
    file.write_bytes(b"older")
    with pytest.raises(OSError, match="b"):
        await back_up(full, tmp_path / "no-such-folder" / "b")
    await back_up(full, file)
    assert sorted(found.name for found in tmp_path.iterdir() if found.name.startswith((".b", "b"))) == ["b"]
    await restore(file, url(tmp_path, "new.db"), replace=False, progress=silent)
