"""How many replicas there are, which go, and that a replacement serves before the old one leaves."""

import msgspec
import pytest
from records import NOW, applied, deployment, ids, member, puts, replica, snapshot, template

from fallow.decide.deployments import CHANGES_AT_ONCE, FORGOTTEN_AT_ONCE, reconcile
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.events import Event
from fallow.model.members import MemberState, Scheduling
from fallow.model.meta import Reason

A, B = member("a"), member("b")


def run(before: Snapshot) -> list[Replica]:
    return puts(reconcile(before, NOW + 1, ids()), Replica)


def by_state(replicas: list[Replica]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in replicas:
        found.setdefault(item.state, []).append(item.id)
    return found


def test_missing_replicas_are_created_in_the_lowest_free_slots() -> None:
    web = deployment(replicas=4)
    new = run(snapshot(A, web, template(web), replica(web, 1), replica(web, 3)))
    assert [(found.slot, found.state) for found in new] == [(0, "pending"), (2, "pending")]
    assert all(found.template_id == "d-web.1" for found in new)


def test_what_is_as_wanted_is_left_alone() -> None:
    web = deployment(replicas=2)
    assert run(snapshot(A, web, template(web), replica(web, 0), replica(web, 1))) == []


def test_scaling_down_takes_the_replicas_that_matter_least() -> None:
    web = deployment(replicas=1)
    waiting = replica(web, 0, ReplicaState.PENDING)
    unwell = replica(web, 1, healthy_since=0.0)
    well = replica(web, 2)
    assert by_state(run(snapshot(A, web, waiting, unwell, well))) == {"stopped": ["web-0"], "leaving": ["web-1"]}


def test_scaling_down_evens_out_nodes() -> None:
    web = deployment(replicas=2)
    replicas = [replica(web, slot, node_id="n-a" if slot < 3 else "n-b") for slot in range(4)]
    gone = by_state(run(snapshot(A, B, web, *replicas)))["leaving"]
    left = [found for found in replicas if found.id not in gone]
    assert sorted(found.node_id for found in left) == ["n-a", "n-b"]


def test_what_serves_is_kept_though_it_be_more_than_this_cluster_should_run() -> None:
    web = deployment(replicas=5, share=1, keep=2)
    serving = [replica(web, slot) for slot in range(3)]
    idle = [replica(web, 3, ReplicaState.PLACED), replica(web, 4, healthy_since=0.0)]
    gone = by_state(run(snapshot(A, web, *serving, *idle)))["leaving"]
    assert len(gone) == 3
    assert {"web-3", "web-4"} < set(gone)
    assert run(snapshot(A, web, *serving[:2])) == []


def test_a_slot_whose_replica_is_leaving_is_not_given_away() -> None:
    web = deployment(replicas=1)
    (new,) = run(snapshot(A, web, replica(web, 0, ReplicaState.LEAVING)))
    assert new.slot == 1


def test_a_dead_or_removed_node_loses_its_replicas_and_they_are_made_anew() -> None:
    web = deployment(replicas=2)
    dead = member("a", state=MemberState.DEAD)
    before = snapshot(dead, web, replica(web, 0), replica(web, 1, node_id="n-gone"))
    plan = reconcile(before, NOW, ids())
    assert by_state(puts(plan, Replica)) == {"lost": ["web-0", "web-1"]}
    assert len(by_state(run(applied(before, plan)))["pending"]) == 2


def test_a_suspect_node_keeps_its_replicas() -> None:
    web = deployment(replicas=1)
    assert run(snapshot(member("a", state=MemberState.SUSPECT), web, replica(web, 0))) == []


def test_draining_makes_the_replacement_before_the_old_one_leaves() -> None:
    web = deployment(replicas=1)
    draining = member("a", scheduling=Scheduling.DRAINING)
    old = replica(web, 0)
    (new,) = run(snapshot(draining, B, web, old))
    assert (new.slot, new.replaces, new.state) == (0, old.id, "pending")
    started = msgspec.structs.replace(new, state=ReplicaState.RUNNING, node_id="n-b")
    assert run(snapshot(draining, B, web, old, started)) == []
    ready = msgspec.structs.replace(started, healthy_since=NOW)
    assert by_state(run(snapshot(draining, B, web, old, ready))) == {"leaving": [old.id]}


def test_a_replacement_is_known_by_what_it_replaces_not_by_its_age() -> None:
    web = deployment(replicas=1)
    draining = member("a", scheduling=Scheduling.DRAINING)
    old = replica(web, 0)
    new = replica(web, 0, id="web-0-new", replaces=old.id, node_id="n-b", created_at=NOW - 3600)
    assert by_state(run(snapshot(draining, B, web, old, new))) == {"leaving": [old.id]}


def test_uncordoning_in_time_calls_the_replacement_off() -> None:
    web = deployment(replicas=1)
    old = replica(web, 0)
    new = replica(web, 0, ReplicaState.PENDING, id="web-0-new", replaces=old.id)
    assert by_state(run(snapshot(A, B, web, old, new))) == {"stopped": ["web-0-new"]}


MOVE = Reason(code="ServerNeeds", text="server srv1 needs it back")


def test_what_has_to_move_waits_for_its_replacement_until_its_time_is_up() -> None:
    web = deployment(replicas=1, good_generation=1)
    old = replica(web, 0, move=MOVE, move_by=NOW + 30)
    (new,) = run(snapshot(A, B, web, old))
    assert (new.slot, new.replaces, new.state) == (0, old.id, "pending")
    assert run(snapshot(A, B, web, old, new)) == []
    assert reconcile(snapshot(A, B, web, old, new), NOW + 1, ids()).wake_after_seconds == pytest.approx(29.02)
    ready = msgspec.structs.replace(new, state=ReplicaState.RUNNING, node_id="n-b", healthy_since=NOW)
    assert by_state(run(snapshot(A, B, web, old, ready))) == {"leaving": [old.id]}


def test_what_goes_before_another_serves_is_told_with_the_reason_why_none_does() -> None:
    web = deployment(replicas=1)
    old = replica(web, 0, move=MOVE, move_by=NOW)
    new = replica(web, 0, ReplicaState.PENDING, id="web-0-new", replaces=old.id, reason=Reason(code="", text="no room"))
    for others, why in [((new,), "no room"), ((), "no replacement is healthy yet")]:
        plan = reconcile(snapshot(A, B, web, old, *others), NOW + 1, ids())
        (left,) = puts(plan, Replica)
        assert (left.id, left.state, left.reason) == (old.id, "leaving", MOVE)
        warned = [found for found in puts(plan, Event) if found.level == "warning"]
        assert [found.message for found in warned] == [
            f"web-0 of shop/web must stop before a replacement serves: server srv1 needs it back; {why}"
        ]
    ready = msgspec.structs.replace(new, state=ReplicaState.RUNNING, node_id="n-b", healthy_since=NOW, reason=None)
    plan = reconcile(snapshot(A, B, web, old, ready), NOW + 1, ids())
    assert [found.level for found in puts(plan, Event)] == ["info"]


def test_scaling_down_takes_what_has_to_move_anyway() -> None:
    web = deployment(replicas=1)
    moving = replica(web, 0, move=MOVE, move_by=NOW + 30, node_id="n-b")
    assert by_state(run(snapshot(A, B, web, moving, replica(web, 1)))) == {"leaving": ["web-0"]}


def test_a_new_generation_renews_a_quarter_at_a_time() -> None:
    web = deployment(replicas=8, generation=2)
    old = [replica(web, slot, generation=1, template_id="d-web.1") for slot in range(8)]
    new = run(snapshot(A, B, web, template(web), *old))
    assert [(found.slot, found.generation) for found in new] == [(0, 2), (1, 2)]
    assert run(snapshot(A, B, web, template(web), *old, *new)) == []


def test_a_pending_replica_of_an_old_generation_is_dropped_at_once() -> None:
    web = deployment(replicas=1, generation=2)
    old = replica(web, 0, ReplicaState.PENDING, generation=1)
    assert by_state(run(snapshot(A, web, old))) == {"stopped": ["web-0"]}


def test_a_replica_that_failed_for_good_is_not_made_again_until_the_generation_changes() -> None:
    web = deployment(replicas=2)
    failed = replica(web, 0, ReplicaState.FAILED)
    assert run(snapshot(A, web, failed, replica(web, 1))) == []
    newer = deployment(replicas=2, generation=2)
    assert len(run(snapshot(A, newer, failed, replica(newer, 1)))) == 1


def test_a_deleted_deployment_goes_once_its_replicas_are_gone() -> None:
    web = deployment(replicas=2, deleting=True)
    first = snapshot(A, web, template(web), replica(web, 0), replica(web, 1, ReplicaState.PENDING))
    assert by_state(run(first)) == {"leaving": ["web-0"], "stopped": ["web-1"]}
    waiting = snapshot(A, web, template(web), replica(web, 0, ReplicaState.STOPPING))
    assert reconcile(waiting, NOW, ids()).steps == []
    last = snapshot(A, web, template(web), replica(web, 0, ReplicaState.STOPPED))
    after = applied(last, reconcile(last, NOW, ids()))
    assert (after.deployments, after.templates, after.replicas) == ({}, {}, {})


def test_new_replicas_are_guarded_by_their_deployment() -> None:
    web = deployment(replicas=1)
    (step,) = reconcile(snapshot(A, web), NOW, ids()).steps
    assert [type(record) for record in step.guards] == [Deployment]


def test_a_huge_change_is_made_in_portions() -> None:
    few = deployment(replicas=2)
    many = [
        replica(
            few,
            slot,
            ReplicaState.RUNNING if slot % 2 else ReplicaState.PENDING,
            node_id=f"n-{slot % 100}" * (slot % 2),
        )
        for slot in range(20_000)
    ]
    gone = by_state(run(snapshot(*(member(str(n), id=f"n-{n}") for n in range(100)), few, *many)))
    assert list(gone) == ["stopped"], "what is not yet running goes first"
    assert len(gone["stopped"]) == CHANGES_AT_ONCE
    lots = deployment(replicas=100_000)
    assert len(run(snapshot(A, lots))) == CHANGES_AT_ONCE


def test_a_large_deployment_is_forgotten_in_portions_and_goes_with_the_last() -> None:
    web = deployment(replicas=1, deleting=True)
    stopped = [replica(web, slot, ReplicaState.STOPPED) for slot in range(2 * FORGOTTEN_AT_ONCE + 10)]
    before = snapshot(A, web, template(web), *stopped)
    sizes = []
    while before.deployments:
        steps = reconcile(before, NOW + 1, ids()).steps
        sizes.append([len(step.deletes) for step in steps])
        for step in steps:
            if web not in step.deletes:
                assert step.guards == (web,)
        before = applied(before, reconcile(before, NOW + 1, ids()))
    assert sizes == [[FORGOTTEN_AT_ONCE, FORGOTTEN_AT_ONCE], [12]]
    assert not before.replicas
    assert not before.templates


def test_a_deleted_deployment_is_not_forgotten_before_what_was_lost_just_now() -> None:
    web = deployment(replicas=1, deleting=True)
    before = snapshot(web, template(web), replica(web, 0, ReplicaState.STOPPING, node_id="n-gone"))
    once = applied(before, reconcile(before, NOW, ids()))
    assert [found.state for found in once.replicas.values()] == [ReplicaState.LOST]
    assert list(once.deployments) == [web.id]
    twice = applied(once, reconcile(once, NOW, ids()))
    assert not (twice.deployments or twice.replicas or twice.templates)
