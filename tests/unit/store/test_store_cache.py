import asyncio
import random
from dataclasses import replace

import msgspec
import pytest
from store_records import api_token, delete, event, member, put, replica, share, until

from fallow.decide.snapshot import PARTS, Snapshot
from fallow.model.deployments import ReplicaState
from fallow.model.kinds import KINDS
from fallow.model.members import Role
from fallow.store import cache as cache_module
from fallow.store.cache import Cache, decode_item
from fallow.store.contract import Batch, Item, Put, StoreError
from fallow.store.memory import MemoryStore


class FaultyStore(MemoryStore):
    """A memory store whose watches break when told to."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.break_watch: Exception | None = None
        self.watches = 0

    async def _watch(self, prefix, after):
        self.watches += 1
        async for batch in super().watch(prefix, after):
            if self.break_watch is not None:
                error, self.break_watch = self.break_watch, None
                if isinstance(error, StopAsyncIteration):
                    return
                raise error
            yield batch

    def watch(self, prefix, after):
        return self._watch(prefix, after)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(cache_module, "RETRY_SECONDS", 0.0)


@pytest.fixture
async def store():
    made = FaultyStore()
    yield made
    await made.close()


@pytest.fixture
async def cache(store):
    made = Cache(store)
    await made.start()
    yield made
    await made.stop()


def test_every_field_of_a_snapshot_has_its_kind():
    fields = set(Snapshot.__dataclass_fields__) - {"revision"}
    assert fields == set(cache_module._SNAPSHOT_FIELDS)
    apart = {"events", "audit", "leaders", "peers", "rosters", "secrets", "lent_hours"}
    assert fields == {kind.replace("-", "_") for kind in KINDS} - apart


def test_a_decoded_record_has_the_revision_of_its_item():
    record = decode_item(Item("replicas/r", msgspec.msgpack.encode(replica("r", revision=3)), 7, 2))
    assert record == replica("r", revision=7)


@pytest.mark.parametrize(
    "item",
    [
        Item("unknown/x", b"\x80", 1, 1),
        Item("replicas/x", b"", 1, 1),
        Item("replicas/x", b"\x80", 1, 1),
        Item("replicas/x", b"\xc1\xff", 1, 1),
        Item("replicas/x", b"\x81\xa2id\xa1\xff", 1, 1),
    ],
)
def test_what_is_no_record_is_a_store_error_that_names_its_key(item):
    with pytest.raises(StoreError, match=item.key):
        decode_item(item)


async def test_it_begins_with_what_is_stored_and_follows(store):
    await put(store, replica("r1"), api_token("t1"))
    await store.commit([], [Put("meta/schema", b"1")])
    cache = Cache(store)
    await cache.start()
    assert cache.snapshot().replicas.keys() == {"r1"}
    assert cache.snapshot().api_tokens.keys() == {"t1"}
    revision = await put(store, replica("r2"))
    await cache.wait(revision)
    assert cache.get("replicas", "r2") == replica("r2", revision=revision)
    assert cache.records("replicas").keys() == {"r1", "r2"}
    await cache.wait(await delete(store, replica("r1")))
    assert cache.get("replicas", "r1") is None
    assert cache.snapshot().replicas.keys() == {"r2"}
    await cache.stop()


async def test_a_snapshot_is_the_same_object_until_what_it_shows_changes(store, cache):
    await cache.wait(await put(store, replica("r1"), api_token("t1")))
    first = cache.snapshot()
    assert cache.snapshot() is first
    await cache.wait(await put(store, event("e1")))
    await cache.wait(await store.commit([], [Put("meta/schema", b"1")]))
    assert cache.snapshot() is first
    revision = await put(store, replica("r2"))
    await cache.wait(revision)
    second = cache.snapshot()
    assert (first.replicas.keys(), second.replicas.keys()) == ({"r1"}, {"r1", "r2"})
    assert second.revision == revision
    assert second.api_tokens is first.api_tokens, "kinds that did not change are not copied"
    with pytest.raises(TypeError):
        cache.records("replicas")["x"] = replica("x")  # type: ignore[index]


async def test_wait_returns_at_its_revision_and_not_before(store, cache):
    waiting = asyncio.ensure_future(cache.wait(cache.revision + 2))
    await cache.wait(await put(store, replica("r1")))
    assert not waiting.done()
    await put(store, replica("r2"))
    async with asyncio.timeout(5):
        await waiting
    assert cache.snapshot().replicas.keys() == {"r1", "r2"}


async def test_subscriptions_coalesce_and_keep_apart(store, cache):
    first, second = cache.subscribe(), cache.subscribe()
    await cache.wait(await put(store, replica("r1")))
    assert await anext(second) == {("replicas", "r1")}
    await put(store, replica("r1"))
    await delete(store, replica("r1"))
    await cache.wait(await put(store, event("e1")))
    assert await anext(first) == {("replicas", "r1"), ("events", "e1")}
    assert await anext(second) == {("replicas", "r1"), ("events", "e1")}
    waiting = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    assert not waiting.done(), "nothing is told twice"
    first.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    await cache.wait(await put(store, replica("r3")))
    second.close()
    assert [changed async for changed in second] == [{("replicas", "r3")}]


async def test_stopping_ends_subscriptions_and_waits(store):
    cache = Cache(store)
    await cache.start()
    subscription = cache.subscribe()
    waiting = asyncio.ensure_future(cache.wait(100))
    await asyncio.sleep(0)
    await cache.stop()
    assert [changed async for changed in subscription] == []
    with pytest.raises(StoreError):
        await waiting
    with pytest.raises(StoreError):
        await cache.wait(100)


@pytest.mark.parametrize("error", [StoreError("gone"), ConnectionResetError("peer"), StopAsyncIteration()])
async def test_a_watch_that_ends_is_replaced_and_nothing_is_missed(store, cache, error):
    await cache.wait(await put(store, replica("same"), replica("changed"), replica("deleted")))
    subscription = cache.subscribe()
    store.break_watch = error
    await put(store, replica("changed", slot=2), replica("new"))
    revision = await delete(store, replica("deleted"))
    await cache.wait(revision)
    assert await anext(subscription) == {("replicas", "changed"), ("replicas", "new"), ("replicas", "deleted")}
    assert cache.snapshot().replicas.keys() == {"same", "changed", "new"}
    await until(lambda: store.watches == 2)
    await cache.wait(await put(store, replica("later")))
    assert await anext(subscription) == {("replicas", "later")}


async def test_it_recovers_when_its_revision_is_compacted():
    store = MemoryStore(keep_commits=3)
    cache = Cache(store)
    await cache.start()
    subscription = cache.subscribe()
    for number in range(50):  # without giving the cache a turn, so that it falls behind what is kept
        revision = await put(store, replica(f"r{number}"))
    await cache.wait(revision)
    assert cache.snapshot().replicas.keys() == {f"r{number}" for number in range(50)}
    assert await anext(subscription) == {("replicas", f"r{number}") for number in range(50)}
    await cache.stop()
    await store.close()


async def test_a_commit_with_an_unreadable_record_is_not_shown_in_part(store, cache):
    await cache.wait(await put(store, replica("r1")))
    await store.commit([], [Put("replicas/r1", b"\x80"), Put("replicas/r2", b"\xc1")])
    await until(lambda: store.watches >= 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert cache.snapshot().replicas == {"r1": replica("r1", revision=1)}
    revision = await put(store, replica("r1"), replica("r2"))
    await cache.wait(revision)
    assert cache.snapshot().replicas.keys() == {"r1", "r2"}


async def test_start_refuses_data_it_cannot_read(store):
    await store.commit([], [Put("replicas/bad", b"\xc1")])
    with pytest.raises(StoreError, match="replicas/bad"):
        await Cache(store).start()


async def test_it_always_shows_exactly_what_was_stored_at_its_revision(store, cache):
    """Random commits, several a turn, watched by one who checks every picture against the history."""
    chance = random.Random(5)
    history: dict[int, dict[str, int]] = {0: {}}
    subscription = cache.subscribe()
    told: dict[str, int] = {}
    pictures = 0

    async def watch() -> None:
        nonlocal pictures
        async for changed in subscription:
            picture = {id_: record.revision for id_, record in cache.snapshot().replicas.items()}
            assert picture == history[cache.revision]
            for _kind, id_ in changed:
                told.pop(id_, None)
                if id_ in picture:
                    told[id_] = picture[id_]
            assert told == picture, "a change was not told"
            pictures += 1

    watching = asyncio.ensure_future(watch())
    state: dict[str, int] = {}
    for _ in range(300):
        ids = chance.sample([f"r{number}" for number in range(10)], chance.randrange(1, 4))
        if chance.random() < 0.3:
            present = [id_ for id_ in ids if id_ in state]
            revision = await delete(store, *(replica(id_) for id_ in present))
            for id_ in present:
                del state[id_]
        else:
            revision = await put(store, *(replica(id_) for id_ in ids))
            state |= dict.fromkeys(ids, revision)
        history[revision] = dict(state)
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
    await cache.wait(revision)
    subscription.close()
    await watching
    assert told == state
    assert pictures > 10


def indexes(snapshot: Snapshot):
    """All indexes, with lists in an order that does not depend on how they came about."""

    def ordered(index):
        assert all(index.values()), "nothing is listed under a key that has nothing"
        return {key: sorted(found, key=lambda record: record.id) for key, found in index.items()}

    return (
        ordered(snapshot.replicas_by_node),
        ordered(snapshot.replicas_by_deployment),
        ordered(snapshot.members_by_wireguard_key),
        ordered(snapshot.shares_by_deployment),
        ordered(snapshot.shares_by_cluster),
        ordered(snapshot.shares_empty),
        ordered(snapshot.shares_leaving),
        [getattr(snapshot, name) for parts in PARTS.values() for name in parts],
        sorted(snapshot.live_gateways, key=lambda record: record.id),
        snapshot.deployment_named("default", "web"),
    )


async def test_indexes_carried_from_one_snapshot_to_the_next_are_as_if_built_anew(store, cache):
    chance = random.Random(11)
    for turn in range(300):
        records = [
            replica(f"r{chance.randrange(8)}", node=chance.choice(["", "m1", "m2", "m3"]), slot=turn),
            msgspec.structs.replace(
                replica(f"r{chance.randrange(8, 12)}", node="m1"),
                state=chance.choice([ReplicaState.STOPPED, ReplicaState.LEAVING]),
            ),
            member(
                f"m{chance.randrange(4)}",
                chance.choice([Role.NODE, Role.GATEWAY, Role.SERVER, Role.CLUSTER]),
                wireguard_key=chance.choice(["", "one", "two"]),
            ),
            share(f"d{chance.randrange(2)}", f"c{chance.randrange(3)}", chance.choice([None, (), ("r1",)]), turn % 2),
            event(f"e{turn}"),
        ]
        some = chance.sample(records, chance.randrange(1, 4))
        revision = await (delete if chance.random() < 0.4 else put)(store, *some)
        if chance.random() < 0.6:
            await cache.wait(revision)
            before = cache.snapshot()
            anew = replace(before)
            assert indexes(before) == indexes(anew)
            assert indexes(before) == indexes(cache.snapshot())
    assert "nodes" in vars(before)


async def test_an_index_is_not_built_for_a_snapshot_that_nobody_asked(store, cache):
    await cache.wait(await put(store, replica("r1", node="m1")))
    first = cache.snapshot()
    await cache.wait(await put(store, replica("r2", node="m1")))
    assert "replicas_by_node" not in vars(cache.snapshot())
    second = cache.snapshot()
    assert [found.id for found in second.replicas_by_node["m1"]] == ["r1", "r2"]
    await cache.wait(await put(store, replica("r3", node="m1")))
    assert "replicas_by_node" in vars(cache.snapshot())
    assert [found.id for found in cache.snapshot().replicas_by_node["m1"]] == ["r1", "r2", "r3"]
    assert [found.id for found in second.replicas_by_node["m1"]] == ["r1", "r2"]
    assert [found.id for found in first.replicas_by_node["m1"]] == ["r1"]


async def test_who_has_a_key_is_not_looked_for_among_all_members_again(store, cache):
    await cache.wait(await put(store, *(member(f"m{number}", wireguard_key=f"k{number}") for number in range(4))))
    assert [found.id for found in cache.snapshot().members_by_wireguard_key["k2"]] == ["m2"]
    await cache.wait(await put(store, member("m4", wireguard_key="k4")))
    await cache.wait(await put(store, member("m2", wireguard_key="k0")))
    assert "members_by_wireguard_key" in vars(cache.snapshot()), "it is carried over, not built when asked for"
    found = cache.snapshot().members_by_wireguard_key
    assert {key: [one.id for one in listed] for key, listed in found.items()} == {
        "k0": ["m0", "m2"], "k1": ["m1"], "k3": ["m3"], "k4": ["m4"],
    }  # fmt: skip


async def test_what_role_members_have_is_not_looked_for_among_all_again(store, cache):
    await cache.wait(await put(store, *(member(f"m{number}") for number in range(3)), member("g", Role.GATEWAY)))
    first = cache.snapshot()
    assert (list(first.nodes), list(first.gateways)) == (["m0", "m1", "m2"], ["g"])
    await cache.wait(await put(store, member("m3"), member("m1", wireguard_key="k")))
    await cache.wait(await delete(store, member("m0")))
    second = cache.snapshot()
    assert {"nodes", "gateways"} <= vars(second).keys(), "they are carried over, not built when asked for"
    assert {id_: found.wireguard_key for id_, found in second.nodes.items()} == {"m1": "k", "m2": "", "m3": ""}
    assert second.gateways is first.gateways, "no gateway has changed"
    assert list(first.nodes) == ["m0", "m1", "m2"], "who has the picture of before keeps it"


async def test_batches_of_other_kinds_move_the_revision_only(cache, store):
    subscription = cache.subscribe()
    revision = await store.commit([], [Put("meta/x", b"1")])
    await cache.wait(revision)
    assert cache.revision == revision
    assert not subscription._changed
    cache._take(Batch(revision + 1, ()))
    assert cache.revision == revision + 1
