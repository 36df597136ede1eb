"""The store's contract, on every back-end."""

import asyncio
import random

import pytest
from store_backends import BACKENDS, Backend, take, until

from fallow.store.contract import Change, Check, Compacted, Conflict, Delete, Item, LeaseGone, Put, Store, StoreError


@pytest.fixture(params=sorted(BACKENDS))
async def backend(request, tmp_path):
    async with BACKENDS[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store


async def keys(store: Store, prefix: str) -> list[str]:
    return [item.key for item in (await store.list(prefix))[0]]


async def test_an_absent_key_is_none(store):
    assert await store.get("a") is None


async def test_a_put_is_read_back_with_its_revisions(store):
    first = await store.commit([], [Put("a", b"1")])
    second = await store.commit([], [Put("a", b"2")])
    assert second > first
    assert await store.get("a") == Item("a", b"2", second, first)


async def test_a_key_deleted_and_put_again_is_created_anew(store):
    await store.commit([], [Put("a", b"1")])
    await store.commit([], [Delete("a")])
    assert await store.get("a") is None
    again = await store.commit([], [Put("a", b"2")])
    assert await store.get("a") == Item("a", b"2", again, again)


async def test_all_writes_of_a_commit_share_its_revision(store):
    await store.commit([], [Put("c", b"old")])
    revision = await store.commit([], [Put("a", b"1"), Put("b", b"2"), Delete("c")])
    items, listed_at = await store.list("")
    assert [(item.key, item.revision) for item in items] == [("a", revision), ("b", revision)]
    assert listed_at >= revision


async def test_a_commit_without_writes_returns_the_current_revision(store):
    revision = await store.commit([], [Put("a", b"1")])
    assert await store.commit([], []) >= revision
    assert await store.commit([Check("a", revision)], []) >= revision
    with pytest.raises(Conflict):
        await store.commit([Check("a", 0)], [])


async def test_deleting_an_absent_key_is_no_error(store):
    await store.commit([], [Delete("nothing")])
    assert await keys(store, "") == []


async def test_a_check_holds_only_at_the_exact_revision(store):
    first = await store.commit([Check("a", 0)], [Put("a", b"1")])
    with pytest.raises(Conflict):
        await store.commit([Check("a", 0)], [Put("a", b"x")])
    second = await store.commit([Check("a", first)], [Put("a", b"2")])
    for wrong in (first, second + 1, 0):
        with pytest.raises(Conflict):
            await store.commit([Check("a", wrong)], [Put("a", b"x")])
    assert (await store.get("a")).value == b"2"


async def test_a_conflict_names_the_keys_that_differ_and_no_others(store):
    held = await store.commit([], [Put("held", b"1")])
    await store.commit([], [Put("moved", b"1")])
    with pytest.raises(Conflict) as caught:
        await store.commit(
            [Check("held", held), Check("moved", held), Check("absent", 0), Check("gone", held)], [Put("x", b"1")]
        )
    assert sorted(caught.value.keys) == ["gone", "moved"]


async def test_nothing_of_a_conflicting_commit_is_written(store):
    before = await store.commit([], [Put("a", b"1"), Put("b", b"1")])
    with pytest.raises(Conflict):
        await store.commit([Check("b", before), Check("a", 0)], [Put("c", b"1"), Put("b", b"2"), Delete("a")])
    assert await keys(store, "") == ["a", "b"]
    assert (await store.get("b")).revision == before


async def test_a_check_may_be_of_a_key_that_is_not_written(store):
    guard = await store.commit([], [Put("guard", b"1")])
    await store.commit([Check("guard", guard)], [Put("a", b"1")])
    await store.commit([], [Put("guard", b"2")])
    with pytest.raises(Conflict) as caught:
        await store.commit([Check("guard", guard)], [Put("a", b"2")])
    assert caught.value.keys == ("guard",)


@pytest.mark.parametrize(
    ("checks", "writes"),
    [
        ([], [Put("a", b"1"), Put("a", b"2")]),
        ([], [Put("a", b"1"), Delete("a")]),
        ([], [Put("", b"1")]),
        ([Check("", 0)], []),
        ([Check("a", -1)], []),
        ([], [Put("half\ud800", b"1")]),
    ],
)
async def test_a_malformed_commit_is_refused_and_writes_nothing(store, checks, writes):
    with pytest.raises(ValueError, match=r".+"):
        await store.commit(checks, [Put("other", b"1"), *writes])
    assert await keys(store, "") == []


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a", "a/", "a/1", "a/1/x", "a/2", "a/\U0010ffff", "a/\U0010ffff\U0010ffff", "a0", "b"]),
        ("a", ["a", "a/", "a/1", "a/1/x", "a/2", "a/\U0010ffff", "a/\U0010ffff\U0010ffff", "a0"]),
        ("a/", ["a/", "a/1", "a/1/x", "a/2", "a/\U0010ffff", "a/\U0010ffff\U0010ffff"]),
        ("a/1", ["a/1", "a/1/x"]),
        ("a/\U0010ffff", ["a/\U0010ffff", "a/\U0010ffff\U0010ffff"]),
        ("a%", []),
        ("a_", []),
        ("A", []),
        ("c", []),
    ],
)
async def test_a_list_has_exactly_what_begins_with_the_prefix_in_order(store, prefix, expected):
    every = ["b", "a0", "a/\U0010ffff", "a/\U0010ffff\U0010ffff", "a/2", "a/1/x", "a/1", "a/", "a"]
    await store.commit([], [Put(key, b"") for key in every])
    assert await keys(store, prefix) == expected


