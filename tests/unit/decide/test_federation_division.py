"""Division of totals: cases that other systems got wrong, or that people would ask about."""

from typing import Any

import msgspec
import pytest
from division_cases import (
    LATER,
    cluster,
    divide_one,
    divided,
    followed,
    room,
    room_by_key,
    share,
    shares_by_name,
    where,
    wish,
    with_spec,
)
from records import NOW, replica, snapshot, template

from fallow.decide.explain import explain
from fallow.decide.federation.candidates import fingerprint_of
from fallow.decide.federation.division import divide_all
from fallow.decide.federation.fence import stopped_after
from fallow.decide.federation.migrate import Told, retold
from fallow.decide.federation.shapes import question_of
from fallow.decide.federation.table import Table
from fallow.decide.selectors import parse_selector
from fallow.model.clusters import HERE_ID, ClusterPolicy, ClusterSpread, Rebalance
from fallow.model.deployments import Deployment, Origin
from fallow.model.members import MemberState, Scheduling
from fallow.model.meta import Record
from fallow.model.rooms import MOST, RoomSummary
from fallow.model.shares import ShareReport
from fallow.model.taints import Taint, Toleration

ONE_GROUP = ClusterSpread(label="region", min_groups=1)
MOVE = Taint(key="gpu", value="x", effect="move")


def fleet(of: Deployment, **holds: int) -> list[Record]:
    """Return ready clusters by name, each with room for so many more."""
    return [
        found for name, count in holds.items() for found in (cluster(name), room(name, (of, count), orders={of.id: 1}))
    ]


def told(of: Deployment, **shares: int) -> list[Record]:
    """Return a division by the policy of the deployment, and shares that are as it says."""
    division = divided(of, shares, fingerprint_of(of.spec.clusters))
    return [division, *(share(of, name, count) for name, count in shares.items())]


@pytest.mark.parametrize(
    ("policy", "holds", "before", "total", "after"),
    [
        # weights
        ({"divide": "weighted", "weights": {"a": 170, "b": 110, "c": 60}}, (99, 99, 99), None, 5, (2, 2, 1)),
        ({"divide": "weighted", "weights": {"a": 170, "b": 110, "c": 60}}, (99, 99, 99), (2, 2, 1), 6, (3, 2, 1)),
        ({"divide": "weighted"}, (99, 99, 99), None, 7, (3, 2, 2)),
        ({"divide": "weighted", "weights": {"a": 1}}, (99, 99, 99), None, 7, (7, 0, 0)),
        ({"divide": "weighted", "weights": {"a": 2, "b": 1}}, (3, 99, 0), None, 9, (3, 6, 0)),
        # by room: only what is added is divided
        ({}, (6, 12, 18), None, 9, (2, 3, 4)),
        ({}, (0, 10, 10), (5, 5, 0), 12, (5, 5, 2)),
        ({}, (9, 9, 9), (6, 3, 3), 6, (2, 2, 2)),
        ({}, (0, 0, 0), (6, 3, 3), 6, (3, 2, 1)),
        ({}, (1, 1, 0), None, 5, (1, 1, 0)),
        # few clusters
        ({"divide": "aggregate"}, (6, 12, 8), None, 7, (0, 7, 0)),
        ({"divide": "aggregate"}, (6, 12, 8), None, 15, (0, 9, 6)),
        ({"divide": "aggregate"}, (3, 99, 99), (4, 0, 0), 6, (6, 0, 0)),
        ({"divide": "aggregate"}, (9, 9, 9), (8, 4, 0), 6, (6, 0, 0)),
        # the total in each
        ({"divide": "duplicate"}, (9, 2, 9), None, 3, (3, 2, 3)),
        ({"divide": "duplicate", "max": {"a": 1}}, (9, 9, 9), None, 3, (1, 3, 3)),
        # bounds
        ({"min": {"c": 2}}, (50, 50, 2), None, 4, (1, 1, 2)),
        ({"max": {"a": 1, "b": 1}}, (9, 9, 9), None, 5, (1, 1, 3)),
        ({"min": {"a": 3, "b": 3}}, (9, 9, 9), None, 4, (2, 2, 0)),
        ({"min": {"a": 2, "b": 2}, "spread": ONE_GROUP}, (9, 9, 99), None, 4, (2, 2, 0)),
        ({"max": {"a": 2}}, (9, 9, 9), (5, 0, 0), 5, (2, 2, 1)),
    ],
)  # fmt: skip
def test_division(
    policy: dict[str, Any], holds: tuple[int, ...], before: tuple[int, ...] | None, total: int, after: tuple[int, ...]
) -> None:
    """`holds` is room beside what there is `before`."""
    of = wish(replicas=total, **policy)
    names = ("a", "b", "c")
    records = fleet(of, **dict(zip(names, holds, strict=True)))
    if before is not None:
        records += told(of, **{name: count for name, count in zip(names, before, strict=True) if count})
    assert divide_one(of, *records) == {name: count for name, count in zip(names, after, strict=True) if count}


