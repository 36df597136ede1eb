"""Label columns: one small whole number a node for each label key that somebody asks for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fallow.decide.placement.memory import remember
from fallow.decide.selectors import parse_amount
from fallow.model.labels import Requirement
from fallow.model.members import Member

ABSENT = 0  # the code of a node without the label

Codes = NDArray[np.int32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
_COMPARE: dict[str, Callable[[NDArray[np.float64], float], Mask]] = {
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
}


class LabelColumns:
    """The assigned labels of all nodes, by key; a column is built when it is first asked for."""

    def __init__(self, nodes: Sequence[Member]) -> None:
        self._nodes = nodes
        self._columns: dict[str, tuple[Codes, Mapping[str | None, int]]] = {}
        self._groups: dict[str, tuple[Ints, Ints]] = {}  # of all nodes
        self._amounts: dict[str, NDArray[np.float64]] = {}
        self._masks: dict[Requirement, Mask] = {}

    def groups(self, key: str, rows: Ints) -> tuple[Ints, Ints]:
        """Return `rows` (in order) sorted by their value of `key`, and the positions at which each value starts.

        Nodes without the label come first, as a value of their own.
        """
        everywhere = len(rows) == len(self._nodes)
        if everywhere and key in self._groups:
            return self._groups[key]
        codes = self._column(key)[0][rows]
        by_code = np.argsort(codes, kind="stable")
        found = rows[by_code], np.flatnonzero(np.diff(codes[by_code], prepend=-1))
        return remember(self._groups, key, found) if everywhere else found

    def mask(self, requirement: Requirement) -> Mask:
        """Return which nodes fulfil one requirement, by the rules of `selectors.matches`."""
        found = self._masks.get(requirement)
        if found is None:
            found = remember(self._masks, requirement, self._judge(requirement))
        return found

    def _judge(self, requirement: Requirement) -> Mask:
        codes, code_of = self._column(requirement.key)
        match requirement.operator:
            case "in" | "notin":
                wanted = [code_of[value] for value in requirement.values if value in code_of]
                # One value, the usual case, needs no search.
                inside: Mask = np.equal(codes, wanted[0]) if len(wanted) == 1 else np.isin(codes, wanted)
                return inside if requirement.operator == "in" else ~inside
            case "exists":
                return np.not_equal(codes, ABSENT)
            case "absent":
                return np.equal(codes, ABSENT)
            case operator:
                bound = parse_amount(requirement.values[0])
                # Nothing compares to not-a-number, which stands for values that are none.
                return _COMPARE[operator](self._amount(requirement.key), np.nan if bound is None else bound)

    def _column(self, key: str) -> tuple[Codes, Mapping[str | None, int]]:
        found = self._columns.get(key)
        if found is None:
            code_of: dict[str | None, int] = {None: ABSENT}
            codes = [code_of.setdefault(node.labels.get(key), len(code_of)) for node in self._nodes]
            found = self._columns[key] = np.array(codes, dtype=np.int32), code_of
        return found

    def _amount(self, key: str) -> NDArray[np.float64]:
        """Return each node's value of `key` as a number, not-a-number where it is none."""
        found = self._amounts.get(key)
        if found is None:
            codes, code_of = self._column(key)
            amounts = [None if value is None else parse_amount(value) for value in code_of]
            numbers = np.array([np.nan if amount is None else amount for amount in amounts], dtype=np.float64)
            found = self._amounts[key] = numbers[codes]
        return found
