"""The host's loop: divisions, shares, what is told of them, and how a host begins and ends."""

from collections.abc import Collection
from dataclasses import replace

import msgspec
import pytest
from federation_world import Ledger, cluster, here, share
from records import NOW, deployment, ids

from fallow.decide.federation.division import Target
from fallow.decide.federation.fence import stopped_after
from fallow.decide.federation.reconcile import reconcile
from fallow.decide.federation.stuck import is_held
from fallow.decide.federation.views import stuck
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID, ClusterPolicy, Rebalance
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Origin, RouteSpec
from fallow.model.divisions import Division
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.rooms import Room
from fallow.model.shares import Share

EAST, WEST = cluster("east"), cluster("west")


def host(*records: object, replicas: int = 10, **changes: object) -> Ledger:
    values = {"replicas": replicas, "share": 0} | changes
    return Ledger(here(), EAST, WEST, deployment("web", **values), *records)  # type: ignore[arg-type]


def to(**shares: int) -> dict[str, Target]:
    found = {HERE_ID if name == "here" else f"c-{name}": count for name, count in shares.items()}
    return {"d-web": Target(shares=found, fingerprint="policy")}


def test_without_members_nothing_happens() -> None:
    ledger = Ledger(deployment("web", 3))
    assert not ledger.run({"d-web": Target(fingerprint="policy", shares={HERE_ID: 3})}).steps


def test_the_first_member_makes_a_host_and_what_runs_stays_here() -> None:
    ledger = Ledger(EAST, deployment("web", 3))
    ledger.run({})
    assert (Member, HERE_ID) in ledger.records
    ledger.run(to(here=3))
    assert (ledger.told(), ledger.deployment().share) == ({HERE_ID: 3}, 3)
    assert ledger.division().policy == "policy"
    assert ledger.settle(to(here=3)) == 0


def test_the_host_takes_another_name_than_here_when_somebody_has_it() -> None:
    ledger = Ledger(EAST, cluster("here", id="n-1"))
    ledger.run({})
    found = ledger.records[Member, HERE_ID]
    assert isinstance(found, Member)
    assert found.name.startswith("here-")


def test_the_last_member_that_goes_leaves_all_as_it_was() -> None:
    ledger = host(share(HERE_ID, 4, 4), share("c-east", 6, 6), share=4)
    ledger.write(Room(id="c-east", created_at=NOW, updated_at=NOW))
    for one in (EAST, WEST):
        del ledger.records[Member, one.id]
    assert ledger.settle({}) == 2
    assert ledger.deployment().share is None
    assert {type_ for type_, _ in ledger.records} == {Deployment}
    assert ledger.reasons() == ["ClusterDissolved"]


def test_a_new_deployment_is_divided_and_all_is_told_at_once() -> None:
    ledger = host()
    ledger.run(to(east=4, west=4, here=2))
    assert ledger.told() == {"c-east": 4, "c-west": 4, HERE_ID: 2}
    assert ledger.deployment().share == 2
    assert ledger.reasons() == ["Divided"]
    assert ledger.events[0].message == "shop/web: east 4, west 4, here 2: it is new"
    assert not ledger.run(to(east=4, west=4, here=2)).steps


def test_a_drain_raises_first_lowers_as_replacements_get_ready_and_ends_with_an_empty_cluster() -> None:
    ledger = host(share("c-east", 10, 10))
    ledger.settle(to(east=10))
    ledger.change(Member, "c-east", scheduling=Scheduling.DRAINING)
    target = to(west=10)
    ledger.settle(target)
    assert ledger.told() == {"c-east": 10, "c-west": 10}
    for ready in (1, 4, 9):
        ledger.says("c-west", ready)
        ledger.settle(target)
        assert ledger.told() == {"c-east": 10 - ready, "c-west": 10}
    ledger.says("c-west", 10)
    ledger.settle(target)
    assert ledger.told() == {"c-east": 0, "c-west": 10}
    ledger.says("c-east", 0, remaining=3)
    ledger.settle(target, NOW + 5)
    assert "c-east" in ledger.told()
    ledger.says("c-east", 0, remaining=0)
    ledger.settle(target, NOW + 8)
    assert ledger.told() == {"c-west": 10}
    assert ledger.reasons() == ["Divided", "Divided", "Moved", "ClusterDrained"]
    assert ledger.events[1].message == "shop/web: west 10 (was east 10): east is drained"
    assert ledger.events[2].message == "shop/web has moved: west 10; that took 0s"
    assert ledger.events[3].message == "east is empty: it can be shut down"


