"""Moving towards what a policy wants afresh: only where asked for, once it has been so for long, a few at a time."""

from collections.abc import Collection
from dataclasses import replace

import msgspec
from federation_world import Ledger, cluster, here, share
from records import NOW, deployment, ids, snapshot

from fallow.decide.federation.division import Target
from fallow.decide.federation.fence import stopped_after
from fallow.decide.federation.rebalancing import Course, alike, course, towards
from fallow.decide.federation.reconcile import UNDECIDED_SECONDS, reconcile
from fallow.model.clusters import HERE_ID, ClusterPolicy, Rebalance
from fallow.model.deployments import Deployment, DeploymentSpec
from fallow.model.divisions import Division
from fallow.model.members import MemberState

RESTLESS = Rebalance(after_seconds=300.0, at_once=2)


def division(shares: dict[str, int], **changes: object) -> Division:
    values: dict[str, object] = {
        "id": "d-web", "created_at": NOW, "updated_at": NOW, "deployment_id": "d-web", "policy": "p", "total": 10,
        "shares": shares,
    }  # fmt: skip
    return Division(**(values | changes))  # type: ignore[arg-type]


def target(**shares: int) -> Target:
    return Target(shares=shares, fingerprint="p")


def test_without_rebalance_nothing_moves() -> None:
    found = course(division({"a": 10}), target(a=10), target(a=5, b=5), None, NOW)
    assert (found.target.shares, found.off_since, found.wait) == ({"a": 10}, 0.0, None)


def test_a_wish_has_to_last() -> None:
    known = division({"a": 10})
    begun = course(known, target(a=10), target(a=5, b=5), RESTLESS, NOW)
    assert (begun.off_since, begun.off_shares, begun.wait, begun.step) == (NOW, {"a": 5, "b": 5}, 300.0, False)
    ahead = division({"a": 10}, off_since=NOW + 3600, off_shares={"a": 5, "b": 5})
    assert course(ahead, target(a=10), target(a=5, b=5), RESTLESS, NOW).wait == 300.0, "the clock was set back"
    known = division({"a": 10}, off_since=NOW - 100, off_shares={"a": 5, "b": 5})
    waiting = course(known, target(a=10), target(a=5, b=5), RESTLESS, NOW)
    assert (waiting.off_since, waiting.wait, waiting.step) == (NOW - 100, 200.0, False)
    ended = course(known, target(a=10), target(a=10), RESTLESS, NOW)
    assert (ended.off_since, ended.off_shares) == (0.0, {})


def test_a_wish_that_turns_round_begins_anew() -> None:
    known = division({"a": 5, "b": 5}, off_since=NOW - 299, off_shares={"a": 3, "b": 7})
    assert course(known, target(a=5, b=5), target(a=7, b=3), RESTLESS, NOW).off_since == NOW
    assert course(known, target(a=5, b=5), target(a=4, b=6), RESTLESS, NOW).off_since == NOW - 299


def test_a_step_moves_so_many_and_waits_for_the_one_before() -> None:
    known = division({"a": 10}, off_since=NOW - 301, off_shares={"a": 5, "b": 5})
    found = course(known, target(a=10), target(a=5, b=5), RESTLESS, NOW)
    assert (found.target.shares, found.step) == ({"a": 8, "b": 2}, True)
    moving = division({"a": 10}, off_since=NOW - 301, off_shares={"a": 5, "b": 5}, moving_since=NOW - 5)
    assert course(moving, target(a=10), target(a=5, b=5), RESTLESS, NOW).target.shares == {"a": 10}


def test_a_share_of_the_total_may_be_the_budget() -> None:
    known = division({"a": 10}, off_since=NOW - 301, off_shares={"a": 5, "b": 5})
    third = Rebalance(after_seconds=300.0, percent=30)
    assert course(known, target(a=10), target(a=5, b=5), third, NOW).target.shares == {"a": 7, "b": 3}
    least = Rebalance(after_seconds=300.0, percent=1)
    assert course(known, target(a=10), target(a=5, b=5), least, NOW).target.shares == {"a": 9, "b": 1}


def test_what_must_move_goes_first_and_nothing_is_given_up_for_it() -> None:
    known = division({"a": 10}, off_since=NOW - 301, off_shares={"a": 5, "b": 5})
    assert course(known, target(b=10), target(a=5, b=5), RESTLESS, NOW).target.shares == {"b": 10}
    full = Target(shares={"a": 4, "b": 4}, unplaced=2, fingerprint="p")
    assert course(known, target(a=10), full, RESTLESS, NOW).target.shares == {"a": 10}