async def test_order_is_that_of_code_points(store):
    every = ["k/\uffff", "k/\U00010000", "k/z", "k/é", "k/Z", "k/\x7f", "k/\x01"]
    await store.commit([], [Put(key, b"") for key in every])
    assert await keys(store, "k/") == sorted(every)


@pytest.mark.parametrize("value", [b"", b"\x00", b"\xff\xfe" * 3, bytes(range(256)) * 4096], ids=len)
async def test_any_bytes_are_a_value(store, value):
    watch = store.watch("", await store.commit([], []))
    await store.commit([], [Put("a", value)])
    assert (await store.get("a")).value == value
    (batch,) = await take(watch, 1)
    assert batch.changes[0].item.value == value
    await watch.aclose()


async def test_a_watch_yields_every_commit_after_its_revision_once_and_in_order(store):
    first = await store.commit([], [Put("a", b"1")])
    second = await store.commit([], [Put("a", b"2"), Put("b", b"1")])
    watch = store.watch("", first)
    third = await store.commit([], [Delete("a")])
    fourth = await store.commit([], [Put("a", b"4")])
    batches = await take(watch, 3)
    assert [batch.revision for batch in batches] == [second, third, fourth]
    assert sorted(batches[0].changes, key=lambda change: change.key) == [
        Change("a", Item("a", b"2", second, first)),
        Change("b", Item("b", b"1", second, second)),
    ]
    assert batches[1].changes == (Change("a", None),)
    assert batches[2].changes == (Change("a", Item("a", b"4", fourth, fourth)),)
    await watch.aclose()


async def test_a_watch_sees_only_its_prefix(store):
    start = await store.commit([], [])
    watch = store.watch("w/", start)
    await store.commit([], [Put("other", b"1")])
    mixed = await store.commit([], [Put("other", b"2"), Put("w/a", b"1"), Put("w", b"1"), Put("w0", b"1")])
    await store.commit([], [Delete("other")])
    last = await store.commit([], [Delete("w/a")])
    batches = await take(watch, 2)
    assert [(batch.revision, [change.key for change in batch.changes]) for batch in batches] == [
        (mixed, ["w/a"]),
        (last, ["w/a"]),
    ]
    await watch.aclose()