@pytest.mark.parametrize("order", ["noted before", "noted on the way"])
def test_a_drain_ends_nowhere_that_gateways_reach_nothing_and_says_so(order: str) -> None:
    spec = DeploymentSpec(
        replicas=4, container=ContainerSpec(image="shop:1"), routes=(RouteSpec(kind="http", host="w.test", port=80),)
    )
    ledger = host(share("c-east", 4, 4), replicas=4, spec=spec)
    ledger.settle(to(east=4))
    if order == "noted before":
        ledger.change(Member, "c-west", unreached_by=("gw1",))
    ledger.change(Member, "c-east", scheduling=Scheduling.DRAINING)
    ledger.settle(to(west=4))
    ledger.change(Member, "c-west", unreached_by=("gw1",))
    ledger.says("c-west", 4)
    ledger.settle(to(west=4))
    assert ledger.told() == {"c-east": 4, "c-west": 4}
    told = stuck(ledger.snapshot(), ledger.snapshot().shares_by_cluster["c-east"])
    assert told == ("shop/web: 4 wait for replacements: they are ready, but no gateway here reaches them",)
    ledger.change(Member, "c-west", unreached_by=())
    ledger.settle(to(west=4))
    assert ledger.told() == {"c-east": 0, "c-west": 4}


def test_what_fits_nowhere_stays_where_it_is_and_that_is_said_once() -> None:
    ledger = host(share("c-east", 10, 10))
    ledger.settle(to(east=10))
    ledger.change(Member, "c-east", scheduling=Scheduling.DRAINING)
    target = {
        "d-web": Target(fingerprint="policy", shares={"c-west": 4}, unplaced=6, unplaced_reason="west has room for 4")
    }
    ledger.settle(target)
    ledger.says("c-west", 4)
    ledger.settle(target)
    assert ledger.told() == {"c-east": 6, "c-west": 4}
    assert ledger.reasons().count("CannotMove") == 1
    assert "6 replicas of shop/web fit nowhere: west has room for 4" in ledger.events[-1].message
    assert not ledger.run(target).steps


def test_a_dead_cluster_is_replaced_at_once_and_its_share_stays_on_record() -> None:
    ledger = host(share("c-east", 5, 5), share("c-west", 5, 5))
    ledger.settle(to(east=5, west=5))
    ledger.dies("c-east")
    ledger.settle(to(west=10))
    assert ledger.told() == {"c-east": 5, "c-west": 10}
    ledger.says("c-west", 10, NOW + 3)
    ledger.change(Member, "c-east", state=MemberState.READY, state_since=NOW + 20)
    ledger.settle(to(west=10), NOW + 21)
    assert ledger.told() == {"c-east": 5, "c-west": 10}
    ledger.says("c-east", 5, NOW + 22)
    ledger.spoke("c-east")
    ledger.settle(to(west=10), NOW + 22)
    assert ledger.told() == {"c-east": 0, "c-west": 10}


def test_a_suspect_cluster_changes_nothing() -> None:
    ledger = host(share("c-east", 5, 5), share("c-west", 5, 5))
    ledger.settle(to(east=5, west=5))
    ledger.change(Member, "c-east", state=MemberState.SUSPECT)
    assert not ledger.run(to(east=5, west=5)).steps


