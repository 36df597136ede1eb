"""From SQLite to etcd and back: the same records, and a store that works."""

import asyncio

import msgspec
import pytest
from records import deployment, member, replica, template
from store_backends import etcd_url, shared_etcd

from fallow.decide.plan import Plan, Step
from fallow.model.kinds import KINDS
from fallow.store.applier import Applier
from fallow.store.backup import back_up, migrate, restore
from fallow.store.cache import Cache
from fallow.store.contract import Put, StoreError
from fallow.store.open import open_store
from testbed import parts

parts.require("etcd", "etcdctl")


def silent(_done: int, _total: int) -> None:
    pass


async def records(url: str) -> dict[str, dict[str, object]]:
    """Return every record as it is stored, and see that each can be changed where it now is."""
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    found = {
        kind: {id_: msgspec.structs.replace(record, revision=0) for id_, record in cache.records(kind).items()}
        for kind in KINDS
    }
    one = next(iter(cache.records("members").values()))
    assert await Applier(store, cache).commit(Step(puts=(one,))) == cache.get("members", one.id).revision
    await cache.stop()
    await store.close()
    return found


@pytest.fixture
async def source(tmp_path):
    """A control plane's data on SQLite: more replicas than one commit of etcd takes."""
    url = f"sqlite:{tmp_path / 'source.db'}"
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    web = deployment(replicas=400)
    new = [member("a"), web, template(web), *(replica(web, slot) for slot in range(400))]
    steps = [Step(puts=(msgspec.structs.replace(record, revision=0),)) for record in new]
    assert (await Applier(store, cache).apply(Plan(steps=steps))).dropped == 0
    await cache.stop()
    await store.close()
    return url


async def test_sqlite_to_etcd_and_back(source, tmp_path):
    etcd, back = etcd_url(await asyncio.to_thread(shared_etcd)), f"sqlite:{tmp_path / 'back.db'}"
    wanted = await records(source)
    assert len(wanted["replicas"]) == 400
    copied = await migrate(source, etcd, replace=False, progress=silent)
    assert copied.records == 403
    assert await records(etcd) == wanted
    assert (await migrate(etcd, back, replace=False, progress=silent)).records == 403
    assert await records(back) == wanted
    with pytest.raises(StoreError, match="holds 403 records already"):
        await migrate(back, etcd, replace=False, progress=silent)

    await back_up(etcd, tmp_path / "b")
    store = await open_store(etcd)
    cache = Cache(store)
    await cache.start()
    await Applier(store, cache).apply(Plan(steps=[Step(deletes=(one,)) for one in cache.snapshot().replicas.values()]))
    # Whoever follows the store sees it filled again, and ends where the backup was.
    await restore(tmp_path / "b", etcd, replace=True, progress=silent)
    revision = await store.commit([], [])
    async with asyncio.timeout(20):
        while len(cache.snapshot().replicas) < 400 or cache.get("members", "n-a") is None:
            await asyncio.sleep(0.01)
    assert cache.revision <= revision
    await cache.stop()
    await store.close()
    assert await records(etcd) == wanted


async def test_a_store_of_etcd_with_a_lease_in_it_is_in_use(source):
    etcd = etcd_url(await asyncio.to_thread(shared_etcd))
    store = await open_store(etcd)
    lease = await store.grant(60)
    await store.commit([], [Put("leases/leader", b"me", lease)])
    with pytest.raises(StoreError, match="a control plane is using this store: stop all"):
        await migrate(source, etcd, replace=True, progress=silent)
    await store.revoke(lease)
    await store.close()
    await migrate(source, etcd, replace=False, progress=silent)
