"""Who fetches an image from whom, so that the registry gives it once and not to every node.

Nodes that have an image, or are fetching it, form trees: the first takes it from the registry, each later one from a
node with few to serve, which passes bytes on while they still arrive. With at most K children each, a tree of N nodes
is about log_K N deep, and since pieces are passed on, its last node is done little later than its first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHILDREN = 2
SOURCES = 3  # one to fetch from, and two for when it fails


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A node that has an image, or is fetching it, as far as it is known to the one that plans.

    `parent` is the node it was last told to fetch from while it still fetches, else empty. `load` counts those that
    fetch from it now.
    """

    member_id: str
    zone: str = ""
    parent: str = ""
    load: int = 0
    fetching: bool = False


def plan_sources(
    member_id: str, zone: str, holders: Mapping[str, Holder], *, avoid: str = "", children: int = CHILDREN
) -> list[str]:
    """Return from whom a node should fetch, the best first; empty: from the registry.

    Never from itself or from who fetches from it, however indirectly, and from `avoid`, which has just failed it, only
    as the last. First come those with less than `children` to serve, of the same zone, near to the registry, with
    little to do. The ones to stand in are preferably not fed by the first, which would stop with it.
    """
    found = [
        (each, _above(each, holders))
        for each in holders.values()
        if each.member_id != member_id and member_id not in _above(each, holders)
    ]
    found.sort(
        key=lambda pair: (
            pair[0].member_id == avoid,
            pair[0].load >= children,
            pair[0].zone != zone,
            len(pair[1]),
            pair[0].load,
            pair[0].fetching,
            pair[0].member_id,
        )
    )
    if not found:
        return []
    first = found[0][0].member_id
    others = sorted(found[1:], key=lambda pair: first in pair[1])  # stable
    return [first, *(each.member_id for each, _ in others[: SOURCES - 1])]


def _above(holder: Holder, holders: Mapping[str, Holder]) -> Sequence[str]:
    """Return the ids of those that a node's bytes come through, the nearest first."""
    found: list[str] = []
    parent = holder.parent
    while parent and parent not in found:
        found.append(parent)
        above = holders.get(parent)
        parent = above.parent if above is not None else ""
    return found