def test_nothing_is_rebalanced_while_a_cluster_is_silent() -> None:
    spec = DeploymentSpec(
        replicas=10,
        container=ContainerSpec(image="shop:1"),
        clusters=ClusterPolicy(rebalance=Rebalance(after_seconds=0.0, at_once=1)),
    )
    ledger = host(share("c-east", 10, 10), share("c-west", 0), spec=spec)

    def divide(snapshot: Snapshot, now: float, anew: Collection[str]) -> dict[str, Target]:
        return to(east=5, west=5) if anew else to(east=10)

    def looks(now: float) -> None:
        ledger.commit(reconcile(ledger.snapshot(), now, ids(), divide))

    for state, told in ((MemberState.SUSPECT, {"c-east": 10}), (MemberState.READY, {"c-east": 9, "c-west": 1})):
        looks(NOW)
        ledger.change(Member, "c-west", state=state)
        for seconds in (1, 2):
            looks(NOW + seconds)
        assert ledger.division().shares == told


def test_a_member_that_does_not_place_what_it_was_told_gets_no_more() -> None:
    ledger = host(share("c-east", 10, 2))
    ledger.settle(to(east=10))
    ledger.says("c-east", 2, placed=2)
    plan = ledger.run(to(east=10))
    assert ledger.share("c-east").short_since == NOW
    assert plan.wake_after_seconds == 15
    ledger.run(to(east=10), NOW + 14)
    assert not ledger.share("c-east").held_until
    ledger.run(to(east=10), NOW + 15)
    assert ledger.share("c-east").held_until == NOW + 315
    assert not ledger.run(to(east=10), NOW + 16).steps


def test_a_clock_that_was_set_back_holds_nobody_for_longer() -> None:
    ledger = host(share("c-east", 10, 2, held_until=NOW + 3600, short_since=NOW + 3300, since=NOW + 3200))
    ledger.settle(to(east=10))
    ledger.says("c-east", 2, placed=2)
    assert not is_held(ledger.share("c-east"), NOW)
    ledger.run(to(east=10))
    ledger.run(to(east=10), NOW + 15)
    assert ledger.share("c-east").held_until == NOW + 315
    assert is_held(ledger.share("c-east"), NOW + 16)


def test_who_has_just_been_told_or_renews_its_replicas_is_not_short() -> None:
    ledger = host(share("c-east", 10, 2, since=NOW - 1))
    ledger.settle(to(east=10))
    ledger.says("c-east", 2, placed=2)
    assert ledger.run(to(east=10)).wake_after_seconds == 2
    ledger.says("c-east", 8, placed=8, state="updating")
    assert not ledger.run(to(east=10), NOW + 60).steps


def test_who_has_placed_all_after_all_is_not_short_any_more() -> None:
    ledger = host(share("c-east", 10, 10, short_since=NOW - 5))
    ledger.settle(to(east=10))
    assert ledger.share("c-east").short_since == 0


def test_a_deleted_deployment_is_taken_from_all_and_a_dead_cluster_is_not_waited_for() -> None:
    ledger = host(share("c-east", 5, 5), share("c-west", 5, 5), share(HERE_ID, 2, 2), share=2)
    ledger.dies("c-east")
    ledger.change(Deployment, "d-web", deleting=True)
    ledger.settle({})
    assert ledger.told() == {"c-east": 0, "c-west": 0}
    ledger.says("c-west", 0, remaining=0)
    ledger.settle({})
    assert ledger.told() == {"c-east": 0}
    del ledger.records[Deployment, "d-web"]
    ledger.settle({})
    assert (Division, "d-web") not in ledger.records
    ledger.change(Member, "c-east", state=MemberState.READY, state_since=NOW + 50)
    ledger.settle({}, NOW + 55)
    assert ledger.told() == {"c-east": 0}
    ledger.settle({}, NOW + 111)
    assert ledger.told() == {}


def test_records_of_a_removed_cluster_go() -> None:
    ledger = host(share("c-gone", 5, 5), Room(id="c-gone", created_at=NOW, updated_at=NOW))
    ledger.settle(to(east=10))
    assert ledger.told() == {"c-east": 10}
    assert (Room, "c-gone") not in ledger.records


def test_history_tells_what_changed_and_why() -> None:
    ledger = host()
    ledger.settle(to(east=10))
    ledger.change(Deployment, "d-web", spec=deployment("web", 12).spec)
    ledger.settle(to(east=12))
    ledger.change(Member, "c-east", state=MemberState.DEAD)
    ledger.settle(to(west=12))
    causes = [(past.total, past.shares, past.cause) for past in ledger.division().history]
    assert causes == [
        (10, {"east": 10}, "it is new"),
        (12, {"east": 12}, "scaled from 10 to 12"),
        (12, {"west": 12}, "east is dead"),
    ]