def test_without_member_clusters_nothing_is_divided() -> None:
    assert divide_all(snapshot(wish()), LATER) == {}


def test_where_equally_few_clusters_do_those_that_hold_replicas_are_taken() -> None:
    of = wish(replicas=4, divide="aggregate")
    records = [*fleet(of, a=20, b=9, c=9), share(of, "c", 4), divided(of, {"c": 4}, "of another policy")]
    assert divide_one(of, *records) == {"c": 4}
    more = with_spec(of, replicas=14)
    assert divide_one(more, *records) == {"a": 14}


def test_who_wants_few_clusters_takes_no_part_of_a_cluster_that_others_fill() -> None:
    many = [wish(f"app-{number}", 10, cpus=1.0, divide="aggregate") for number in range(2)]
    rooms = [room(name, (many[0], count)) for name, count in (("a", 14), ("b", 12), ("c", 2))]
    targets = divide_all(snapshot(*many, cluster("a"), cluster("b"), cluster("c"), *rooms), LATER)
    assert [shares_by_name(target) for target in targets.values()] == [{"a": 10}, {"b": 10}]


def test_an_edited_policy_divides_afresh_and_keeps_who_holds_them_among_equals() -> None:
    of = wish(replicas=4, divide="weighted", weights={"a": 1, "b": 1, "c": 1})
    old = divided(of, {"c": 2, "b": 1, "a": 1}, "of another policy")
    records = [*fleet(of, a=9, b=9, c=9), *(share(of, name, 1 + (name == "c")) for name in "abc")]
    assert divide_one(of, old, *records) == {"a": 1, "b": 1, "c": 2}
    assert divide_one(of, *records) == {"a": 1, "b": 1, "c": 2}
    heavy = with_spec(of, clusters=ClusterPolicy(divide="weighted", weights={"a": 3, "b": 1}))
    assert divide_one(heavy, old, *records) == {"a": 3, "b": 1}


def test_how_fast_moves_go_is_no_other_policy() -> None:
    policy = ClusterPolicy(divide="aggregate")
    other = msgspec.structs.replace(policy, rebalance=Rebalance(), fence_seconds=60.0, floor=1)
    assert fingerprint_of(policy) == fingerprint_of(other)
    assert fingerprint_of(policy) != fingerprint_of(ClusterPolicy(divide="aggregate", max={"a": 3}))


