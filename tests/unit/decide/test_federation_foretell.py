"""What would move, if: plans of clusters, and dry runs where there are several."""

from division_cases import LATER, cluster, divided, room, share, where, wish, with_spec
from lent_fleet import heard, node, server, vm
from records import NOW, member, replica, snapshot

from fallow.decide.federation.candidates import fingerprint_of
from fallow.decide.federation.foretell import foretell_shares, plan
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID, ClusterPolicy, Rebalance
from fallow.model.deployments import Deployment
from fallow.model.rooms import RoomSummary
from fallow.model.shares import PlanRequest, ShareChange

GIB = 2**30


def stored(of: Deployment, **shares: int) -> list[object]:
    division = divided(of, shares, fingerprint_of(of.spec.clusters), rules={"c-b": "as before"})
    return [of, division, *(share(of, name, count) for name, count in shares.items())]


def two(of: Deployment, a: int, b: int) -> Snapshot:
    """Return two clusters, with so much room beside three replicas in each."""
    rooms = [room("a", (of, a), orders={of.id: 1}), room("b", (of, b), orders={of.id: 1})]
    return snapshot(cluster("a"), cluster("b"), *rooms, *stored(of, a=3, b=3))  # type: ignore[arg-type]


def test_a_lost_cluster() -> None:
    of = wish(replicas=6)
    found = plan(two(of, 2, 9), PlanRequest(what="cluster-loss", cluster="c-a"), LATER)
    assert found.changes == (
        ShareChange(deployment="shop/web", cluster="a", before=3, after=0, why="a is lost"),
        ShareChange(deployment="shop/web", cluster="b", before=3, after=6, why="by capacity: room for 12 in all"),
    )
    assert (found.moved, found.unplaced) == (3, {})


def test_what_would_have_no_place_is_counted_with_its_reason() -> None:
    of = wish(replicas=6)
    before = two(of, 2, 1)
    found = plan(before, PlanRequest(what="drain", cluster="c-a"), LATER)
    assert [(change.cluster, change.after, change.why) for change in found.changes] == [
        ("a", 0, "a is drained"),
        ("b", 4, "room for 1 more only"),
    ]
    assert (found.moved, found.unplaced) == (1, {"shop/web": 2})
    assert found.reasons == ("shop/web: a: draining; b: no room for more",)
    assert before.clusters["c-a"].scheduling == "active"


def test_a_cluster_that_would_be_added_takes_what_has_no_place() -> None:
    of = wish(replicas=10, cpus=1.5, memory_bytes=GIB)
    before = two(of, 0, 0)
    found = plan(before, PlanRequest(what="add", nodes=2, cpus=4.0), LATER)
    assert [(change.cluster, change.before, change.after) for change in found.changes] == [("new", 0, 4)]
    small = PlanRequest(what="add", cluster="c", nodes=2, cpus=4.0, memory_bytes=GIB + 1)
    found = plan(before, small, LATER)
    assert [(change.cluster, change.after) for change in found.changes] == [("c", 2)]
    assert found.unplaced == {"shop/web": 2}


def test_only_policies_that_rebalance_move_to_a_cluster_that_would_be_added() -> None:
    request = PlanRequest(what="add", nodes=100, cpus=64.0, labels={"region": "west"})
    settled = wish(replicas=6)
    assert plan(two(settled, 9, 9), request, LATER).changes == ()
    restless = wish(replicas=6, divide="weighted", rebalance=Rebalance())
    found = plan(two(restless, 9, 9), request, LATER)
    assert {change.cluster: change.after for change in found.changes} == {"a": 2, "b": 2, "new": 2}
    elsewhere = wish(replicas=6, divide="weighted", rebalance=Rebalance(), where=where("region!=west"))
    assert plan(two(elsewhere, 9, 9), request, LATER).changes == ()


def test_the_first_cluster_that_would_join_takes_what_has_no_place_here() -> None:
    of = wish(replicas=5, cpus=2.0)
    running = [replica(of, slot, node_id="n-a") for slot in range(2)]
    alone = snapshot(of, member("a"), *running)
    found = plan(alone, PlanRequest(what="add", nodes=9, cpus=8.0), LATER)
    assert found.moved == 3
    assert {change.cluster: change.after for change in found.changes}["new"] == 3
    assert HERE_ID not in alone.clusters


def test_what_is_lent_here_counts_before_the_first_cluster_joins() -> None:
    """Six replicas of one processor: the virtual machine has room for four, its server for as many as it says."""
    alone = snapshot(wish(replicas=6, cpus=1.0, memory_bytes=GIB), server(), vm("a"), node("a"))
    request = PlanRequest(what="add", nodes=1, cpus=1.0)

    def here(**said: float) -> int:
        found = plan(alone, request, LATER, servers=heard(**said))  # type: ignore[arg-type]
        return 6 - 1 - found.unplaced["shop/web"]

    assert here() == 4
    assert here(offer_cpus=2.5) == 2
    assert here(primary_cpus=5.0) == 1  # 65 % of ten processors
    assert here(age_seconds=9.0) == 0


def test_a_dry_run_names_clusters() -> None:
    of = wish(replicas=6)
    free = RoomSummary(nodes=2, cpus=8.0, free_cpus=2.5, memory_bytes=GIB, free_memory_bytes=GIB)
    rooms = [room("a", (of, 2), summary=free, orders={of.id: 1}), room("b", (of, 9), orders={of.id: 1})]
    now = snapshot(cluster("a"), cluster("b"), *rooms, *stored(of, a=3, b=3))  # type: ignore[arg-type]
    new = wish("new", 3, cpus=1.0).spec
    narrow = with_spec(of, clusters=ClusterPolicy(where=where("name=b"))).spec
    found = foretell_shares(now, "shop", [("web", narrow), ("new", new)], NOW)
    assert found["web"].placements == {"b": 6}
    assert (found["new"].placements, found["new"].unplaced) == ({"a": 2}, 1)
    assert found["new"].reasons
