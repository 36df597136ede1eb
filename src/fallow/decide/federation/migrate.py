"""How a deployment's shares follow its division: what each cluster is told to run next, so that nobody notices.

Replacements come before anything goes. A raise is told at once; a cluster is lowered only as far as enough replicas
stay ready that may be relied on, or by replicas that are not ready: those a cluster retires first. Where nothing takes
their place, nothing goes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.shares import Share

SILENT_SECONDS = 600.0  # a cluster that is back for so long, and says nothing of a share, has nothing else to say


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One cluster's side of a move.

    `sure`: ready replicas that may be relied on, never more than `told`. A silent cluster is neither raised nor
    lowered; one that is back, or new to this, is lowered once it has said what it runs. One that `leaves` goes first.
    """

    told: int
    target: int
    sure: int
    raisable: bool
    lowerable: bool
    leaves: bool = False


def next_told(sides: Mapping[str, Side], need: int) -> dict[str, int]:
    """Return what each cluster is to be told, by its id; `need` replicas stay ready, or as many as are now."""
    told = {id_: side.told for id_, side in sides.items()}
    for id_, side in sides.items():
        if side.raisable and side.target > side.told:
            told[id_] = side.target
    spare = max(0, sum(side.sure for side in sides.values()) - need)
    for id_ in sorted(sides, key=lambda id_: (not sides[id_].leaves, id_)):
        side = sides[id_]
        if not side.lowerable or side.target >= side.told:
            continue
        not_ready = side.told - side.sure
        fewer = min(side.told - side.target, not_ready + spare)
        spare -= max(0, fewer - not_ready)
        told[id_] = side.told - fewer
    return told


def side_of(share: Share | None, cluster: Member, target: int, now: float) -> Side:
    """Return a cluster's side as it is stored; without a share it is told nothing yet."""
    ready = cluster.state is MemberState.READY
    if share is None:
        return Side(told=0, target=target, sure=0, raisable=ready, lowerable=False)
    spoken = ready and has_spoken(share, cluster, now)
    return Side(
        told=share.replicas,
        target=target,
        sure=reliable(share) if spoken else 0,
        raisable=ready,
        lowerable=spoken,
        leaves=cluster.scheduling is Scheduling.DRAINING,
    )


def has_spoken(share: Share, cluster: Member, now: float) -> bool:
    """Say whether the cluster has said what it runs, and again since it was last dead, or has long had the time to."""
    if share.reported is None:
        return False
    return share.heard_at_revision > cluster.died_at_revision or now - cluster.state_since > SILENT_SECONDS


def obeyed(share: Share) -> bool:
    """Say whether the cluster has taken in the order for the number it is told."""
    return share.reported is not None and share.reported.revision >= share.order


def reliable(share: Share) -> int:
    """Return how many replicas are ready for sure, whichever of the orders under way the cluster has followed so far.

    What it said before it took in the newest order counts only up to the fewest it was told since. What it wants no
    more by its own word, going by older orders after a restore, is about to go.
    """
    told = share.reported
    if told is None:
        return 0
    return min(told.ready, told.replicas, share.replicas if obeyed(share) else share.least)


def retold(share: Share, replicas: int, revision: int) -> tuple[int, int]:
    """Return `order` and `least` of a share that is told another number by a decision made at a store's revision.

    Whatever is committed after that decision has a greater revision than it.
    """
    before = share.replicas if obeyed(share) else share.least
    return revision + 1, min(before, replicas)


def needed(total: int, floor: int | None, targets: Iterable[int]) -> int:
    """Return how many ready replicas moves have to leave: the total, in each cluster where it is duplicated."""
    return max(total, sum(targets)) if floor is None else min(floor, total)