def test_rebalancing_divides_anew_only_what_it_is_asked_for() -> None:
    of = wish(replicas=6, divide="weighted")
    records = [*fleet(of, a=9, b=9), *told(of, a=6)]
    now = snapshot(of, *records)
    assert shares_by_name(divide_all(now, LATER)[of.id]) == {"a": 6}
    assert shares_by_name(divide_all(now, LATER, [of.id])[of.id]) == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("changes", "policy", "total", "after"),
    [
        ({"state": MemberState.DEAD}, {}, 4, {"b": 4}),
        ({"state": MemberState.JOINING}, {}, 4, {"b": 4}),
        ({"state": MemberState.SUSPECT}, {}, 4, {"a": 4}),
        ({"state": MemberState.SUSPECT}, {}, 6, {"a": 4, "b": 2}),
        ({"scheduling": Scheduling.CORDONED}, {}, 4, {"a": 4}),
        ({"scheduling": Scheduling.CORDONED}, {}, 6, {"a": 4, "b": 2}),
        ({"scheduling": Scheduling.DRAINING}, {}, 4, {"b": 4}),
        ({"scheduling": Scheduling.DRAINING, "state": MemberState.SUSPECT}, {}, 4, {"b": 4}),
        ({"taints": (Taint(key="gpu"),)}, {}, 6, {"a": 4, "b": 2}),
        ({"taints": (MOVE,)}, {}, 4, {"b": 4}),
        ({"taints": (MOVE,)}, {"tolerate": (Toleration(key="gpu"),)}, 4, {"a": 4}),
        ({"taints": (MOVE,)}, {"tolerate": (Toleration(key="gpu", value="y"),)}, 4, {"b": 4}),
        ({"labels": {"region": "west"}}, {"where": where("region=west")}, 4, {"a": 4}),
        ({"labels": {"region": "east"}}, {"where": where("region!=east")}, 4, {"b": 4}),
        ({}, {"where": where("name=b")}, 4, {"b": 4}),
        ({}, {"where": where("node:name=a")}, 4, {}),
        ({}, {"where": where("@nobody-made-it")}, 4, {}),
        ({"labels": {"tier": "1"}}, {"fallback": (where("tier=2"), where("!tier"))}, 4, {"b": 4}),
    ],
)  # fmt: skip
def test_which_clusters_may_be_used(
    changes: dict[str, Any], policy: dict[str, Any], total: int, after: dict[str, int]
) -> None:
    of = wish(replicas=total, **policy)
    rooms = [room("a", (of, 9)), room("b", (of, 9))]
    assert divide_one(of, cluster("a", **changes), cluster("b"), *rooms, *told(of, a=4)) == after


def test_a_silent_cluster_keeps_what_was_foreseen_for_it() -> None:
    of = wish(replicas=6)
    division = divided(of, {"a": 6}, fingerprint_of(of.spec.clusters))
    records = [division, share(of, "a", 4), room("a", (of, 9)), room("b", (of, 9)), cluster("b")]
    assert divide_one(of, cluster("a", state=MemberState.SUSPECT), *records) == {"a": 6}
    assert divide_one(of, cluster("a", scheduling=Scheduling.CORDONED), *records) == {"a": 4, "b": 2}


def test_a_fenced_replica_of_a_dead_cluster_is_replaced_once_it_has_stopped_there() -> None:
    of = wish(replicas=1, fence_seconds=60.0)
    stopped = stopped_after(of)
    for passed, wanted in ((0.0, {"a": 1}), (stopped - 1.0, {"a": 1}), (stopped + 1.0, {"b": 1})):
        dead = cluster("a", state=MemberState.DEAD, died_at=LATER - passed)
        found = divide_one(of, dead, cluster("b"), room("b", (of, 9)), *told(of, a=1))
        assert found == wanted, passed
    assert "fence" in Table(snapshot(of, dead), dead.died_at).candidates_of(0)[0].why


@pytest.mark.parametrize("policy", [{"spread": ClusterSpread(label="region", min_groups=2)}, {"min": {"c": 1}}])
def test_neither_a_spread_nor_a_minimum_takes_from_a_dead_cluster_whose_fence_has_not_passed(
    policy: dict[str, Any],
) -> None:
    of = wish(replicas=4, fence_seconds=60.0, **policy)
    dead = [cluster(name, state=MemberState.DEAD, died_at=LATER, labels={"region": "west"}) for name in "ab"]
    joined = [cluster("c", labels={"region": "east"}), room("c", (of, 9))]
    division = divided(of, {"a": 2, "b": 2}, fingerprint_of(of.spec.clusters))
    records = (of, division, *joined, *told(of, a=2, b=2))
    assert divide_one(*records, *dead) == {"a": 2, "b": 2}
    silent = [msgspec.structs.replace(found, state=MemberState.SUSPECT) for found in dead]
    assert divide_one(*records, *silent)["c"] == 1, "of those it may be taken"


