"""Host ports in use, by node row.

Nodes of one address share its host ports. A fixed one is taken per protocol (53/tcp and 53/udp may be two replicas'); a
port picked here is a number that is free in every protocol, so that a number alone names its owner.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fallow.decide.placement.request import Request, protocol_bit
from fallow.model.pools import PortRange


class PortBook:
    """Which host ports are taken on which node. `free[row]` is how many numbers of the node's range are not.

    `shared` are the rows of every node that is not alone at its address.
    """

    def __init__(self, ranges: Sequence[PortRange], addresses: Sequence[str]) -> None:
        self.shared = _shared(addresses)
        self.first = np.array([found.first for found in ranges], dtype=np.int64)
        self.last = np.array([found.last for found in ranges], dtype=np.int64)
        self.free = np.maximum(self.last - self.first + 1, 0)
        self._ranges = [(found.first, found.last) for found in ranges]
        self._taken: dict[int, dict[int, int]] = {}  # row -> number -> protocol bits
        self._lowest = [found.first for found in ranges]  # no number of the range below it is free
        self._columns: dict[int, NDArray[np.uint8]] = {}  # number -> protocol bits by row

    def occupy(self, row: int, host_ports: dict[str, int]) -> None:
        """Take the ports of a replica that is there already."""
        for key, number in host_ports.items():
            self._take(row, number, protocol_bit(key))

    def bits(self, row: int, number: int) -> int:
        """Return the protocols in which `number` is taken on one node."""
        return self._taken.get(row, {}).get(number, 0)

    def column(self, number: int) -> NDArray[np.uint8]:
        """Return the protocols in which `number` is taken, by row."""
        found = self._columns.get(number)
        if found is None:
            found = np.zeros(len(self.first), dtype=np.uint8)
            for row, taken in self._taken.items():
                found[row] = taken.get(number, 0)
            self._columns[number] = found
        return found

    def allocate(self, row: int, request: Request) -> dict[str, int]:
        """Take the ports of one more replica, of which the caller knows that there is room for them."""
        given: dict[str, int] = {}
        for key, number, bit in request.fixed_ports:
            self._take(row, number, bit)
            given[key] = number
        if request.free_ports:
            taken = self._taken.setdefault(row, {})
            number = self._lowest[row]
            for key, bit in request.free_ports:
                while number in taken:
                    number += 1
                self._take(row, number, bit)
                given[key] = number
            self._lowest[row] = number + 1
        return given

    def _take(self, row: int, number: int, bit: int) -> None:
        for each in self.shared.get(row, (row,)):
            self._take_at(each, number, bit)

    def _take_at(self, row: int, number: int, bit: int) -> None:
        taken = self._taken.setdefault(row, {})
        first, last = self._ranges[row]
        if number not in taken and first <= number <= last:
            self.free[row] -= 1
        taken[number] = taken.get(number, 0) | bit
        if number in self._columns:
            self._columns[number][row] = taken[number]


def _shared(addresses: Sequence[str]) -> Mapping[int, Sequence[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, address in enumerate(addresses):
        if address:
            rows[address].append(row)
    return {row: found for found in rows.values() if len(found) > 1 for row in found}
