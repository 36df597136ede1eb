"""Which of the nodes with room is best.

`spread` takes the node with the fewest replicas of the same deployment, then the least loaded; `pack` the most loaded.
Load is the larger of the reserved shares of processor and memory, then the number of replicas; a request that
reserves nothing looks at the number of replicas first. Between equals the smaller node id wins.
"""

from collections.abc import Callable

import numpy as np

from fallow.decide.placement.request import Request
from fallow.decide.placement.table import Floats, Ints, Mask, NodeTable

_FEW = 32  # so many rows are brought up to date one by one; more of them at once


class Ranking:
    """The eligible nodes of one kind of request with their scores, smaller is better, kept up to date.

    Requests for one replica are many and different in size, but few kinds of them look at different nodes: their best
    node is one `argmin` over this column away, however many other columns a full look would need.
    """

    def __init__(self, table: NodeTable, eligible: Mask, request: Request) -> None:
        self._table = table
        self._eligible = eligible
        self._source = table.by_share if request.reserves else table.by_count
        self._sign = -1.0 if request.policy.strategy == "pack" else 1.0
        self._seen = 0
        self.scores: Floats = np.empty(0)
        self._refresh()

    def best(self, request: Request, fits: Callable[[int, Request], bool]) -> int | None:
        """Return the row of the best node; None: it has no room, as far as `fits` can tell, or no node is eligible."""
        self._catch_up()
        row = int(self.scores.argmin())
        return row if self.scores[row] != np.inf and fits(row, request) else None

    def best_with_room(self, _: Request, room: Ints) -> int | None:
        """Return the row of the best node among those with room."""
        self._catch_up()
        scores = np.where(room > 0, self.scores, np.inf)
        row = int(scores.argmin())
        return None if scores[row] == np.inf else row

    def _catch_up(self) -> None:
        touched = self._table.touched
        behind = len(touched) - self._seen
        if behind > _FEW:
            self._refresh()
        elif behind:
            for row in touched[self._seen :]:
                if self._eligible[row]:
                    self.scores[row] = self._sign * self._source[row]
            self._seen = len(touched)

    def _refresh(self) -> None:
        self.scores = np.where(self._eligible, self._sign * self._source, np.inf)
        self._seen = len(self._table.touched)


def lowest(keys: Floats, count: int) -> Ints:
    """Return the positions of the `count` lowest keys, the earlier of equals first; in the order of positions."""
    if count >= len(keys):
        return np.arange(len(keys))
    if count == 1:
        return np.array([keys.argmin()])
    limit = np.partition(keys, count - 1)[count - 1]
    below = keys < limit
    equal = np.flatnonzero(keys == limit)[: count - int(np.count_nonzero(below))]
    below[equal] = True
    return np.flatnonzero(below)