@pytest.mark.parametrize(
    "policy", [{"where": parse_selector("region=east")}, {"max": {"a": 1}}, {"divide": "weighted", "weights": {"c": 1}}]
)
def test_an_edited_policy_takes_nothing_from_a_dead_cluster_whose_fence_has_not_passed(policy: dict[str, Any]) -> None:
    of = wish(replicas=4, fence_seconds=60.0, **policy)
    dead = cluster("a", state=MemberState.DEAD, died_at=LATER, labels={"region": "west"})
    joined = [cluster("c", labels={"region": "east"}), room("c", (of, 9))]
    division = divided(of, {"a": 3, "c": 1}, fingerprint_of(ClusterPolicy()))
    records = (of, division, dead, *joined, *told(of, a=3, c=1))
    assert divide_one(*records) == {"a": 3, "c": 1}
    assert divide_one(*records, now=LATER + stopped_after(of)) == {"c": 4}


def test_nothing_runs_away_when_nobody_has_room() -> None:
    of = wish(replicas=6)
    found = divide_all(snapshot(of, *fleet(of, a=0, b=0), *told(of, a=4)), LATER)[of.id]
    assert (shares_by_name(found), found.unplaced) == ({"a": 4}, 2)
    dead = [cluster("a", state=MemberState.DEAD), cluster("b"), room("b", (of, 0)), *told(of, a=4)]
    lost = divide_all(snapshot(of, *dead), LATER)[of.id]
    assert (lost.shares, lost.unplaced) == ({}, 6)


def test_a_cluster_that_could_not_place_what_it_was_told_is_held_to_what_it_placed() -> None:
    of = wish(replicas=6)
    held = share(of, "a", 6, placed=2, held_until=LATER + 1)
    division = divided(of, {"a": 6}, fingerprint_of(of.spec.clusters))
    records = [*fleet(of, a=99, b=99), division, held]
    assert divide_one(of, *records) == {"a": 2, "b": 4}
    assert divide_one(of, *records, now=LATER + 2) == {"a": 6}


# Answers


def test_new_shapes_wait_a_moment_for_answers_and_no_longer() -> None:
    of = wish(replicas=4, cpus=1.0)
    free = RoomSummary(nodes=3, cpus=12.0, free_cpus=3.9, memory_bytes=2**30, free_memory_bytes=2**30)
    records = [cluster("a"), cluster("b"), room("a", (of, 9)), room("b", summary=free)]
    assert of.id not in divide_all(snapshot(of, *records), NOW + 0.5)
    assert divide_one(of, *records, now=NOW + 1.5) == {"a": 3, "b": 1}
    silent = [cluster("a"), cluster("b"), room("a", (of, 9))]
    assert divide_one(of, *silent, now=NOW + 1.5) == {"a": 4}


def test_while_answers_are_waited_for_a_division_stays_as_it_is() -> None:
    of = wish(replicas=9, cpus=1.0)
    records = [cluster("a"), cluster("b"), room("a", (of, 9)), room("b"), *told(of, a=4)]
    assert divide_one(of, *records, now=NOW + 0.5) == {"a": 4}
    assert divide_one(of, *records, now=NOW + 1.5) == {"a": 9}


def test_nobody_waits_for_clusters_that_may_not_be_used_anyway() -> None:
    of = wish(replicas=4)
    records = [cluster("a"), room("a", (of, 9))]
    for useless in (cluster("b", state=MemberState.DEAD), cluster("b", scheduling=Scheduling.DRAINING)):
        assert divide_one(of, useless, *records, now=NOW + 0.5) == {"a": 4}
    away = wish(replicas=4, where=where("name=a"))
    assert divide_one(away, cluster("b"), *records, now=NOW + 0.5) == {"a": 4}


@pytest.mark.parametrize("more", [-5, 0, 10**12])
def test_absurd_answers_are_bounded(more: int) -> None:
    of = wish(replicas=20)
    records = [cluster("a"), cluster("b"), room("a", (of, more)), room("b", (of, 10))]
    shares = divide_one(of, *records)
    assert 0 <= shares.get("a", 0) <= 20
    assert sum(shares.values()) == min(20, max(0, min(more, MOST)) + 10)