def test_a_step_that_lowers_holds_only_while_those_it_relies_on_are_as_they_were() -> None:
    ledger = host(share("c-east", 10, 10), share("c-west", 10, 10))
    before = ledger.snapshot()
    plan = reconcile(before, NOW, ledger.new_id, lambda *_: to(west=10))
    ledger.says("c-west", 3)
    assert ledger.commit(plan) == 0
    assert ledger.told()["c-east"] == 10


def test_a_share_of_a_host_is_left_alone() -> None:
    ledger = host(share=3, origin=Origin(revision=1, generation=1))
    assert not ledger.run(to(east=10)).steps


def test_what_should_run_here_is_put_right() -> None:
    ledger = host(share(HERE_ID, 4, 4), share=9)
    ledger.settle(to(here=4))
    assert ledger.deployment().share == 4


def test_shares_of_one_plan_are_bounded() -> None:
    many = [deployment(f"w{number}", 1, share=0) for number in range(2100)]
    ledger = Ledger(here(), EAST, *many)
    targets = {found.id: Target(fingerprint="policy", shares={"c-east": 1}) for found in many}
    plan = ledger.run(targets)
    assert (len(plan.steps), plan.wake_after_seconds) == (2000, 0.0)
    assert len(ledger.run(targets).steps) == 100


def test_share_records_are_named_by_deployment_and_cluster() -> None:
    ledger = host()
    ledger.settle(to(east=1))
    assert (Share, "d-web.c-east") in ledger.records


def test_a_division_names_the_clusters_it_empties_because_they_are_drained() -> None:
    ledger = host(share("c-east", 10, 10))
    ledger.settle(to(east=10))
    ledger.settle(to(west=10))
    assert ledger.division().drained == ()
    ledger.settle(to(east=10))
    ledger.change(Member, "c-east", scheduling=Scheduling.DRAINING)
    ledger.settle(to(west=9, east=1))
    assert ledger.division().drained == ("c-east",)
    ledger.change(Member, "c-east", scheduling=Scheduling.ACTIVE)
    ledger.settle(to(east=10))
    assert ledger.division().drained == ()
    assert ledger.division().history[-1].cause == "the drain of east was called off"


def test_who_waits_for_what_clusters_say_of_another_shape_is_looked_at_again_soon() -> None:
    ledger = host(share("c-east", 10, 10))
    ledger.settle(to(east=10))
    settled = to(east=10)
    assert (ledger.run(settled).wake_after_seconds or 60) > 1
    waiting = {id_: replace(target, waits=True) for id_, target in settled.items()}
    assert (ledger.run(waiting).wake_after_seconds or 60) < 1


def test_nobody_is_told_more_before_clusters_say_what_room_they_have_for_another_shape() -> None:
    ledger = host(share("c-east", 6, 6))
    ledger.settle(to(east=6))
    foreseen = to(east=6, west=4)  # as for a smaller shape: west may have no room for this one
    waiting = {id_: replace(target, waits=True) for id_, target in foreseen.items()}
    ledger.settle(waiting)
    assert ledger.told() == {"c-east": 6}
    ledger.settle(foreseen)
    assert ledger.told() == {"c-east": 6, "c-west": 4}


def test_what_a_dead_cluster_has_stopped_by_its_fence_it_is_not_told_again_when_it_is_back() -> None:
    spec = deployment("web", 1, share=0).spec
    fenced = msgspec.structs.replace(spec, clusters=ClusterPolicy(fence_seconds=60))
    ledger = host(share("c-east", 1, 1))
    ledger.change(Deployment, "d-web", spec=msgspec.structs.replace(fenced, replicas=1))
    ledger.settle(to(east=1))
    ledger.dies("c-east")
    ledger.settle(to(west=1), NOW + 60)
    assert ledger.told() == {"c-east": 1, "c-west": 1}
    ledger.settle(to(west=1), NOW + stopped_after(ledger.deployment()))
    assert ledger.told() == {"c-east": 0, "c-west": 1}
