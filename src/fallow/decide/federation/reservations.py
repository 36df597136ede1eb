"""What has been promised of the room in clusters, and how much more can be, so that all of it finds a place.

Members answer how many more of one shape would fit if nothing else came. When replicas of several shapes come at once,
what each takes from the others is counted for the worst case (`shapes.slots_taken`): whatever a cluster's nodes look
like, and in whatever order and on whichever nodes it places what it is told to, the last one still fits.
"""

from collections.abc import Iterable

import numpy as np

from fallow.decide.federation.divide import Counts, Weights
from fallow.decide.federation.rooms import Rooms
from fallow.model.rooms import MOST

_HAIR = 1e-6  # what sums of fractions are off by at the most


class Reservations:
    """Promises by shape and cluster; it begins with orders that clusters had not counted in their answers."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._ratios = rooms.slots.copy()
        np.fill_diagonal(self._ratios, 0.0)
        self._free = rooms.free.astype(np.float64)
        self._promised = np.zeros(rooms.free.shape)
        self._load = np.zeros(rooms.free.shape)  # places that promises for other shapes take, but for rounding
        self._others = np.zeros(rooms.free.shape)  # replicas of other shapes that take some
        self._any = False
        uncounted = rooms.by_shape(rooms.uncounted, rooms.shape_of) + rooms.outdated
        for shape in np.flatnonzero(uncounted.any(axis=1)).tolist():
            self.promise(shape, uncounted[shape])

    def promise(self, shape: int, counts: Counts) -> None:
        """Promise so many of one shape to each cluster; negative numbers take promises back."""
        ratios = self._ratios[shape][:, None]
        self._any = True
        self._promised[shape] += counts
        self._load += ratios * counts
        self._others += (ratios > 0) * counts

    def left(self, shapes: Iterable[int]) -> Counts:
        """Return how many more of each shape every cluster can be promised; rows of other shapes are 0."""
        if not self._any:
            return self._rooms.free
        found = np.zeros_like(self._rooms.free)
        for shape in shapes:
            found[shape] = self.left_for(shape)
        return found

    def left_for(self, shape: int) -> Counts:
        """Return how many more of one shape every cluster can be promised, so that all other promises can be kept."""
        taken = self._load[shape] + np.minimum(self._others[shape], self._rooms.nodes)
        taken = np.where(self._others[shape] > 0, np.ceil(taken - _HAIR) - 1, 0.0)
        most = self._free[shape] - self._promised[shape] - taken
        rows = np.flatnonzero((self._ratios[shape] > 0) & self._promised.any(axis=1))
        if len(rows):
            most = np.minimum(most, self._left_beside(shape, rows))
        left: Counts = np.minimum(np.maximum(np.floor(most + _HAIR), 0), MOST).astype(np.int64)
        return left

    def _left_beside(self, shape: int, rows: Counts) -> Weights:
        """Return how many of one shape leave the promises for the shapes `rows` their places.

        y of them take y times their ratio from another shape, and less than one place more on each node they come to.
        """
        ratio = self._ratios[shape, rows][:, None]
        others = self._others[rows]
        slack = self._free[rows] - self._promised[rows] - self._load[rows] + 1.0 + _HAIR
        untouched = np.maximum(self._rooms.nodes - others, 0)
        few = (slack - others) / (ratio + 1.0)
        many = (slack - np.minimum(self._rooms.nodes, others + untouched)) / ratio
        most = np.where(few <= untouched, few, np.maximum(untouched, many))
        found: Weights = np.where(self._promised[rows] > 0, most, MOST).min(axis=0)
        return found
