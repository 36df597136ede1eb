"""The nodes that requests of one kind would rather have than all others, kept from one request to the next.

What a node is worth to a request hangs on all nodes with room for it: each counts by its share of the most that any of
them has. To ask all of them again for every replica takes long. Room only shrinks during a placement, so what was found
for one request holds for all that need no less, as long as whoever has the most still has room.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fallow.decide.placement.preferences import Most, mosts, preference
from fallow.decide.placement.request import Request
from fallow.decide.placement.scores import Ranking
from fallow.decide.placement.table import Ints, Mask, NodeTable

KEPT = 4  # each is a column over the fleet
Needs = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Found:
    """The most preferred nodes for what needs at least `needs`, as long as those of `mosts` have room for it."""

    needs: Needs
    mosts: tuple[Most, ...]
    ranking: Ranking


class Favourites:
    """Finds the node that comes first: the most preferred, among equals that of the better score."""

    def __init__(self, table: NodeTable, eligible: Mask, request: Request) -> None:
        self._table = table
        self._wishes = request.policy.prefer
        self._found: deque[_Found] = deque([self._look(eligible, request, (0, 0, 0))], maxlen=KEPT)

    def best(self, request: Request, fits: Callable[[int, Request], bool]) -> int | None:
        """Return the row of the best node; None: only a look at all of them can tell."""
        needs = _needs(request)
        for found in reversed(self._found):
            if all(least <= need for least, need in zip(found.needs, needs, strict=True)):
                row = found.ranking.best(request, fits)
                if row is not None and all(most.held_by(row) or fits(most.row, request) for most in found.mosts):
                    return row
        return None

    def best_with_room(self, request: Request, room: Ints) -> int | None:
        """Return the row of the best node among those with room."""
        among = room > 0
        if not among.any():
            return None
        found = self._look(among, request, _needs(request))
        if not request.fixed_ports:  # others may have room where this one's port is taken
            self._found.append(found)
        return found.ranking.best_with_room(request, room)

    def _look(self, among: Mask, request: Request, needs: Needs) -> _Found:
        liked = np.where(among, preference(self._table.known, self._wishes, among), -np.inf)
        first = among & (liked == liked.max(initial=-np.inf))
        return _Found(needs, mosts(self._table.known, self._wishes, among), Ranking(self._table, first, request))


def _needs(request: Request) -> Needs:
    return request.cpus, request.memory_bytes, len(request.free_ports)