# Orders that a cluster had not counted


def test_twenty_deployments_at_once_do_not_overcommit() -> None:
    many = [msgspec.structs.replace(wish(f"app-{number}", 3, cpus=1.0)) for number in range(20)]
    records = [cluster("a"), cluster("b"), room("a", (many[0], 25)), room("b", (many[0], 25))]
    targets = divide_all(snapshot(*many, *records), LATER)
    given = {name: sum(target.shares.get(f"c-{name}", 0) for target in targets.values()) for name in "ab"}
    assert given == {"a": 25, "b": 25}
    assert sum(target.unplaced for target in targets.values()) == 10


def test_what_was_told_since_a_cluster_counted_is_kept_for_it() -> None:
    known, new = wish("known", 6, cpus=2.0), wish("new", 9, cpus=1.0)
    division = divided(known, {"a": 6}, fingerprint_of(known.spec.clusters))
    report = ShareReport(deployment_id=known.id, revision=7, replicas=2, placed=2)
    raised = share(known, "a", 6, order=9, least=2, reported=report)
    answers = {question_of(known).key: 6, question_of(new).key: 12}
    records = [known, new, division, raised, cluster("a")]

    def given(**changes: Any) -> int:
        now = snapshot(*records, room_by_key("a", answers, **({"summary": RoomSummary(nodes=1)} | changes)))
        return divide_all(now, LATER)[new.id].shares.get("c-a", 0)

    assert given(orders={known.id: 9}) == 9  # it has counted all six
    assert given(orders={known.id: 7}) == 12 - 4 * 2  # four more are on their way
    assert given(orders={known.id: 6}) == 0  # who knows how many it has counted
    assert given() == 0


def test_what_was_told_again_after_it_was_only_kept_is_kept_room_for() -> None:
    known, new = wish("known", 3, cpus=1.0), wish("new", 9, cpus=1.0)
    report = ShareReport(deployment_id=known.id, revision=7, replicas=3, placed=3)  # none of them is ready
    kept = retold(share(known, "a", 3, order=7, least=3, reported=report), Told(0, 3), revision=8, now=NOW)
    again = retold(kept, Told(3), revision=10, now=NOW)
    division = divided(known, {"a": 3}, fingerprint_of(known.spec.clusters))
    counted = room_by_key("a", {question_of(known).key: 6}, orders={known.id: 9}, summary=RoomSummary(nodes=1))
    targets = divide_all(snapshot(known, new, division, again, cluster("a"), counted), LATER)
    assert targets[new.id].shares == {"c-a": 3}  # by what is counted the three are gone


def test_the_same_order_is_not_kept_room_for_twice() -> None:
    of = wish("known", 6)
    division = divided(of, {"a": 4}, fingerprint_of(of.spec.clusters))
    records = [cluster("a"), room("a", (of, 2), orders={of.id: 9}), division, share(of, "a", 4, order=9)]
    assert divide_one(of, *records) == {"a": 6}


# What is not divided


def test_a_share_of_another_host_is_not_divided_and_the_deleted_get_nothing() -> None:
    taken = msgspec.structs.replace(wish("taken"), origin=Origin(revision=1, generation=1), share=3)
    doomed = msgspec.structs.replace(wish("doomed"), deleting=True)
    found = divide_all(snapshot(taken, doomed, *fleet(doomed, a=9), *told(doomed, a=6)), LATER)
    assert {id_: target.shares for id_, target in found.items()} == {doomed.id: {}}


def test_what_ran_here_before_other_clusters_came_stays_here() -> None:
    of = wish(replicas=3)
    here = cluster("here", id=HERE_ID)
    running = [replica(of, slot) for slot in range(3)]
    rooms = [msgspec.structs.replace(room("here", (of, 0)), id=HERE_ID), room("b", (of, 99))]
    found = divide_all(snapshot(of, here, cluster("b"), *rooms, *running), LATER)[of.id]
    assert found.shares == {HERE_ID: 3}
    new = divide_all(snapshot(of, here, cluster("b"), *rooms), LATER)[of.id]
    assert new.shares == {"c-b": 3}


