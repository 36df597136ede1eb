"""What only the etcd store promises: lost members, lost answers, TLS, users, limits."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from records import deployment, replica
from store_backends import etcd_url, shared_etcd, take

from fallow.decide.plan import Step
from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.store import etcd as etcd_module
from fallow.store import etcd_members
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import (
    Check,
    Compacted,
    Conflict,
    Delete,
    LeaseGone,
    OutcomeUnknown,
    Put,
    StoreError,
    TooLarge,
)
from fallow.store.etcd import EtcdStore
from fallow.store.etcd_url import parse
from fallow.store.open import open_store
from testbed import parts
from testbed.etcd import EtcdCluster, write_certificates

parts.require("etcd", "etcdctl")


@asynccontextmanager
async def opened(cluster: EtcdCluster, url: str = ""):
    store = await EtcdStore.open(parse((url or etcd_url(cluster)).partition(":")[2], cluster.environment))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store():
    async with opened(await asyncio.to_thread(shared_etcd)) as made:
        yield made


@pytest.fixture
def cluster():
    """A cluster whose members may be killed; they are brought back in the end, since starting a cluster takes long."""
    made = shared_etcd()
    yield made
    for name in made.running():
        made.resume(name)
    made.start(*(name for name in made.names if name not in made.running()))


async def follow(store: EtcdStore, after: int, until_key: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return every commit a watch tells of, up to the one that puts `until_key`."""
    seen = []
    watch = store.watch("", after)
    async with asyncio.timeout(60):
        async for batch in watch:
            keys = tuple(sorted(change.key for change in batch.changes))
            seen.append((batch.revision, keys))
            if until_key in keys:
                break
    await watch.aclose()
    return seen


async def test_killing_leaders_loses_no_commit_and_a_watch_neither_misses_nor_doubles_one(cluster):
    """The leader, and with it whatever member the store speaks to, is killed three times under writes."""
    async with opened(cluster) as store:
        start = await store.commit([], [])
        watching = asyncio.ensure_future(follow(store, start, "end"))
        written: dict[str, list[int]] = {}
        stop = asyncio.Event()

        async def write(name: str) -> None:
            revisions = written.setdefault(name, [])
            revision = 0
            while not stop.is_set():
                # Fails with Conflict when an attempt whose answer was lost is not known as ours.
                revision = await store.commit(
                    [Check(name, revision)], [Put(name, b"%d" % len(revisions)), Put(f"{name}/{len(revisions)}", b"")]
                )
                revisions.append(revision)

        writers = [asyncio.ensure_future(write(f"w{number}")) for number in range(8)]
        for _ in range(3):
            reached = sum(map(len, written.values())) + 200
            async with asyncio.timeout(60):
                while sum(map(len, written.values())) < reached and not any(task.done() for task in writers):
                    await asyncio.sleep(0.01)
            leader = await asyncio.to_thread(cluster.leader)
            cluster.kill(leader)
            reached = sum(map(len, written.values())) + 20
            async with asyncio.timeout(60):
                while sum(map(len, written.values())) < reached and not any(task.done() for task in writers):
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(cluster.start, leader)
        stop.set()
        await asyncio.gather(*writers)
        await store.commit([], [Put("end", b"")])
        seen = await watching
        commits = sorted(
            (revision, (name, f"{name}/{turn}"))
            for name, revisions in written.items()
            for turn, revision in enumerate(revisions)
        )
        assert seen[:-1] == commits
        for name, revisions in written.items():
            assert (await store.get(name)).value == b"%d" % (len(revisions) - 1)
            assert (await store.get(name)).revision == revisions[-1]


async def test_a_member_that_falls_silent_is_left_for_another(cluster):
    """The process is stopped: connections stay open and nothing comes back."""
    async with opened(cluster) as store:
        revision = await store.commit([], [Put("a", b"1")])
        watching = asyncio.ensure_future(follow(store, revision, "end"))
        asked = store._members.current.endpoint
        (silent,) = [name for name in cluster.names if cluster.endpoint(name) == asked]
        await asyncio.sleep(0)
        cluster.pause(silent)
        async with asyncio.timeout(14):
            second = await store.commit([Check("a", revision)], [Put("a", b"2")])
            assert (await store.get("a")).revision == second
        cluster.resume(silent)
        end = await store.commit([], [Put("end", b"")])
        assert await watching == [(second, ("a",)), (end, ("end",))]


