import asyncio
from dataclasses import replace as with_fields

import msgspec
import pytest
from store_records import event, put, replica

from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.kinds import KINDS
from fallow.model.meta import Reason
from fallow.store import applier as applier_module
from fallow.store.applier import Applied, Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, OutcomeUnknown, StoreError, TooLarge
from fallow.store.memory import MemoryStore
from fallow.store.sqlite import SqliteStore


class CountingStore(MemoryStore):
    """Counts commits and, once, lets somebody else in before the next one."""

    def __init__(self):
        super().__init__()
        self.attempts = 0
        self.meanwhile = None

    async def commit(self, checks, writes):
        self.attempts += 1
        if self.meanwhile is not None:
            other, self.meanwhile = self.meanwhile, None
            await other()
        return await super().commit(checks, writes)


@pytest.fixture
async def store():
    made = CountingStore()
    yield made
    await made.close()


@pytest.fixture
async def cache(store):
    made = Cache(store)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def applier(store, cache):
    return Applier(store, cache)


async def stored(store, cache, *ids: str):
    """Store replicas and return them as the cache has them."""
    await cache.wait(await put(store, *(replica(id_) for id_ in ids)))
    return [cache.snapshot().replicas[id_] for id_ in ids]


def changed(record, slot: int = 9):
    return msgspec.structs.replace(record, slot=slot)


def slots(cache):
    return {id_: record.slot for id_, record in cache.snapshot().replicas.items()}


async def test_a_committed_step_is_in_the_cache_at_once(applier, cache):
    revision = await applier.commit(Step(puts=(replica("r1"), event("e1"))))
    assert cache.get("replicas", "r1").revision == revision
    assert cache.get("events", "e1").revision == revision
    await applier.commit(Step(puts=(changed(cache.get("replicas", "r1")),)))
    assert slots(cache) == {"r1": 9}
    await applier.commit(Step(deletes=(cache.get("replicas", "r1"),)))
    assert cache.snapshot().replicas == {}


async def test_every_kind_is_stored_under_its_own_name(applier, cache):
    await applier.commit(Step(puts=(replica("r1"), event("e1"))))
    assert {kind for kind in KINDS if cache.records(kind)} == {"replicas", "events"}


@pytest.mark.parametrize("part", ["puts", "deletes", "guards"])
async def test_a_step_decided_on_an_older_record_is_refused_whole(applier, store, cache, part):
    (old,) = await stored(store, cache, "r1")
    await stored(store, cache, "r1")
    with pytest.raises(Conflict) as caught:
        await applier.commit(
            with_fields(Step(puts=(replica("new"),)), **{part: (*getattr(Step(puts=(replica("new"),)), part), old)})
        )
    assert caught.value.keys == ("replicas/r1",)
    assert cache.snapshot().replicas.keys() == {"r1"}


async def test_a_new_record_must_not_exist(applier, store, cache):
    await stored(store, cache, "r1")
    with pytest.raises(Conflict):
        await applier.commit(Step(puts=(replica("r1"),)))


async def test_after_a_conflict_the_cache_knows_what_was_in_the_way(applier, store, cache):
    (old,) = await stored(store, cache, "r1")
    revision = await put(store, replica("r1", slot=4))
    assert cache.revision < revision
    with pytest.raises(Conflict):
        await applier.commit(Step(puts=(changed(old),)))
    assert cache.revision >= revision


async def test_an_empty_plan_and_an_empty_step_do_nothing(applier, store):
    assert await applier.apply(Plan()) == Applied(committed=0, dropped=0, revision=0)
    assert (await applier.apply(Plan(steps=(Step(),)))).committed == 1
    assert (await store.list(""))[0] == []


async def test_many_steps_share_a_commit(applier, store, cache):
    steps = tuple(Step(puts=(replica(f"r{number}"), event(f"e{number}"))) for number in range(2500))
    applied = await applier.apply(Plan(steps=steps))
    assert applied == Applied(committed=2500, dropped=0, revision=3)
    assert store.attempts == 3
    assert len(cache.snapshot().replicas) == 2500
    assert cache.revision == 3