# Words


@pytest.mark.parametrize(
    ("policy", "a", "b", "rule_of_b"),
    [
        ({"divide": "weighted", "weights": {"a": 2, "b": 1}}, 9, 9, "weight 1 of 3"),
        ({}, 9, 18, "by capacity: room for 18 in all"),
        ({}, 99, 0, "no room for more (too small)"),
        ({"divide": "weighted"}, 99, 2, "room for 2 more only (too small)"),
        ({"divide": "aggregate"}, 99, 3, "fewest clusters: not needed"),
        ({"divide": "duplicate"}, 9, 9, "the total in every cluster"),
        ({"max": {"b": 1}}, 9, 9, "at most 1, by max"),
        ({"min": {"b": 2}}, 99, 9, "at least 2, by min"),
        ({"where": where("region in (east,west)")}, 9, 9, "does not match region in (east,west)"),
        ({"fallback": (where("region=east"), where(""))}, 9, 9, "fallback group 2: not needed"),
    ],
)
def test_rules_name_what_made_a_share(policy: dict[str, Any], a: int, b: int, rule_of_b: str) -> None:
    of = wish(replicas=6, **policy)
    rooms = [room("a", (of, a)), room("b", (of, b), why="" if b >= 6 else "too small")]
    records = [cluster("a", labels={"region": "east"}), cluster("b"), *rooms]
    now = snapshot(of, share(of, "b", 0), divided(of, {"b": 1}, "another"), *records)
    assert divide_all(now, LATER)[of.id].rules["c-b"] == rule_of_b


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"scheduling": Scheduling.CORDONED}, "cordoned"),
        ({"taints": (Taint(key="gpu"),)}, "tainted gpu:no-new"),
        ({"state": MemberState.DEAD}, "dead"),
    ],
)
def test_rules_say_what_is_the_matter_with_a_cluster(changes: dict[str, Any], rule: str) -> None:
    of = wish(replicas=6)
    records = [cluster("a", **changes), cluster("b"), room("a", (of, 9)), room("b", (of, 9)), share(of, "a", 2)]
    found = divide_all(snapshot(of, divided(of, {"a": 2}, fingerprint_of(of.spec.clusters)), *records), LATER)[of.id]
    assert found.rules["c-a"] == rule


def test_what_has_no_place_says_why_for_all_clusters() -> None:
    of = wish(replicas=30, max={"c": 1})
    names = [cluster("a"), cluster("b", scheduling=Scheduling.CORDONED), cluster("c"), cluster("d")]
    held = share(of, "d", 5, placed=3, held_until=LATER + 9)
    rooms = [room("a", (of, 4)), room("b", (of, 9)), room("c", (of, 9)), room("d", (of, 9))]
    division = divided(of, {"d": 5}, fingerprint_of(of.spec.clusters))
    found = divide_all(snapshot(of, *names, *rooms, held, division), LATER)[of.id]
    assert (shares_by_name(found), found.unplaced) == ({"a": 4, "c": 1, "d": 3}, 22)
    assert found.unplaced_reason == (
        "b: cordoned; d: could not place all it was told; c: as many as max allows; a: no room for more"
    )
    assert found.rules["c-d"] == "held: 2 of 5 replicas could not be placed"


def test_explaining_says_why_clusters_were_passed_over() -> None:
    of = wish(replicas=4, where=where("region=east"))
    east = {"labels": {"region": "east"}}
    names = [cluster("a", **east), cluster("b", **east, taints=(Taint(key="gpu"),)), cluster("c"), cluster("d")]
    rooms = [room(name, (of, 9), orders={of.id: 1}) for name in "abcd"]
    explained = explain(snapshot(of, *names, *rooms, *told(of, a=4)), "shop/web", LATER)
    assert explained is not None
    assert "none in b: tainted gpu:no-new" in explained.lines
    assert "none in c, d: does not match region=east" in explained.lines
    assert not any(line.startswith("none in a") for line in explained.lines)