async def test_a_commit_whose_answer_is_lost_is_written_once_and_is_no_conflict(store, monkeypatch):
    start = await store.commit([], [])
    lost = 0

    async def lose_answers(request, **options):
        nonlocal lost
        answer = await real(request, **options)
        if lost < 2:
            lost += 1
            raise _unavailable()
        return answer

    member = store._members.current
    real = member.kv.Txn
    for every in store._members._members:
        monkeypatch.setattr(every.kv, "Txn", lose_answers)
    revision = await store.commit([Check("a", 0)], [Put("a", b"1")])
    assert lost == 2
    assert (await store.get("a")).revision == revision
    last = await store.commit([Check("a", revision)], [Put("a", b"2"), Put("end", b"")])
    assert await follow(store, start, "end") == [(revision, ("a",)), (last, ("a", "end"))]


async def test_a_commit_of_unknown_outcome_is_not_written_after_another_one(store, monkeypatch):
    """The request is held back somewhere, and sent on when the store has given up on it."""
    monkeypatch.setattr(etcd_members, "CALL_SECONDS", 0.2)
    held = []

    async def hold(request, **options):
        held.append(request)
        raise _unavailable()

    real = store._members.current.kv.Txn
    with monkeypatch.context() as patch:
        for member in store._members._members:
            patch.setattr(member.kv, "Txn", hold)
        with pytest.raises(OutcomeUnknown, match=r"0 s: lost.*when it answers again"):
            await store.commit([], [Put("late", b"")])
    await store.commit([], [Put("other", b"")])
    assert not (await real(held[0])).succeeded
    assert await store.get("late") is None


async def test_a_conflicting_transaction_leaves_no_trace_and_names_its_keys(store):
    first = await store.commit([], [Put("a", b"1"), Put("b", b"1")])
    second = await store.commit([], [Put("b", b"2")])
    with pytest.raises(Conflict) as caught:
        await store.commit([Check("a", first), Check("b", first), Check("c", 0)], [Put("c", b""), Delete("a")])
    assert caught.value.keys == ("b",)
    items, revision = await store.list("")
    assert [(item.key, item.revision) for item in items] == [("a", first), ("b", second)]
    assert revision >= second


async def test_a_swept_mark_does_no_harm(store):
    first = await store.commit([], [Put("a", b"1")])
    shared_etcd().ctl("del", "--prefix", store._marks._own.decode())
    second = await store.commit([Check("a", first)], [Put("a", b"2")])
    assert (await store.get("a")).revision == second


async def test_nothing_is_left_of_a_closed_store_but_its_data():
    cluster = await asyncio.to_thread(shared_etcd)
    url = cluster.url("/fallow/leftovers")
    async with opened(cluster, url) as store:
        await asyncio.gather(*(store.commit([], [Put(f"k/{number}", b"")]) for number in range(5)))
    left = cluster.ctl("get", "--prefix", "--keys-only", "/fallow/leftovers/").split()
    assert left == [f"/fallow/leftovers/data/k/{number}" for number in range(5)]


async def test_deleting_what_is_not_there_uses_up_a_revision_that_nobody_waits_for(store):
    cache = Cache(store)
    await cache.start()
    async with asyncio.timeout(10):
        revision = await Applier(store, cache).commit(Step(deletes=(replica(deployment(), 1, revision=0),)))
    assert cache.revision < revision
    await cache.stop()


async def test_as_much_as_etcd_takes_is_one_commit_and_more_is_refused(store):
    most = store.max_operations
    checks = [Check(f"k/{number}", 0) for number in range(most)]
    revision = await store.commit(checks, [Put(check.key, b"") for check in checks])
    assert {item.revision for item in (await store.list("k/"))[0]} == {revision}
    with pytest.raises(Conflict) as caught:
        await store.commit(checks, [Put(check.key, b"") for check in checks])
    assert len(caught.value.keys) == most
    for checks, writes in (
        ([Check(f"k/{number}", 0) for number in range(most + 1)], []),
        ([], [Put(f"k/{number}", b"") for number in range(most + 1)]),
        ([], [Put("large", bytes(store.max_bytes))]),
    ):
        with pytest.raises(TooLarge, match="at most"):
            await store.commit(checks, writes)
    await store.commit([], [Put("large", bytes(store.max_bytes - 5))])