async def test_a_commit_is_bounded_by_bytes_too(applier, store, cache, monkeypatch):
    monkeypatch.setattr(applier_module, "BATCH_BYTES", 1500)
    big = replica("big" + "x" * 3000)
    steps = (Step(puts=(replica("a"),)), Step(puts=(big,)), *(Step(puts=(replica(f"r{n}"),)) for n in range(9)))
    applied = await applier.apply(Plan(steps=steps))
    assert (applied.committed, applied.dropped) == (11, 0)
    assert 4 <= store.attempts <= 8


async def test_only_the_steps_in_conflict_are_dropped(applier, store, cache):
    records = await stored(store, cache, *(f"r{number}" for number in range(10)))
    await put(store, replica("r3", slot=5), replica("r7", slot=5))
    steps = [Step(puts=(changed(record), replica(f"beside-{record.id}"))) for record in records]
    applied = await applier.apply(Plan(steps=tuple(steps)))
    assert (applied.committed, applied.dropped) == (8, 2)
    assert {id_ for id_, slot in slots(cache).items() if slot == 9} == {f"r{n}" for n in range(10) if n not in (3, 7)}
    assert slots(cache)["r3"] == slots(cache)["r7"] == 5
    assert {id_ for id_ in slots(cache) if id_.startswith("beside")} == {
        f"beside-r{n}" for n in range(10) if n not in (3, 7)
    }


async def test_when_all_conflict_all_are_dropped(applier, store, cache):
    (old,) = await stored(store, cache, "r1")
    await stored(store, cache, "r1")
    steps = (Step(puts=(changed(old),)), Step(deletes=(old,)), Step(guards=(old,), puts=(replica("r2"),)))
    assert await applier.apply(Plan(steps=steps)) == Applied(committed=0, dropped=3, revision=0)


async def test_a_conflict_that_comes_with_every_attempt_ends(applier, store, cache):
    records = await stored(store, cache, "r1", "r2", "r3")

    async def one_more() -> None:
        record = records.pop()
        await put(store, replica(record.id, slot=1))
        store.meanwhile = one_more if records else None

    store.meanwhile = one_more
    applied = await applier.apply(Plan(steps=tuple(Step(puts=(changed(record),)) for record in list(records))))
    assert (applied.committed, applied.dropped) == (0, 3)


async def test_of_two_steps_that_change_the_same_record_the_second_is_stale(applier, store, cache):
    (record, other) = await stored(store, cache, "r1", "r2")
    store.attempts = 0
    steps = (
        Step(puts=(changed(record, 1),)),
        Step(puts=(changed(record, 2), replica("with-second"))),
        Step(deletes=(record,)),
        Step(guards=(record,), puts=(replica("guarded"),)),
        Step(puts=(changed(other, 3),)),
    )
    applied = await applier.apply(Plan(steps=steps))
    assert (applied.committed, applied.dropped) == (2, 3)
    assert slots(cache) == {"r1": 1, "r2": 3}
    assert store.attempts == 2, "what is known to be stale is not tried"


async def test_a_record_that_must_not_exist_may_follow_its_deletion(applier, store, cache):
    (record,) = await stored(store, cache, "r1")
    steps = (Step(deletes=(record,)), Step(puts=(replica("r1", slot=2),)))
    assert (await applier.apply(Plan(steps=steps))).committed == 2
    assert slots(cache) == {"r1": 2}


async def test_a_step_is_not_stale_because_one_that_was_dropped_touched_its_record(applier, store, cache):
    record, gone = await stored(store, cache, "r1", "gone")
    await stored(store, cache, "gone")
    steps = (Step(puts=(changed(record, 1),), guards=(gone,)), Step(puts=(changed(record, 2),)))
    applied = await applier.apply(Plan(steps=steps))
    assert (applied.committed, applied.dropped) == (1, 1)
    assert slots(cache)["r1"] == 2


