"""Clusters that do not place what they said they had room for: they get no more for a while, and others do."""

import msgspec

from fallow.decide.federation.migrate import obeyed
from fallow.model.members import Member, MemberState
from fallow.model.shares import Share

SHORT_SECONDS = 15.0  # so long a cluster may have fewer placed than it was told
HELD_SECONDS = 300.0  # so long it then gets no more than it has placed
BEGINNING_SECONDS = 3.0  # of these nothing is noted: most clusters place what they are told at once

_RENEWING = ("updating", "rolling-back", "paused")  # old ones may have stopped before new ones are placed


def short(share: Share, cluster: Member) -> bool:
    """Say whether a cluster has not placed all it was told, though it knows of it and nothing is being renewed."""
    told = share.reported
    return (
        told is not None
        and cluster.state is MemberState.READY
        and obeyed(share)
        and told.placed < share.replicas
        and told.state not in _RENEWING
    )


def is_held(share: Share, now: float) -> bool:
    """Say whether a cluster gets no more than it has placed; a clock that was set back makes that no longer."""
    return 0.0 < share.held_until - now <= HELD_SECONDS


def timed(share: Share, cluster: Member, now: float) -> tuple[Share, float | None]:
    """Return the share with what is noted of its being short, and in how many seconds to look again."""
    if not short(share, cluster):
        return (msgspec.structs.replace(share, short_since=0.0) if share.short_since else share), None
    if is_held(share, now):
        return share, share.held_until - now
    if not share.short_since or share.short_since > now:
        begins = share.since + BEGINNING_SECONDS
        if share.since <= now < begins:
            return share, begins - now
        return msgspec.structs.replace(share, short_since=now), SHORT_SECONDS
    if now - share.short_since < SHORT_SECONDS:
        return share, share.short_since + SHORT_SECONDS - now
    return msgspec.structs.replace(share, short_since=0.0, held_until=now + HELD_SECONDS), HELD_SECONDS
