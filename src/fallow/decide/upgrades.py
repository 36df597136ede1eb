"""Upgrades of agents in waves: who is next, who has failed, and when it is over."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import AgentWish, Member, MemberState
from fallow.model.units import format_duration
from fallow.model.upgrades import Upgrade, UpgradeState, UpgradeView

SECONDS_EACH = 600.0  # a member that is not the new version by then has failed
AT_ONCE = 100  # whatever share is allowed: every one of them is sent a package


def allowance(share: str, members: int) -> int:
    """Return how many of `members` may be away at once, at least 1; `share` is a number or like `10%`."""
    wanted = members * int(share[:-1]) // 100 if share.endswith("%") else int(share)
    return max(1, min(wanted, members))


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The members of one upgrade, by what became of them; who was removed is in none."""

    waiting: list[Member]
    upgrading: list[Member]
    done: list[Member]
    failed: list[Member]


def progress(snapshot: Snapshot, upgrade: Upgrade) -> Progress:
    """Return how far an upgrade has come, each list by name."""
    found = Progress(waiting=[], upgrading=[], done=[], failed=[])
    members = [snapshot.members[id_] for id_ in upgrade.members if id_ in snapshot.members]
    for member in sorted(members, key=lambda each: each.name):
        wish = member.agent
        asked = wish is not None and wish.upgrade_id == upgrade.id
        if asked and wish is not None and wish.failed:
            found.failed.append(member)
        elif member.agent_version == upgrade.version and (member.state is MemberState.READY or not asked):
            found.done.append(member)
        else:
            (found.upgrading if asked else found.waiting).append(member)
    return found


def advance(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Plan:
    """Return the next wave of every upgrade that runs, and the ends of those that are over."""
    steps: list[Step] = []
    for upgrade in snapshot.upgrades.values():
        if upgrade.state is UpgradeState.RUNNING:
            steps.extend(_advanced(upgrade, progress(snapshot, upgrade), now, new_id))
    return Plan(steps=steps)


def _advanced(upgrade: Upgrade, found: Progress, now: float, new_id: Callable[[], str]) -> Iterable[Step]:
    for member in found.upgrading:
        if member.agent is not None and now - member.agent.since > SECONDS_EACH:
            yield gave_up(member, upgrade.id, f"it was not there within {format_duration(SECONDS_EACH)}", now, new_id)
    if len(found.failed) >= upgrade.max_unavailable:
        names = ", ".join(f"{each.name}: {each.agent.failed}" for each in found.failed[:3] if each.agent is not None)
        reason = f"{len(found.failed)} members failed, as many as may be away at once: {names}"
        yield ended(upgrade, UpgradeState.STOPPED, reason, now, new_id)
        return
    if not found.waiting and not found.upgrading:
        told = f"{len(found.done)} members run {upgrade.version}"
        yield ended(
            upgrade,
            UpgradeState.COMPLETED,
            told + (f", {len(found.failed)} failed" if found.failed else ""),
            now,
            new_id,
        )
        return
    # The dead are away for reasons of their own, and are replaced; they get their turn when they are back.
    unwell = sum(member.state is MemberState.SUSPECT for member in found.waiting)
    room = min(upgrade.max_unavailable, AT_ONCE) - len(found.upgrading) - unwell
    ready = [member for member in found.waiting if member.state is MemberState.READY]
    for member in ready[: max(0, room)]:
        wish = AgentWish(upgrade_id=upgrade.id, version=upgrade.version, sha256=upgrade.sha256, since=now)
        yield Step(puts=(msgspec.structs.replace(member, agent=wish, updated_at=now),), guards=(upgrade,))


def gave_up(member: Member, upgrade_id: str, error: str, now: float, new_id: Callable[[], str]) -> Step:
    """Return the step that writes down why a member's agent did not become what it should; empty when not asked to."""
    wish = member.agent
    if wish is None or wish.upgrade_id != upgrade_id or wish.failed:
        return Step()
    changed = msgspec.structs.replace(member, agent=msgspec.structs.replace(wish, failed=error), updated_at=now)
    told = event(
        new_id(), now, "loop:upgrades", "member", member.id, member.name, "AgentUpgradeFailed",
        f"the agent of {member.name} stays {member.agent_version or 'as it was'}, not {wish.version}: {error}",
        "warning",
    )  # fmt: skip
    return Step(puts=(changed, told))


def ended(upgrade: Upgrade, state: UpgradeState, reason: str, now: float, new_id: Callable[[], str]) -> Step:
    """Return the step that ends an upgrade."""
    level = "warning" if state is UpgradeState.STOPPED else "info"
    told = event(
        new_id(), now, "loop:upgrades", "upgrade", upgrade.id, upgrade.id, f"AgentUpgrade{state.title()}",
        f"upgrade {upgrade.id} of {len(upgrade.members)} agents to {upgrade.version} is {state}: {reason}",
        "warning" if level == "warning" else "info",
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(upgrade, state=state, reason=reason, updated_at=now), told))


def upgrade_view(snapshot: Snapshot, upgrade: Upgrade) -> UpgradeView:
    """Return an upgrade with its members by name."""
    found = progress(snapshot, upgrade)
    return UpgradeView(
        id=upgrade.id,
        version=upgrade.version,
        state=upgrade.state,
        reason=upgrade.reason,
        created_at=upgrade.created_at,
        created_by=upgrade.created_by,
        max_unavailable=upgrade.max_unavailable,
        waiting=tuple(each.name for each in found.waiting),
        upgrading=tuple(each.name for each in found.upgrading),
        done=tuple(each.name for each in found.done),
        failed={each.name: each.agent.failed for each in found.failed if each.agent is not None},
    )