def test_words_are_kept_where_nothing_changed() -> None:
    of = wish(replicas=6)
    division = divided(of, {"a": 6}, fingerprint_of(of.spec.clusters), rules={"c-a": "as it was"})
    found = divide_all(snapshot(of, *fleet(of, a=9), division, share(of, "a", 6)), LATER)[of.id]
    assert found.rules == {"c-a": "as it was"}


def test_a_whole_life_moves_no_more_than_it_must() -> None:
    of = wish(replicas=6, divide="weighted", weights={"a": 2, "b": 1})
    rooms = [room("a", (of, 50)), room("b", (of, 50))]
    first = snapshot(of, cluster("a"), cluster("b"), *rooms)
    targets = divide_all(first, LATER)
    assert shares_by_name(targets[of.id]) == {"a": 4, "b": 2}
    grown = with_spec(of, replicas=9)
    after = followed(first, targets)
    now = snapshot(grown, *(each for each in after.members.values()), *after.rooms.values(),
                   *after.divisions.values(), *after.shares.values())  # fmt: skip
    assert shares_by_name(divide_all(now, LATER)[of.id]) == {"a": 6, "b": 3}


@pytest.mark.parametrize("deleting", [False, True])
def test_what_was_told_and_taken_back_holds_its_room_until_it_is_counted(deleting: bool) -> None:
    web, large = wish("web", 9, cpus=1.0), wish("large", 0, cpus=2.0)
    gone = msgspec.structs.replace(large, deleting=deleting)
    back = share(large, "a", 0, order=50, least=0, highest=2)  # it may have begun both
    before = room("a", (web, 6), (large, 3), orders={web.id: 1}, summary=RoomSummary(nodes=1))
    assert divide_one(web, cluster("a"), before, gone, back) == {"a": 2}
    after = msgspec.structs.replace(before, orders={web.id: 1, large.id: 50})
    assert divide_one(web, cluster("a"), after, gone, back) == {"a": 6}


def test_what_was_told_and_taken_back_may_be_told_again_at_once() -> None:
    web = wish("web", 5, cpus=1.0)
    back = share(web, "a", 0, order=50, least=0, highest=5)
    assert divide_one(web, cluster("a"), room("a", (web, 5), orders={web.id: 1}), back) == {"a": 5}


@pytest.mark.parametrize(
    ("counted", "renewed_at", "left"),
    [
        ({}, 60, 2),  # both may have been begun as large as they were
        ({"d-shrunk": 45}, 60, 2),
        ({"d-shrunk": 45}, 40, 4),  # orders it had not taken in were for small ones
        ({"d-shrunk": 50}, 60, 6),  # it has counted them, as large as they are
    ],
)
def test_what_was_told_of_a_larger_shape_holds_that_much_room_until_it_is_counted(
    counted: dict[str, int], renewed_at: int, left: int
) -> None:
    web, large, small = wish("web", 9, cpus=1.0), wish("shrunk", 2, cpus=2.0), wish("shrunk", 2, cpus=1.0)
    now = msgspec.structs.replace(small, generation=2, revision=renewed_at)
    templates = template(large), msgspec.structs.replace(template(now), revision=renewed_at)
    told = share(now, "a", 2, order=50, least=0, highest=2, reported=None)
    answers = room("a", (web, 6), (large, 3), orders={web.id: 1, **counted}, summary=RoomSummary(nodes=1))
    assert divide_one(web, cluster("a"), answers, now, told, *templates) == {"a": left}


@pytest.mark.parametrize(("cpus", "again"), [(1.0, 2), (2.0, 2), (4.0, 1)])
def test_what_was_told_and_taken_back_may_be_told_again_as_long_as_it_is_no_larger(cpus: float, again: int) -> None:
    before, grown = wish("web", 2, cpus=2.0), wish("web", 2, cpus=cpus)
    now = msgspec.structs.replace(grown, generation=2, revision=60)
    templates = template(before), msgspec.structs.replace(template(now), revision=60)
    back = share(now, "a", 1, order=50, least=1, highest=2)
    answers = room("a", (before, 0), (grown, 0), orders={now.id: 1}, summary=RoomSummary(nodes=1))
    assert divide_one(now, cluster("a"), answers, back, *templates) == {"a": again}
