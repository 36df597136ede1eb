"""Removing members, and purging those that have been dead for long."""

import pytest
from records import NOW, applied, ids, member, snapshot
from server_records import server, vm

from fallow.decide.removal import Cause, Patience, purge, removal
from fallow.model.events import Event
from fallow.model.members import MemberState, Revocation, Role

DAY, HOUR = 86400.0, 3600.0
LONG = Patience(purge_after_seconds=DAY, calm_since=0.0)


def dead(name: str = "a", since: float = NOW, **changes):
    return member(name, state=MemberState.DEAD, state_since=since, **changes)


def events(plan):
    return [found for step in plan.steps for found in step.puts if isinstance(found, Event)]


def test_a_removal_revokes_the_key_in_the_same_step():
    gone = member("a", key_sha256="ab" * 32)
    step = removal(
        snapshot(gone), gone, NOW, Cause(actor="api:ops", reason="MemberRemoved", because="by an operator"), ids()
    )
    (revoked,) = [found for found in step.puts if isinstance(found, Revocation)]
    assert step.deletes == (gone,)
    assert (revoked.id, revoked.member_id, revoked.keep_containers) == ("ab" * 32, "n-a", False)
    assert "removed by an operator" in revoked.reason
    assert "join with a new token" in revoked.reason


def test_the_dead_are_warned_of_an_hour_before_and_purged_then():
    now = snapshot(dead(), member("b"))
    assert not purge(now, NOW + DAY - HOUR - 1, LONG, ids()).steps
    plan = purge(now, NOW + DAY - HOUR, LONG, ids())
    assert [found.reason for found in events(plan)] == ["NodePurgeDue"]
    warned = applied(now, plan)
    assert warned.members["n-a"].purge_at == NOW + DAY
    assert not purge(warned, NOW + DAY - 1, LONG, ids()).steps
    plan = purge(warned, NOW + DAY, LONG, ids())
    assert [found.reason for found in events(plan)] == ["NodePurged"]
    assert plan.steps[0].deletes == (warned.members["n-a"],)
    assert "dead for 1d" in events(plan)[0].message


def test_gateways_go_too_and_those_that_never_came():
    found = snapshot(
        dead("g", role=Role.GATEWAY, purge_at=NOW + 1),
        member("j", state=MemberState.JOINING, state_since=NOW, purge_at=NOW + 1),
    )
    assert [each.reason for each in events(purge(found, NOW + 2 * DAY, LONG, ids()))] == ["GatewayPurged", "NodePurged"]


def test_a_node_in_a_vm_goes_when_that_does():
    found = snapshot(dead(purge_at=NOW + 1), dead("b", purge_at=NOW + 1), vm(node_id="n-a"))
    assert [each.subject for each in events(purge(found, NOW + 2 * DAY, LONG, ids()))] == ["b"]


@pytest.mark.parametrize("state", list(MemberState))
def test_a_dead_server_stays_while_one_of_its_vms_lives(state):
    gone = server(state=MemberState.DEAD, state_since=NOW, purge_at=NOW + 1)
    found = snapshot(gone, vm("b"), vm(node_id="n-a"), member("a", state=state, state_since=NOW + 2 * DAY))
    stays = state in {MemberState.READY, MemberState.SUSPECT}
    assert [each.subject for each in events(purge(found, NOW + 2 * DAY, LONG, ids()))] == ([] if stays else ["srv"])


def test_a_warning_stands_for_its_whole_time_even_when_the_clock_jumps():
    now = snapshot(dead())
    plan = purge(now, NOW + 30 * DAY, LONG, ids())
    warned = applied(now, plan)
    assert warned.members["n-a"].purge_at == NOW + 30 * DAY + HOUR
    assert not purge(warned, NOW + 30 * DAY + HOUR - 1, LONG, ids()).steps


@pytest.mark.parametrize(
    "patience",
    [
        Patience(purge_after_seconds=0.0, calm_since=0.0),
        Patience(purge_after_seconds=DAY, calm_since=NOW + 2 * DAY - HOUR + 1),
    ],
    ids=["never", "an outage of our own, an hour ago"],
)
def test_nobody_is_purged(patience):
    found = snapshot(dead(purge_at=NOW + DAY), dead("b"))
    assert not purge(found, NOW + 2 * DAY, patience, ids()).steps


def test_the_living_and_the_fenced_stay():
    found = snapshot(
        member("a", state_since=0.0),
        member("s", state=MemberState.SUSPECT, state_since=0.0),
        dead("f", since=0.0, fence="two machines", purge_at=1.0),
    )
    assert not purge(found, NOW + 2 * DAY, LONG, ids()).steps


def test_a_cluster_is_never_purged() -> None:
    dead = snapshot(member("a", role=Role.CLUSTER, state=MemberState.DEAD, state_since=NOW))
    assert not purge(dead, NOW + 300 * DAY, LONG, ids()).steps