async def test_a_failed_commit_is_seen_by_no_watch(store):
    start = await store.commit([], [])
    watch = store.watch("", start)
    with pytest.raises(Conflict):
        await store.commit([Check("a", 7)], [Put("a", b"1")])
    await store.commit([], [Delete("never")])
    revision = await store.commit([], [Put("b", b"1")])
    (batch,) = await take(watch, 1)
    assert (batch.revision, [change.key for change in batch.changes]) == (revision, ["b"])
    await watch.aclose()


async def test_a_watch_from_a_later_revision_starts_there(store):
    now = await store.commit([], [Put("a", b"1")])
    watch = store.watch("", now + 1)
    step = asyncio.ensure_future(anext(watch))
    await store.commit([], [Put("a", b"skipped")])
    last = await store.commit([], [Put("a", b"3")])
    async with asyncio.timeout(10):
        assert (await step).revision == last
    await watch.aclose()


async def test_list_then_watch_has_neither_gap_nor_double_under_concurrent_writers(store):
    """Watches that begin at any moment, slow ones too, replay to what a list says, over the same revisions."""
    writers, rounds = 8, 40
    began = await store.commit([], [])
    chance = random.Random(7)
    written: list[int] = []

    async def write(number: int) -> None:
        for turn in range(rounds):
            key = f"k/{chance.randrange(12)}"
            writes = [Delete(key)] if chance.random() < 0.3 else [Put(key, b"%d.%d" % (number, turn))]
            written.append(await store.commit([], [*writes, Put(f"mark/{number}", b"%d" % turn)]))
            await asyncio.sleep(0)

    async def follow(naps: int) -> tuple[dict[str, Item], list[int], int]:
        items, start = await store.list("")
        state, seen = {item.key: item for item in items}, []
        watch = store.watch("", start)
        async with asyncio.timeout(30):
            while "end" not in state:
                batch = await anext(watch)
                seen.append(batch.revision)
                for change in batch.changes:
                    if change.item is None:
                        del state[change.key]
                    else:
                        state[change.key] = change.item
                for _ in range(naps):
                    await asyncio.sleep(0)
        await watch.aclose()
        return state, seen, start

    async def follow_later(naps: int) -> tuple[dict[str, Item], list[int], int]:
        async def reached() -> bool:
            return await store.commit([], []) >= began + naps * 20

        await until(reached)
        return await follow(naps)

    followers = [asyncio.ensure_future(follow_later(naps)) for naps in range(5)]
    await asyncio.gather(*(write(number) for number in range(writers)))
    end = await store.commit([], [Put("end", b"")])
    wanted = {item.key: item for item in (await store.list(""))[0]}
    for state, seen, start in await asyncio.gather(*followers):
        assert seen == [revision for revision in sorted([*written, end]) if revision > start]
        assert state == wanted


