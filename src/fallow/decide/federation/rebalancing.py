"""Moving towards what a policy would make of the clusters afresh: only where it is asked for, late and a few at a time.

What must move, moves without this. Here nothing is wrong where it is: a cluster has joined, grown or come back, and a
policy that says `rebalance` wants its part there, once it has wanted that for a while.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fallow.decide.federation.division import Target
from fallow.model.clusters import Rebalance
from fallow.model.divisions import Division

CAUSE = "rebalanced, as the policy asks"


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where a deployment goes: its target, since when it is off what the policy would make of it afresh, and how.

    `step`: the target was moved towards that. `wait`: seconds until it may be.
    """

    target: Target
    off_since: float = 0.0
    off_shares: Mapping[str, int]
    step: bool = False
    wait: float | None = None


def course(
    known: Division | None, target: Target, ideal: Target | None, policy: Rebalance | None, now: float
) -> Course:
    """Return where a deployment goes, whose policy would make `ideal` of it afresh.

    A step is taken only when the one before has ended, and while nothing else is to be moved.
    """
    unchanged = known is not None and known.shares == target.shares and known.policy == target.fingerprint
    if policy is None or ideal is None or known is None or not unchanged or ideal.unplaced > target.unplaced:
        return Course(target=target, off_shares={})
    if ideal.shares == target.shares:
        return Course(target=target, off_shares={})
    most = policy.at_once or max(1, known.total * policy.percent // 100)
    shares = towards(target.shares, ideal.shares, most)
    if shares == target.shares or not _fits(target, shares):
        return Course(target=target, off_shares={})
    begun = 0.0 < known.off_since <= now  # not by a clock that was set back since
    if not begun or not alike(target.shares, known.off_shares, ideal.shares):
        return Course(target=target, off_since=now, off_shares=ideal.shares, wait=policy.after_seconds)
    wait = known.off_since + policy.after_seconds - now
    if wait > 0 or known.moving_since:
        waiting = max(wait, 0.0) or None
        return Course(target=target, off_since=known.off_since, off_shares=known.off_shares, wait=waiting)
    moved = replace(target, shares=shares, rules=ideal.rules)
    return Course(target=moved, off_since=known.off_since, off_shares=ideal.shares, step=True)


def _fits(target: Target, shares: Mapping[str, int]) -> bool:
    """Say whether there is room for a step beside all that others are to have, who may stand elsewhere in the ideal."""
    return target.more is None or all(
        count - target.shares.get(id_, 0) <= target.more.get(id_, 0)
        for id_, count in shares.items()
        if count > target.shares.get(id_, 0)
    )


def standing(known: Division | None, target: Target) -> Course:
    """Return the course that leads nowhere but to the target, and forgets nothing of how long it is off."""
    if known is None or known.shares != target.shares or known.policy != target.fingerprint:
        return Course(target=target, off_shares={})
    return Course(target=target, off_since=known.off_since, off_shares=known.off_shares)


def alike(shares: Mapping[str, int], before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Say whether two divisions want to move `shares` the same way: no cluster gains by one and loses by the other."""
    clusters = {*shares, *before, *after}
    gains = [(before.get(id_, 0) - shares.get(id_, 0)) * (after.get(id_, 0) - shares.get(id_, 0)) for id_ in clusters]
    return all(product >= 0 for product in gains)


def towards(shares: Mapping[str, int], ideal: Mapping[str, int], most: int) -> dict[str, int]:
    """Return shares with at most so many replicas moved from who has the most too many to who lacks the most."""
    found = dict(shares)
    gaps = {id_: ideal.get(id_, 0) - shares.get(id_, 0) for id_ in sorted({*shares, *ideal})}
    for _ in range(most):
        gainer, loser = max(gaps, key=lambda id_: gaps[id_]), min(gaps, key=lambda id_: gaps[id_])
        if gaps[gainer] <= 0 or gaps[loser] >= 0:
            break
        for id_, step in ((gainer, 1), (loser, -1)):
            found[id_] = found.get(id_, 0) + step
            gaps[id_] -= step
    return {id_: count for id_, count in found.items() if count}
