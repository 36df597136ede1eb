"""Upgrades of agents in waves: never more away than allowed, stopped when too many fail."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import NOW, applied, ids, member, puts, snapshot

from fallow.decide.upgrades import SECONDS_EACH, advance, allowance, gave_up, progress, upgrade_view
from fallow.model.members import AgentRun, Member, MemberState
from fallow.model.upgrades import Upgrade, UpgradeState


def upgrade(count: int, **changes) -> Upgrade:
    values = {
        "id": "u1", "created_at": NOW, "updated_at": NOW, "revision": 1, "version": "2", "sha256": "ab",
        "members": tuple(f"n-{number}" for number in range(count)), "max_unavailable": 2,
    }  # fmt: skip
    return Upgrade(**(values | changes))


def fleet(count: int, **changes) -> list[Member]:
    return [
        member(str(number), runs=(AgentRun(instance="i", agent_version="1"),), **changes) for number in range(count)
    ]


def renewed(found: Member) -> Member:
    return msgspec.structs.replace(found, runs=(AgentRun(instance="j", agent_version="2"),))


def replaced(before, *members: Member):
    rest = [found for found in before.members.values() if found.id not in {each.id for each in members}]
    return snapshot(*rest, *members, *before.upgrades.values())


def after(before, plan):
    """Return the snapshot after a plan; upgrades are carried over too."""
    changed = applied(before, plan)
    kept = {found.id: found for found in before.upgrades.values()} | {found.id: found for found in puts(plan, Upgrade)}
    return snapshot(*changed.members.values(), *kept.values())


@pytest.mark.parametrize(
    ("share", "members", "allowed"),
    [("10%", 100, 10), ("10%", 5, 1), ("25%", 10, 2), ("100%", 7, 7), ("3", 10, 3), ("30", 10, 10), ("1", 1, 1)],
)
def test_a_share_is_rounded_down_but_one_may_always_be_away(share, members, allowed):
    assert allowance(share, members) == allowed


def test_the_next_begin_when_those_before_are_ready_again():
    now = snapshot(*fleet(4), upgrade(4))
    now = after(now, advance(now, NOW, ids()))
    assert [each.name for each in progress(now, upgrade(4)).upgrading] == ["0", "1"]
    assert not advance(now, NOW, ids()).steps
    now = replaced(now, renewed(now.members["n-0"]))
    now = after(now, advance(now, NOW, ids()))
    assert [each.name for each in progress(now, upgrade(4)).upgrading] == ["1", "2"]
    suspect = msgspec.structs.replace(renewed(now.members["n-1"]), state=MemberState.SUSPECT)
    now = replaced(now, suspect, msgspec.structs.replace(now.members["n-3"], state=MemberState.SUSPECT))
    assert not advance(now, NOW, ids()).steps, "who is unwell counts"


def test_the_dead_wait_and_hold_nobody_up():
    dead = msgspec.structs.replace(fleet(1)[0], state=MemberState.DEAD)
    now = snapshot(dead, *fleet(3)[1:], upgrade(3, max_unavailable=1))
    now = after(now, advance(now, NOW, ids()))
    assert [each.name for each in progress(now, upgrade(3)).upgrading] == ["1"]


def test_it_ends_when_all_are_there():
    now = snapshot(*map(renewed, fleet(2)), upgrade(2))
    (ended,) = puts(advance(now, NOW, ids()), Upgrade)
    assert ended.state is UpgradeState.COMPLETED


def test_it_stops_when_as_many_failed_as_may_be_away():
    now = snapshot(*fleet(5), upgrade(5))
    now = after(now, advance(now, NOW, ids()))
    for name in "01":
        failed = puts_of(gave_up(now.members[f"n-{name}"], "u1", "no room", NOW, ids()))
        now = replaced(now, failed)
        plan = advance(now, NOW, ids())
        if name == "0":
            now = after(now, plan)  # one more may begin
    (stopped,) = puts(plan, Upgrade)
    assert stopped.state is UpgradeState.STOPPED
    assert "0: no room" in stopped.reason
    view = upgrade_view(after(now, plan), stopped)
    assert view.failed == {"0": "no room", "1": "no room"}
    assert view.waiting == ("3", "4")


def puts_of(step) -> Member:
    return next(found for found in step.puts if isinstance(found, Member))


def test_one_that_never_comes_back_has_failed():
    now = snapshot(*fleet(1), upgrade(1))
    now = after(now, advance(now, NOW, ids()))
    assert not advance(now, NOW + SECONDS_EACH, ids()).steps
    (failed,) = puts(advance(now, NOW + SECONDS_EACH + 1, ids()), Member)
    assert "not there within" in failed.agent.failed


def test_the_outcome_of_another_upgrade_is_not_taken_for_this_one():
    now = snapshot(*fleet(1), upgrade(1))
    now = after(now, advance(now, NOW, ids()))
    assert not gave_up(now.members["n-0"], "u0", "old news", NOW, ids()).puts
    assert not gave_up(fleet(1)[0], "u1", "never asked", NOW, ids()).puts


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["new", "fail", "die", "ready", "run"])), max_size=80),
)
def test_never_more_are_away_than_allowed(count: int, allowed: int, story: list[tuple[int, str]]) -> None:
    """Whatever becomes of members, those asked and not yet there are at most so many; it stops in time."""
    now = snapshot(*fleet(count), upgrade(count, max_unavailable=allowed))
    for number, what in [*story, (0, "run")]:
        found = now.members[f"n-{number % count}"]
        if what == "run":
            now = after(now, advance(now, NOW, ids()))
        elif what == "new" and found.agent is not None and not found.agent.failed:
            now = replaced(now, renewed(found))
        elif what == "fail" and found.agent_version != "2":
            step = gave_up(found, "u1", "broke", NOW, ids())
            now = replaced(now, puts_of(step)) if step.puts else now
        elif what == "die":
            now = replaced(now, msgspec.structs.replace(found, state=MemberState.DEAD))
        elif what == "ready":
            now = replaced(now, msgspec.structs.replace(found, state=MemberState.READY))
        seen = progress(now, now.upgrades["u1"])
        assert len(seen.failed) <= 2 * allowed
        asked = [each for each in seen.upgrading if each.agent_version != "2"]
        assert len(asked) <= allowed
