"""Moments to wait for that lie farther ahead than was ever meant: the clock was set back after they were stored.

No wait is longer than the policy's own, so that a moment beyond it is put where it would be had the wait begun now. So
a clock that is set back by an hour makes a back-off or a move begin anew, at most, and never last for that hour. A
policy that is made shorter counts at once in the same way.
"""

from collections.abc import Iterable, Iterator

import msgspec

from fallow.decide.placement.standing import CLOCKS_APART_SECONDS
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import Lending

MOVABLE = (ReplicaState.PLACED, ReplicaState.RUNNING)


def lending_redated(lending: Lending | None, policy: LendingPolicy, now: float) -> Lending | None:
    """Return what was decided about a server with its back-off dated anew; None: there is nothing to change."""
    if lending is None or not _beyond(lending.backoff_until, policy.backoff_seconds, now):
        return None
    return msgspec.structs.replace(lending, backoff_until=now + policy.backoff_seconds, updated_at=now)


def moves_redated(replicas: Iterable[Replica], policy: LendingPolicy, now: float) -> Iterator[Replica]:
    """Yield those of a server's replicas that would wait too long for their replacements, dated anew.

    What leaves already waits for nothing.
    """
    for found in replicas:
        if found.state in MOVABLE and _beyond(found.move_by, policy.move_seconds, now):
            yield msgspec.structs.replace(found, move_by=now + policy.move_seconds, updated_at=now)


def _beyond(moment: float, seconds: float, now: float) -> bool:
    """Say whether a moment is farther off than a wait that begins now could make it."""
    return moment > now + seconds + CLOCKS_APART_SECONDS
