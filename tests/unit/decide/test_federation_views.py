"""Clusters, and deployments over all of them, as people see them; and why they are so."""

from typing import Any

import msgspec
from federation_world import cluster, here, report, share
from records import NOW, deployment, replica, snapshot

from fallow.decide.explain import explain
from fallow.decide.federation.shapes import question_of
from fallow.decide.federation.views import cluster_views, division_view, whole_view
from fallow.decide.selectors import parse_selector
from fallow.decide.views import member_view
from fallow.model.clusters import HERE_ID, ClusterPolicy, ClusterView
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division, PastDivision
from fallow.model.members import Member, MemberState, Scheduling, Thresholds
from fallow.model.meta import Record
from fallow.model.rooms import Room, RoomAnswer, RoomSummary
from fallow.model.shares import Share
from fallow.model.taints import Taint

EAST, WEST = cluster("east"), cluster("west", labels={"region": "west"})


def web(replicas: int = 10, **changes: Any) -> Deployment:
    return deployment("web", replicas, **({"share": 0, "good_generation": 1} | changes))


def division(shares: dict[str, int], **changes: Any) -> Division:
    values: dict[str, Any] = {
        "id": "d-web", "created_at": NOW, "updated_at": NOW, "deployment_id": "d-web", "policy": "policy",
        "total": 10, "shares": shares, "rules": dict.fromkeys(shares, "by capacity"),
        "history": (PastDivision(at=NOW, total=10, shares={}, cause="it is new"),),
    }  # fmt: skip
    return Division(**(values | changes))


def saying(found: Share, **changes: Any) -> Share:
    assert found.reported is not None
    return msgspec.structs.replace(found, reported=msgspec.structs.replace(found.reported, **changes))


def state(*records: Record, of: Deployment | None = None) -> tuple[str, str]:
    found = of or web()
    view = whole_view(snapshot(here(), EAST, WEST, found, *records), found)
    return view.state, view.reason


USUAL = Thresholds(suspect_after_seconds=5.0, dead_after_seconds=10.0)


def clusters(*records: Record) -> dict[str, ClusterView]:
    taken = snapshot(*records)
    views = [member_view(taken, found, False, 0.0, None) for found in taken.clusters.values()]
    return {view.member.name: view for view in cluster_views(taken, views, USUAL)}


def test_what_is_not_divided_is_as_it_is_here() -> None:
    found = deployment("web", 1, good_generation=1)
    view = whole_view(snapshot(found, replica(found)), found)
    assert (view.state, view.counts.wanted, view.counts.healthy) == ("serving", 1, 1)


def test_counts_are_those_of_all_clusters_that_can_be_heard() -> None:
    shares = (
        saying(share("c-east", 6, 4), running=5, placed=6, leaving=("r-1",)), share("c-west", 3, 3),
        share(HERE_ID, 1, 1), share("c-dead", 5, 5),
    )  # fmt: skip
    found = web()
    dead = cluster("dead", state=MemberState.DEAD)
    view = whole_view(snapshot(here(), EAST, WEST, dead, found, *shares), found)
    counts = view.counts
    assert (counts.wanted, counts.healthy, counts.running, counts.placed, counts.pending) == (10, 8, 9, 1, 0)
    assert (counts.leaving, view.updated) == (1, 8)
    assert view.state == "waiting"


def test_a_deployment_is_as_its_worst_share_is() -> None:
    good = share("c-east", 5, 5)
    assert state(good, share("c-west", 5, 5)) == ("serving", "")
    assert state(good, saying(share("c-west", 5, 3), state="degraded", reason="crashes")) == (
        "degraded",
        "west: crashes",
    )
    assert state(good, saying(share("c-west", 5, 0), state="refused", reason="taken"))[0] == "degraded"
    assert state(good, saying(share("c-west", 5, 5), state="updating", reason="3 of 5"))[0] == "updating"
    waiting = saying(share("c-west", 5, 2), state="waiting", reason="pulling")
    assert state(good, waiting) == ("waiting", "west: pulling")
    assert state(good, share("c-here", 5, 5), saying(share("c-west", 5, 5), state="waiting")) == ("serving", "")