async def test_a_list_of_many_pages_is_of_one_revision(store, monkeypatch):
    monkeypatch.setattr(etcd_module, "PAGE_ITEMS", 7)
    for start in range(0, 300, 100):
        await store.commit([], [Put(f"k/{number:03}", b"0") for number in range(start, start + 100)])
    stop = asyncio.Event()

    async def disturb() -> int:
        turns = 0
        while not stop.is_set():
            turns += 1
            await store.commit([], [Put("k/000", b"%d" % turns), Put("k/299", b"%d" % turns)])
        return turns

    disturbing = asyncio.ensure_future(disturb())
    for _ in range(5):
        items, revision = await store.list("k/")
        assert [item.key for item in items] == [f"k/{number:03}" for number in range(300)]
        assert items[0].value == items[-1].value
        assert revision >= items[-1].revision
    stop.set()
    assert await disturbing > 5


async def test_a_list_larger_than_a_message_of_grpc(store):
    for number in range(6):
        await store.commit([], [Put(f"k/{number}", bytes(1024 * 1024))])
    assert len((await store.list("k/"))[0]) == 6


async def test_a_reader_behind_compaction_is_told_even_where_etcd_would_not(store):
    first = await store.commit([], [Put("a", b"1")])
    deleted = await store.commit([], [Delete("a")])
    last = await store.commit([], [Put("b", b"1")])
    await store.compact(deleted)
    for after in (first - 1, first):
        with pytest.raises(Compacted):
            await anext(store.watch("", after))
    (batch,) = await take(store.watch("", deleted), 1)
    assert batch.revision == last
    await store.compact(first)  # less than is forgotten already
    await store.compact(last + 1000)
    assert (await store.get("b")).value == b"1"


async def test_two_stores_see_each_other_and_two_prefixes_do_not():
    cluster = await asyncio.to_thread(shared_etcd)
    url = etcd_url(cluster)
    async with opened(cluster, url) as one, opened(cluster, url) as two, opened(cluster) as elsewhere:
        start = await two.commit([], [])
        watch = two.watch("", start)
        revision = await one.commit([Check("a", 0)], [Put("a", b"1")])
        await elsewhere.commit([Check("a", 0)], [Put("a", b"x")])
        assert [batch.revision for batch in await take(watch, 1)] == [revision]
        with pytest.raises(Conflict):
            await two.commit([Check("a", 0)], [Put("a", b"2")])
        assert [item.value for item in (await two.list(""))[0]] == [b"1"]
        lease = await one.grant(60)
        await two.keep_alive(lease)
        await two.commit([], [Put("mine", b"", lease)])
        await one.revoke(lease)
        assert await two.get("mine") is None
        with pytest.raises(LeaseGone):
            await two.keep_alive(lease)
        await watch.aclose()


async def test_with_one_member_down_a_store_opens_and_works(cluster):
    url = etcd_url(cluster)
    first = parse(url.partition(":")[2]).endpoints[0]
    (name,) = [name for name in cluster.names if cluster.endpoint(name) == first]
    cluster.kill(name)
    async with asyncio.timeout(20), opened(cluster, url) as store:
        revision = await store.commit([Check("a", 0)], [Put("a", b"1")])
        assert (await store.list(""))[0][0].revision == revision


async def test_it_tells_where_its_members_are_and_which_answer(cluster):
    async with opened(cluster, etcd_url(cluster) + "?places=west/a,east,north") as store:
        found = await store.members()
        assert [(each.address, each.region, each.zone, each.answers) for each in found] == [
            (cluster.endpoint("e0"), "west", "a", True),
            (cluster.endpoint("e1"), "east", "", True),
            (cluster.endpoint("e2"), "north", "", True),
        ]
        first, second = [
            name for name in cluster.names if name != cluster.leader()
        ]  # without it they elect for a while
        cluster.pause(first)
        silent = [each.address for each in await store.members() if not each.answers]
        assert silent == [cluster.endpoint(first)]
        cluster.pause(second)  # the third runs, and knows that most do not agree with it
        assert not any(each.answers for each in await store.members())


