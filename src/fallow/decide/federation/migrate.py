"""How a deployment's shares follow its division: what each cluster is told to run next, so that nobody notices.

Replacements come before anything goes. A raise is told at once; a cluster is lowered only as far as enough replicas
stay ready that may be relied on, or by replicas that are not ready: those a cluster retires first. Where nothing takes
their place, nothing goes. What is not ready by a cluster's last word may be by now: as long as fewer are known to be
ready than should be, a cluster that is lowered is told to keep all that are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from fallow.decide.federation.words import Words
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.shares import Share


@dataclass(frozen=True, slots=True)
class Told:
    """What a cluster is told: to run so many replicas, and of more than that to `keep` so many that are ready."""

    replicas: int
    keep: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One cluster's side of a move. `told`: so many it may have, by what it is `asked` now and by what it says.

    `sure`: ready replicas that may be relied on, never more than `told`. A silent cluster is neither raised nor
    lowered; one that is back, or new to this, is lowered once it has said what it runs. One that `leaves` goes first.
    """

    told: int
    target: int
    sure: int
    raisable: bool
    lowerable: bool
    asked: Told
    leaves: bool = False


def next_told(sides: Mapping[str, Side], need: int) -> dict[str, Told]:
    """Return what each cluster is to be told, by its id; `need` replicas stay ready, or as many as are now."""
    told = {id_: side.asked for id_, side in sides.items()}
    spare = sum(side.sure for side in sides.values()) - need
    lowered = []
    for id_, side in sorted(sides.items(), key=lambda item: (not item[1].leaves, item[0])):
        if side.raisable and side.target > side.told:
            told[id_] = Told(side.target)
        elif side.lowerable and side.target < side.told:
            not_ready = side.told - side.sure
            fewer = min(side.told - side.target, not_ready + max(0, spare))
            spare -= max(0, fewer - not_ready)
            if fewer:
                told[id_] = _lowered(side, side.told - fewer)
                lowered.append(id_)
        elif side.raisable and side.lowerable and side.asked.replicas < side.target:
            told[id_] = Told(side.target)  # it has kept what it should have
    if spare < 0:  # more may be ready by now than is known: that may be the last that serves
        for id_ in lowered:
            told[id_] = Told(told[id_].replicas, max(sides[id_].told, sides[id_].asked.keep))
    return told


def _lowered(side: Side, most: int) -> Told:
    """Return what brings a cluster down to `most`; of what it has but kept, as many stay as are still ready."""
    replicas = min(most, side.asked.replicas)
    return Told(replicas, most if most > replicas else 0)


def side_of(share: Share | None, cluster: Member, target: int, words: Words) -> Side:
    """Return a cluster's side as it is stored; without a share it is told nothing yet."""
    ready = cluster.state is MemberState.READY and words.count(cluster)
    if share is None:
        return Side(told=0, target=target, sure=0, raisable=ready, lowerable=False, asked=Told(0))
    spoken = ready and share.reported is not None
    return Side(
        told=held(share),
        target=target,
        sure=reliable(share) if spoken else 0,
        raisable=ready,
        lowerable=spoken,
        asked=Told(share.replicas, share.keep),
        leaves=cluster.scheduling is Scheduling.DRAINING,
    )


def obeyed(share: Share) -> bool:
    """Say whether the cluster has taken in the order for the number it is told."""
    return share.reported is not None and share.reported.revision >= share.order


def held(share: Share) -> int:
    """Return how many replicas a cluster may have; more than its share if it was told to keep those that are ready."""
    if share.reported is None or not obeyed(share):
        return share.most
    return max(share.replicas, min(share.reported.replicas, share.keep))


def reliable(share: Share) -> int:
    """Return how many replicas are ready for sure, whichever of the orders under way the cluster has followed so far.

    What it said before it took in the newest order counts only up to the fewest it was told since. What it wants no
    more by its own word, going by older orders after a restore, is about to go.
    """
    told = share.reported
    if told is None:
        return 0
    return min(told.ready, told.replicas, share.most if obeyed(share) else share.least)


def retold(share: Share, told: Told, revision: int, now: float) -> Share:
    """Return a share that is told something else by a decision made at a store's revision.

    Whatever is committed after that decision has a greater revision than it.
    """
    most = max(told.replicas, told.keep)
    least, fewest, highest = share.least, fewest_of(share), share.highest
    if obeyed(share):
        least = fewest = highest = held(share)
    return msgspec.structs.replace(
        share, replicas=told.replicas, keep=told.keep, since=now, order=revision + 1,
        least=min(least, most), fewest=min(fewest, told.replicas), highest=max(highest, most),
        short_since=0.0, updated_at=now,
    )  # fmt: skip


def fewest_of(share: Share) -> int:
    """Return how many replicas a cluster has at the least: of those it only keeps, what is not ready may go."""
    return share.least if share.fewest is None else share.fewest


def needed(total: int, floor: int | None, targets: Iterable[int]) -> int:
    """Return how many ready replicas moves have to leave: the total, in each cluster where it is duplicated."""
    return max(total, sum(targets)) if floor is None else min(floor, total)