async def test_of_steps_that_expect_different_revisions_the_right_one_is_kept(applier, store, cache):
    (old,) = await stored(store, cache, "r1")
    (new,) = await stored(store, cache, "r1")
    for steps in ((old, new), (new, old)):
        plan = Plan(steps=tuple(Step(guards=(seen,), puts=(replica(f"{seen.revision}"),)) for seen in steps))
        applied = await applier.apply(plan)
        assert (applied.committed, applied.dropped) == (1, 1)
        await applier.commit(Step(deletes=(cache.get("replicas", str(new.revision)),)))


async def test_many_may_guard_what_one_after_them_changes(applier, store, cache):
    (record,) = await stored(store, cache, "r1")
    store.attempts = 0
    steps = (*(Step(guards=(record,), puts=(replica(f"g{n}"),)) for n in range(5)), Step(puts=(changed(record),)))
    assert (await applier.apply(Plan(steps=steps))).committed == 6
    assert store.attempts == 1


def room_for_one_a_node(snapshot: Snapshot, step: Step) -> Reason | None:
    for record in step.puts:
        if snapshot.replicas_by_node.get(record.node_id):
            return Reason(code="Full", text="full")
    return None


async def test_steps_of_one_commit_are_checked_against_each_other(store, cache):
    """Each of two would fit alone, and so a check of each against the stored state would let both in."""
    applier = Applier(store, cache, room_for_one_a_node)
    steps = [Step(puts=(replica(f"r{n}", node=f"n{n % 3}"),)) for n in range(9)]
    applied = await applier.apply(Plan(steps=tuple(steps)))
    assert (applied.committed, applied.dropped) == (3, 6)
    assert sorted(cache.snapshot().replicas) == ["r0", "r1", "r2"]


async def test_only_batches_with_a_step_of_its_concern_are_checked(store, cache):
    looked: list[str] = []

    def check(snapshot: Snapshot, step: Step) -> Reason | None:
        looked.extend(record.id for record in step.puts)
        return room_for_one_a_node(snapshot, step)

    applier = Applier(store, cache, check, lambda step: any(record.id == "b" for record in step.puts))
    alone = await applier.apply(Plan(steps=(Step(puts=(replica("z", node="n1"),)), Step(puts=(replica("y"),)))))
    assert (alone.committed, looked) == (2, [])
    together = [Step(puts=(replica(id_, node="n2"),)) for id_ in "abc"]
    applied = await applier.apply(Plan(steps=tuple(together)))
    assert looked == ["a", "b", "c"]  # those before it take room, too
    assert (applied.committed, applied.dropped) == (1, 2)


async def test_the_check_sees_the_newest_state_and_again_after_a_conflict(store, cache):
    applier = Applier(store, cache, room_for_one_a_node)
    (record,) = await stored(store, cache, "r1")

    async def others() -> None:
        await put(store, replica("theirs", node="n1"), replica("r1", slot=1))

    store.meanwhile = others
    steps = (
        Step(puts=(changed(record),)),
        Step(puts=(replica("ours", node="n1"),)),
        Step(puts=(replica("free", node="n2"),)),
    )
    applied = await applier.apply(Plan(steps=steps))
    assert (applied.committed, applied.dropped) == (1, 2)
    assert cache.snapshot().replicas.keys() == {"r1", "theirs", "free"}