async def test_the_whole_cluster_may_go_and_come_back(cluster, monkeypatch):
    monkeypatch.setattr(etcd_members, "CALL_SECONDS", 1.5)
    url = etcd_url(cluster)
    async with opened(cluster, url) as store:
        revision = await store.commit([], [Put("a", b"1")])
        watching = asyncio.ensure_future(follow(store, revision, "end"))
        for name in cluster.names:
            cluster.kill(name)
        with pytest.raises(OutcomeUnknown):
            await store.commit([Check("a", revision)], [Put("a", b"2")])
        with pytest.raises(StoreError, match="did not answer within 2 s") as caught:
            await store.get("a")
        assert not isinstance(caught.value, OutcomeUnknown)
        with pytest.raises(StoreError, match="did not answer"):
            await EtcdStore.open(parse(url.partition(":")[2]))
        await asyncio.to_thread(cluster.start, *cluster.names)
        monkeypatch.setattr(etcd_members, "CALL_SECONDS", 20.0)
        # Never sent, and certainly not written any more.
        assert (await store.get("a")).revision == revision
        end = await store.commit([Check("a", revision)], [Put("end", b"")])
        assert await watching == [(end, ("end",))]


async def test_closing_ends_calls_that_wait(cluster):
    async with opened(cluster) as store:
        await store.commit([], [Put("a", b"1")])
        for name in cluster.names:
            cluster.pause(name)
        waiting = [asyncio.ensure_future(call) for call in (store.get("a"), store.commit([], [Put("b", b"")]))]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await store.close()
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, StoreError)


@pytest.fixture(scope="module")
def guarded():
    """A cluster with TLS and users."""
    with EtcdCluster(tls=True, auth=True) as made:
        yield made


async def test_tls_and_a_user(guarded):
    async with opened(guarded, guarded.url()) as store:
        revision = await store.commit([], [Put("a", b"1")])
        watch = store.watch("", revision - 1)
        assert [batch.revision for batch in await take(watch, 1)] == [revision]
        # Tokens end with time, and when all members start anew; the store logs in again, for calls and for watches.
        store._members._token = "ended"
        assert (await store.get("a")).revision == revision
        store._members._token = "ended"
        other = store.watch("", revision - 1)
        assert [batch.revision for batch in await take(other, 1)] == [revision]
        await other.aclose()
        for name in guarded.names:
            guarded.kill(name)
        await asyncio.to_thread(guarded.start, *guarded.names)
        second = await store.commit([Check("a", revision)], [Put("a", b"2")])
        assert [batch.revision for batch in await take(watch, 1)] == [second]
        await watch.aclose()
        lease = await store.grant(30)
        await store.keep_alive(lease)
        await store.revoke(lease)


async def test_what_is_wrong_with_a_login_is_told_without_the_password(guarded, monkeypatch):
    rest = guarded.url().partition(":")[2]
    user = guarded.environment["FALLOW_STORE_USER"]
    for environ, told in (
        ({"FALLOW_STORE_USER": user, "FALLOW_STORE_PASSWORD": "wr0ng"}, "refused the user name or the password"),
        ({}, "set FALLOW_STORE_USER and"),
    ):
        with pytest.raises(StoreError, match=told) as caught:
            await EtcdStore.open(parse(rest, environ))
        assert "wr0ng" not in str(caught.value)
    elsewhere = guarded.url("/others").partition(":")[2]
    with pytest.raises(StoreError, match="role has readwrite on the prefix"):
        await EtcdStore.open(parse(elsewhere, guarded.environment))
    async with opened(guarded, guarded.url()) as store:
        monkeypatch.setattr(store, "_begin", b"/others/")
        with pytest.raises(StoreError, match="role has readwrite"):
            await anext(store.watch("", 0))


async def test_without_the_right_certificates_it_says_what_is_wrong(guarded, monkeypatch, tmp_path):
    monkeypatch.setattr(etcd_members, "CALL_SECONDS", 1.0)
    plain = f"//{','.join(guarded.endpoints)}"
    write_certificates(tmp_path)
    for rest in (plain, f"{plain}?ca={tmp_path}/ca.pem&cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"):
        with pytest.raises(StoreError, match=r"did not answer within 1 s"):
            await EtcdStore.open(parse(rest, guarded.environment))


async def test_open_store_opens_it_and_marks_its_schema():
    cluster = await asyncio.to_thread(shared_etcd)
    url = etcd_url(cluster)
    for _ in range(2):
        store = await open_store(url)
        assert (await store.get(SCHEMA_KEY)).value == str(SCHEMA_VERSION).encode()
        await store.close()


def _unavailable():
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details="lost")