def test_who_has_not_begun_with_a_generation_keeps_it_updating() -> None:
    second = web(generation=2, good_generation=2)
    shares = share("c-east", 5, 5), share("c-west", 5, 5)
    assert state(*shares, of=second) == ("updating", "not begun with generation 2: east, west")
    updated = [saying(found, generation=2) for found in shares]
    assert state(*updated, of=second) == ("serving", "")


def test_what_has_no_place_is_told() -> None:
    known = division({"c-east": 8}, unplaced=2, unplaced_reason="east: no room for more")
    assert state(share("c-east", 8, 8), known) == (
        "waiting",
        "8 of 10 replicas are healthy; 2 have no place: east: no room for more",
    )


def test_a_new_deployment_waits() -> None:
    assert state() == ("waiting", "0 of 10 replicas are healthy")
    assert state(of=web(0))[0] == "stopped"
    assert state(share("c-east", 0, 3), of=web(deleting=True)) == ("deleting", "3 replicas have not stopped yet")


def test_a_duplicated_deployment_wants_the_total_in_each_cluster() -> None:
    spec = msgspec.structs.replace(web(3).spec, clusters=ClusterPolicy(divide="duplicate"))
    found = web(3, spec=spec)
    known = division({"c-east": 3, "c-west": 3}, total=3)
    view = whole_view(snapshot(EAST, WEST, found, known, share("c-east", 3, 3), share("c-west", 3, 2)), found)
    assert (view.counts.wanted, view.counts.healthy, view.state) == (6, 5, "waiting")


def test_a_division_shows_targets_orders_and_what_clusters_say() -> None:
    shares = share("c-east", 7, 7), saying(share("c-west", 5, 3), reason="pulling")
    found = division_view(snapshot(here(), EAST, WEST, web(), division({"c-east": 5, "c-west": 5}), *shares), web())
    assert (found.total, found.ready, found.placed, found.moving) == (10, 10, 12, 2)
    east, west = found.shares
    assert (east.cluster, east.target, east.replicas, east.ready, east.rule) == ("east", 5, 7, 7, "by capacity")
    assert (west.reason, west.cluster_state) == ("pulling", "ready")
    assert found.history[0].cause == "it is new"


def test_a_cluster_shows_what_comes_and_goes() -> None:
    room = Room(id="c-east", created_at=NOW, updated_at=NOW, summary=RoomSummary(nodes=3, cpus=12.0, free_cpus=2.0))
    views = clusters(
        here(), EAST, WEST, web(), room, division({"c-west": 10}), share("c-east", 7, 7), share("c-west", 10, 3)
    )
    east, west = views["east"], views["west"]
    assert (east.wanted, east.ready, east.moving_in, east.moving_out, east.left) == (0, 7, 0, 7, 7)
    assert (east.nodes, east.cpus, east.stuck) == (3, 12.0, ())
    assert (west.wanted, west.moving_in, west.moving_out) == (10, 7, 0)
    assert (views["here"].here, views["here"].member.connected, west.here) == (True, True, False)


def test_a_cluster_is_full_for_what_waits_and_may_use_it() -> None:
    found = web()
    policy = ClusterPolicy(where=parse_selector("region=west"))
    found = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, clusters=policy))
    key = question_of(found).key

    def rooms(more: int) -> tuple[Room, ...]:
        summary = RoomSummary(nodes=2, cpus=8.0, free_cpus=1.5, memory_bytes=100, free_memory_bytes=40)
        answers = {key: RoomAnswer(key=key, more=more)}
        return tuple(
            Room(id=each.id, created_at=NOW, updated_at=NOW, answers=answers, summary=summary) for each in (EAST, WEST)
        )

    waiting = division({WEST.id: 4}, unplaced=6)
    full = clusters(EAST, WEST, found, waiting, *rooms(0))
    assert (full["west"].full_for, full["east"].full_for) == (("shop/web",), ())
    assert (full["west"].free_cpus, full["west"].free_memory_bytes) == (1.5, 40)
    assert clusters(EAST, WEST, found, waiting, *rooms(1))["west"].full_for == ()
    assert clusters(EAST, WEST, found, division({WEST.id: 10}), *rooms(0))["west"].full_for == ()