async def test_plans_applied_at_the_same_time_do_not_share_the_same_room(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db")
    cache = Cache(store)
    await cache.start()
    applier = Applier(store, cache, room_for_one_a_node)
    plans = [Plan(steps=(Step(puts=(replica(f"r{n}", node="n1"),)),)) for n in range(5)]
    outcomes = await asyncio.gather(*(applier.apply(plan) for plan in plans))
    assert sum(applied.committed for applied in outcomes) == 1
    assert len(cache.snapshot().replicas_by_node["n1"]) == 1
    await cache.stop()
    await store.close()


async def test_a_broken_store_is_an_error_and_not_a_drop(applier, store, cache):
    async def fail() -> None:
        raise StoreError("disk full")

    store.meanwhile = fail
    with pytest.raises(StoreError, match="disk full"):
        await applier.apply(Plan(steps=(Step(puts=(replica("r1"),)),)))
    assert (await applier.apply(Plan(steps=(Step(puts=(replica("r1"),)),)))).committed == 1


async def test_what_could_not_be_read_again_is_never_stored(store, cache, applier):
    unreadable = msgspec.structs.replace(replica("bad"), slot="not a number")
    with pytest.raises(StoreError, match="replicas/bad"):
        await applier.commit(Step(puts=(unreadable,)))
    applied = await applier.apply(Plan(steps=(Step(puts=(unreadable,)), Step(puts=(replica("good"),)))))
    assert (applied.committed, applied.dropped) == (1, 1)
    assert list(cache.snapshot().replicas) == ["good"]


class LosingStore(CountingStore):
    """Loses the answer to the next commit, which it makes or does not make; `away` says whether more are refused."""

    lose = False
    written = True
    away = False

    async def commit(self, checks, writes):
        if self.away:
            raise StoreError("away")
        if not self.lose:
            return await super().commit(checks, writes)
        self.lose = False
        if self.written:
            await super().commit(checks, writes)
        raise OutcomeUnknown("lost")


@pytest.mark.parametrize("written", [True, False])
async def test_after_an_unknown_outcome_nothing_is_decided_before_the_cache_shows_it(written):
    store = LosingStore()
    cache = Cache(store)
    await cache.start()
    applier = Applier(store, cache)
    store.lose, store.written = True, written
    with pytest.raises(OutcomeUnknown):
        await applier.apply(Plan(steps=[Step(puts=(replica("r1"),))]))
    store.away = True
    with pytest.raises(StoreError):
        await applier.commit(Step(puts=(replica("r2"),)))
    store.away = False
    with pytest.raises(Conflict):
        await applier.commit(Step(puts=(replica("r2"),)))
    assert list(cache.snapshot().replicas) == (["r1"] if written else [])
    await applier.commit(Step(puts=(replica("r2"),)))

    store.lose, store.written = True, written
    with pytest.raises(OutcomeUnknown):
        await applier.commit(Step(puts=(replica("r3"),)))
    plan = Plan(steps=[Step(puts=(replica("r4"),))])
    assert await applier.apply(plan) == Applied(committed=0, dropped=1, revision=0)
    assert ("r3" in cache.snapshot().replicas) is written
    assert (await applier.apply(plan)).committed == 1
    await cache.stop()
    await store.close()


async def test_commits_are_no_larger_than_the_store_takes(store, cache):
    store.max_operations = 10
    applier = Applier(store, cache)
    guard = (await stored(store, cache, "guard"))[0]
    before = store.attempts
    steps = [Step(puts=(replica(f"r{n}"), replica(f"s{n}")), guards=(guard,)) for n in range(9)]
    assert (await applier.apply(Plan(steps=steps))).committed == 9
    assert store.attempts - before == 3  # four steps of two records and one shared guard each
    large = Step(puts=tuple(replica(f"t{n}") for n in range(11)))
    with pytest.raises(TooLarge, match="11 records"):
        await applier.commit(large)
    small = Step(puts=(replica("small"),))
    assert await applier.apply(Plan(steps=[large, small])) == Applied(
        committed=1, dropped=1, revision=cache.get("replicas", "small").revision
    )
    store.max_bytes = 100
    with pytest.raises(TooLarge, match="100 bytes"):
        await applier.commit(Step(puts=(replica("u"),)))