async def test_of_concurrent_writers_with_the_same_check_exactly_one_wins(store):
    at = await store.commit([], [Put("a", b"")])
    outcomes = await asyncio.gather(
        *(store.commit([Check("a", at)], [Put("a", b"%d" % number)]) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19


async def test_concurrent_commits_have_revisions_of_their_own(store):
    revisions = await asyncio.gather(*(store.commit([], [Put(f"k/{number}", b"")]) for number in range(50)))
    assert len(set(revisions)) == 50
    assert {item.key: item.revision for item in (await store.list("k/"))[0]} == {
        f"k/{number}": revision for number, revision in enumerate(revisions)
    }


async def test_a_compacted_revision_cannot_be_watched_from(store):
    first = await store.commit([], [Put("a", b"1")])
    second = await store.commit([], [Put("a", b"2")])
    await store.commit([], [Put("a", b"3")])
    await store.compact(second)
    assert (await store.get("a")).value == b"3"
    with pytest.raises(Compacted) as caught:
        await anext(store.watch("", first))
    assert caught.value.oldest > first
    watch = store.watch("", second)
    assert [batch.revision for batch in await take(watch, 1)] == [second + 1]
    await watch.aclose()


async def test_a_watch_that_has_caught_up_outlives_a_compaction(store):
    start = await store.commit([], [Put("a", b"1")])
    watch = store.watch("", start)
    middle = await store.commit([], [Put("a", b"2")])
    assert [batch.revision for batch in await take(watch, 1)] == [middle]
    await store.compact(middle)
    last = await store.commit([], [Put("a", b"3")])
    assert [batch.revision for batch in await take(watch, 1)] == [last]
    await watch.aclose()


async def test_a_lease_ends_with_its_keys_at_one_revision(backend, store):
    lease = await store.grant(backend.ttl_seconds)
    start = await store.commit([], [Put("l/a", b"1", lease), Put("l/b", b"2", lease), Put("l/c", b"3")])
    assert (await store.get("l/a")).lease == lease
    watch = store.watch("l/", start)
    await backend.advance(backend.ttl_seconds * 3)
    (batch,) = await take(watch, 1)
    assert sorted(change.key for change in batch.changes) == ["l/a", "l/b"]
    assert all(change.item is None for change in batch.changes)
    assert await keys(store, "l/") == ["l/c"]
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await store.commit([], [Put("l/d", b"4", lease)])
    await watch.aclose()


async def test_a_lease_kept_alive_does_not_end(backend, store):
    lease = await store.grant(backend.ttl_seconds)
    await store.commit([], [Put("a", b"1", lease)])
    for _ in range(4):
        await backend.advance(backend.ttl_seconds * 0.6)
        await store.keep_alive(lease)
    assert await store.get("a") is not None
    await backend.advance(backend.ttl_seconds * 3)

    async def gone() -> bool:
        return await store.get("a") is None

    await until(gone)


async def test_a_revoked_lease_takes_its_keys_along(backend, store):
    lease = await store.grant(backend.ttl_seconds)
    await store.commit([], [Put("a", b"1", lease), Put("b", b"1")])
    await store.revoke(lease)
    assert await keys(store, "") == ["b"]
    await store.revoke(lease)
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await store.commit([], [Put("c", b"1"), Put("a", b"1", lease)])
    assert await keys(store, "") == ["b"]


async def test_a_key_put_again_belongs_to_its_last_lease_only(backend, store):
    first, second = await store.grant(backend.ttl_seconds), await store.grant(backend.ttl_seconds)
    await store.commit([], [Put("moved", b"1", first), Put("freed", b"1", first)])
    await store.commit([], [Put("moved", b"2", second), Put("freed", b"2")])
    await store.revoke(first)
    assert await keys(store, "") == ["freed", "moved"]
    await store.revoke(second)
    assert await keys(store, "") == ["freed"]


async def test_a_lease_must_exist_and_last(store):
    with pytest.raises(LeaseGone):
        await store.commit([], [Put("a", b"1", "abcdef")])
    with pytest.raises(LeaseGone):
        await store.keep_alive("abcdef")
    for ttl_seconds in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="lease"):
            await store.grant(ttl_seconds)


async def test_close_ends_watches_and_refuses_all_else(store):
    start = await store.commit([], [Put("a", b"1")])

    async def follow() -> list[int]:
        return [batch.revision async for batch in store.watch("", start)]

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    revision = await store.commit([], [Put("a", b"2")])
    watch = store.watch("", start)
    assert [batch.revision for batch in await take(watch, 1)] == [revision]
    await store.close()
    async with asyncio.timeout(10):
        assert await following in ([], [revision])
        assert [batch async for batch in watch] == []
    for refused in (store.get("a"), store.list(""), store.commit([], []), store.grant(5), store.compact(1)):
        with pytest.raises(StoreError):
            await refused
    with pytest.raises(StoreError):
        await anext(store.watch("", start))
    await store.close()