def test_what_a_dead_cluster_said_last_counts_for_nothing() -> None:
    dead = cluster("east", state=MemberState.DEAD)
    records = (dead, WEST, web(), division({"c-west": 10}), share("c-east", 7, 7), share("c-west", 10, 10))
    view = clusters(*records)["east"]
    assert (view.ready, view.running, view.moving_in, view.moving_out) == (0, 0, 0, 0)
    found = division_view(snapshot(*records), web())
    assert (found.ready, found.moving) == (10, 0)
    assert (found.shares[0].ready, found.shares[0].replicas, found.shares[0].reason) == (
        0, 7, "nothing is heard of the cluster",
    )  # fmt: skip


def test_a_drained_cluster_says_what_cannot_leave_it() -> None:
    draining = cluster("east", scheduling=Scheduling.DRAINING)
    late = saying(share("c-west", 10, 3), reason="pulling")
    view = clusters(draining, WEST, web(), division({"c-west": 10}), share("c-east", 7, 7), late)["east"]
    assert view.stuck == ("shop/web: 7 wait for replacements: not ready yet in west 7: pulling",)
    full = division({"c-west": 4}, unplaced=6, unplaced_reason="west: no room for more")
    view = clusters(draining, WEST, web(), full, share("c-east", 6, 6), share("c-west", 4, 4))["east"]
    assert view.stuck == ("shop/web: 6 have no place: west: no room for more",)
    ready = clusters(draining, WEST, web(), division({"c-west": 10}), share("c-east", 7, 7), share("c-west", 10, 10))
    assert ready["east"].stuck == ("shop/web: 7 wait for replacements: they are ready, and take over",)
    dead = cluster("west", state=MemberState.DEAD)
    view = clusters(draining, dead, web(), division({"c-west": 10}), share("c-east", 7, 7), share("c-west", 10, 10))
    assert view["east"].stuck == ("shop/web: 7 wait for replacements: not ready yet in west 10",)


def test_what_still_stops_is_left() -> None:
    stopping = share("c-east", 0, reported=report(0, remaining=2))
    assert clusters(EAST, web(), stopping)["east"].left == 2


def test_many_that_cannot_leave_are_counted() -> None:
    draining = cluster("east", scheduling=Scheduling.DRAINING)
    many = [deployment(f"w{number:02}", 1) for number in range(25)]
    shares = [share("c-east", 1, 1, of=found.id) for found in many]
    stuck = clusters(draining, *many, *shares)["east"].stuck
    assert (len(stuck), stuck[-1]) == (21, "and 5 more deployments")


def lines(subject: str, *records: Record) -> tuple[str, ...]:
    told = explain(snapshot(here(), *records), subject, NOW)
    assert told is not None
    return told.lines


def test_a_deployment_is_explained_by_cluster_and_rule() -> None:
    known = division({"c-east": 5, "c-west": 5}, unplaced=1, unplaced_reason="no room")
    told = lines(
        "shop/web", EAST, WEST, web(), known, share("c-east", 7, 7), saying(share("c-west", 3, 3), reason="slow")
    )
    assert "east (ready): 7 ready of 5; by capacity; 2 leave it once others are ready" in told
    assert "west (ready): 3 ready of 5; by capacity; told to run 3 so far; it says: slow" in told
    assert "1 have no place: no room" in told
    assert "divided so because it is new" in told


def test_a_cluster_is_explained() -> None:
    room = Room(id="c-east", created_at=NOW, updated_at=NOW, summary=RoomSummary(nodes=3, cpus=12.0, free_cpus=2.5))
    tainted = cluster("east", taints=(Taint(key="old", effect="move"),), scheduling=Scheduling.CORDONED)
    told = lines("east", tainted, web(), room, share("c-east", 7, 7))
    assert "cordoned by an operator: it keeps what it has and gets nothing new" in told
    assert "runs 7 replicas of 1 deployments" in told
    assert "taint old:move" in told
    assert "3 nodes, 2.5 of 12 CPUs free by its own account" in told


def uses(**changes: Any) -> str:
    found: Member = cluster("east", **changes)
    return lines("east", found)[1]


def test_what_a_cluster_may_get() -> None:
    assert uses() == "it may get new replicas"
    assert uses(state=MemberState.DEAD) == "it gets no new replicas while it is dead"
    assert uses(scheduling=Scheduling.DRAINING) == "drained: nothing of ours is left in it"
