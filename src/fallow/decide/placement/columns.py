"""Label columns: one small whole number a node for each label key that somebody asks for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fallow.decide.placement.memory import remember
from fallow.decide.selectors import matches
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Member

ABSENT = 0  # the code of a node without the label


class LabelColumns:
    """The assigned labels of all nodes, by key; a column is built when it is first asked for."""

    def __init__(self, nodes: Sequence[Member]) -> None:
        self._nodes = nodes
        self._columns: dict[str, tuple[NDArray[np.int32], list[str | None]]] = {}
        self._masks: dict[Requirement, NDArray[np.bool_]] = {}

    def column(self, key: str) -> tuple[NDArray[np.int32], list[str | None]]:
        """Return each node's code for `key`, and the values that the codes stand for; code 0 is "no such label"."""
        found = self._columns.get(key)
        if found is None:
            codes: dict[str | None, int] = {None: ABSENT}
            given = [codes.setdefault(node.labels.get(key), len(codes)) for node in self._nodes]
            found = self._columns[key] = np.array(given, dtype=np.int32), list(codes)
        return found

    def mask(self, requirement: Requirement) -> NDArray[np.bool_]:
        """Return which nodes fulfil one requirement.

        It is asked once a distinct value, of the same function that judges one node: both always agree.
        """
        found = self._masks.get(requirement)
        if found is None:
            codes, values = self.column(requirement.key)
            selector = Selector(requirements=(requirement,))
            holds = [matches(selector, {} if value is None else {requirement.key: value}) for value in values]
            found = remember(self._masks, requirement, np.array(holds, dtype=np.bool_)[codes])
        return found