def test_a_step_is_taken_only_where_there_is_room_beside_what_others_are_to_have() -> None:
    known = division({"a": 10}, off_since=NOW - 301, off_shares={"a": 5, "b": 5})
    full = replace(target(a=10), more={"a": 0, "b": 1})
    assert course(known, full, target(a=5, b=5), RESTLESS, NOW) == Course(target=full, off_shares={})
    roomy = replace(target(a=10), more={"a": 0, "b": 2})
    assert course(known, roomy, target(a=5, b=5), RESTLESS, NOW).step


def test_of_several_steps_that_are_due_one_is_taken() -> None:
    wish = deployment("web", 10, share=0)
    spec = replace_spec(wish, rebalance=Rebalance(after_seconds=0.0, at_once=1))
    wishes = [spec, msgspec.structs.replace(spec, id="d-api", name="api")]
    off = {"off_since": NOW - 1, "off_shares": {"c-east": 5, "c-west": 5}}
    known = [division({"c-east": 10}, id=one.id, deployment_id=one.id, **off) for one in wishes]
    now = snapshot(here(), cluster("east"), cluster("west"), *wishes, *known)

    def divide(_: object, at: float, anew: Collection[str]) -> dict[str, Target]:
        shares = {"c-east": 5, "c-west": 5} if anew else {"c-east": 10}
        return {one.id: Target(shares=shares, fingerprint="p") for one in wishes}

    plan = reconcile(now, NOW, ids(), divide)
    moved = [
        found for step in plan.steps for found in step.puts if isinstance(found, Division) and "c-west" in found.shares
    ]
    assert len(moved) == 1 and plan.wake_after_seconds == UNDECIDED_SECONDS


def test_what_a_dead_cluster_may_still_run_is_not_rebalanced_before_its_fence_has_passed() -> None:
    wish = replace_spec(deployment("web", 10, share=0), rebalance=Rebalance(after_seconds=0.0), fence_seconds=60.0)
    dead = cluster("east", state=MemberState.DEAD, died_at=NOW - 20)
    known = division({"c-east": 10}, off_since=NOW - 1, off_shares={"c-east": 5, "c-west": 5})

    def divide(_: object, at: float, anew: Collection[str]) -> dict[str, Target]:
        return {wish.id: Target(shares={"c-east": 5, "c-west": 5} if anew else {"c-east": 10}, fingerprint="p")}

    def moves(at: float) -> bool:
        plan = reconcile(snapshot(here(), dead, cluster("west"), wish, known), at, ids(), divide)
        return any(
            isinstance(found, Division) and "c-west" in found.shares for step in plan.steps for found in step.puts
        )

    assert not moves(NOW)
    assert moves(NOW - 20 + stopped_after(wish))


def replace_spec(found: Deployment, **policy: object) -> Deployment:
    clusters = msgspec.structs.replace(found.spec.clusters, **policy)
    return msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, clusters=clusters))


def test_ways_that_are_alike() -> None:
    assert alike({"a": 10}, {"a": 5, "b": 5}, {"a": 9, "c": 1})
    assert not alike({"a": 5, "b": 5}, {"a": 6, "b": 4}, {"a": 4, "b": 6})


def test_who_has_the_most_too_many_gives_first() -> None:
    assert towards({"a": 9, "b": 6}, {"a": 5, "b": 5, "c": 5}, 2) == {"a": 7, "b": 6, "c": 2}
    assert towards({"a": 1}, {"b": 1}, 9) == {"b": 1}


def test_a_cluster_that_joined_is_filled_step_by_step() -> None:
    policy = ClusterPolicy(rebalance=Rebalance(after_seconds=60.0, at_once=3))
    plain = deployment("web", 8, share=0)
    spec = DeploymentSpec(replicas=8, container=plain.spec.container, clusters=policy)
    ledger = Ledger(here(), cluster("a"), cluster("b"), deployment("web", share=0, spec=spec), share("c-a", 8, 8))
    now, seen = NOW, []

    def divide(snapshot: object, _: float, anew: object) -> dict[str, Target]:
        known = ledger.records.get((Division, "d-web"))
        kept = known.shares if isinstance(known, Division) else {"c-a": 8}
        return {"d-web": Target(shares={"c-a": 4, "c-b": 4} if anew else kept, fingerprint="p")}

    for _ in range(40):
        plan = reconcile(ledger.snapshot(), now, ledger.new_id, divide)
        assert ledger.commit(plan) == len(plan.steps)
        for id_, told in ledger.told().items():
            ledger.says(id_, told, now)
        seen.append(dict(ledger.division().shares))
        now += 10.0
    assert list(map(dict, dict.fromkeys(tuple(each.items()) for each in seen))) == [
        {"c-a": 8},
        {"c-a": 5, "c-b": 3},
        {"c-a": 4, "c-b": 4},
    ]
    assert ledger.told() == {"c-a": 4, "c-b": 4}
    assert ledger.division().history[-1].cause == "rebalanced, as the policy asks"
    assert HERE_ID not in ledger.told()
