"""Columns over the fleet: one small whole number a node for each key that somebody asks for, and its amount.

`Columns` sees assigned labels only. `SeeingColumns` sees what nodes say and measure too: it filters by resources and
ranks by preference, and is never asked where security hangs on the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fallow.decide.matching import trouble_of
from fallow.decide.placement.memory import remember
from fallow.decide.selectors import SET, is_set, key_parts
from fallow.decide.variables import AMOUNTS, Heard, node_keys, variable
from fallow.model.labels import LabelSet, Requirement, Selector
from fallow.model.members import Member
from fallow.model.quantities import Kind, Quantity, parse_quantity, same_value

ABSENT = 0  # the code of a node without the label

Codes = NDArray[np.int32]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_COMPARE: dict[str, Callable[[Floats, float], Mask]] = {
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
}
_KINDS: dict[Kind, int] = {"number": 0, "bytes": 1, "duration": 2, "rate": 3}


class Amounts(NamedTuple):
    """Each node's amount, not-a-number where it has none, and the code of its kind."""

    amounts: Floats
    kinds: NDArray[np.int8]


class Columns:
    """The assigned labels of all nodes, by key; a column is built when it is first asked for."""

    trusted = True

    def __init__(self, nodes: Sequence[Member], sets: Mapping[str, LabelSet] | None = None) -> None:
        self._nodes = nodes
        self._sets = sets or {}
        self._columns: dict[str, tuple[Codes, Mapping[str | None, int]]] = {}
        self._groups: dict[str, tuple[Ints, Ints]] = {}  # of all nodes
        self._amounts: dict[str, Amounts] = {}
        self._masks: dict[Requirement, Mask] = {}
        self._troubles: dict[str, str] = {}
        self._fit: dict[str, int] = {}  # label sets that can be told, and how deep they lie

    def values(self, key: str) -> Sequence[str | None]:
        """Return every node's value of a key."""
        _, name = key_parts(key)
        return [node.labels.get(name) for node in self._nodes]

    def sees(self, key: str) -> bool:
        """Say whether a key may be asked for at all."""
        return key_parts(key)[0] in ("", "label")

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
        """Return which nodes fulfil one requirement, by the rules of `matching.picks`."""
        found = self._masks.get(requirement)
        if found is None:
            found = remember(self._masks, requirement, self._judge(requirement))
        return found

    def all_of(self, selector: Selector) -> Mask:
        """Return which nodes fulfil a whole selector."""
        found: Mask = np.ones(len(self._nodes), dtype=np.bool_)
        for requirement in selector.requirements:
            found &= self.mask(requirement)
        return found

    def trouble(self, requirement: Requirement) -> str:
        """Return why a requirement can hold for no node at all; empty when it can."""
        if not is_set(requirement.key):
            return ""
        found = self._troubles.get(requirement.key)
        if found is None:
            asked = Selector(requirements=(requirement,))
            found = self._troubles[requirement.key] = trouble_of(asked, self._sets, self.trusted, self._fit)
        return found

    def amounts(self, key: str) -> Amounts:
        """Return each node's value of `key` as an amount."""
        found = self._amounts.get(key)
        if found is None:
            found = self._amounts[key] = self._read_amounts(key)
        return found

    def _read_amounts(self, key: str) -> Amounts:
        codes, code_of = self._column(key)
        read = [Quantity("number", np.nan) if value is None else _quantity(value) for value in code_of]
        amounts = np.array([found.amount for found in read], dtype=np.float64)
        kinds = np.array([_KINDS[found.kind] for found in read], dtype=np.int8)
        return Amounts(amounts[codes], kinds[codes])

    def _judge(self, requirement: Requirement) -> Mask:
        key, operator, values = requirement.key, requirement.operator, requirement.values
        if is_set(key):
            return self._judge_set(requirement)
        if not self.sees(key):
            return np.zeros(len(self._nodes), dtype=np.bool_)
        if operator in _COMPARE:
            return self._compare(requirement)
        codes, code_of = self._column(key)
        if operator in ("in", "notin"):
            wanted = _codes_of(code_of, values)
            # One value, the usual case, needs no search.
            inside: Mask = np.equal(codes, wanted[0]) if len(wanted) == 1 else np.isin(codes, wanted)
            return inside if operator == "in" else ~inside
        present: Mask = np.not_equal(codes, ABSENT)
        return present if operator == "exists" else ~present

    def _judge_set(self, requirement: Requirement) -> Mask:
        if self.trouble(requirement):
            return np.zeros(len(self._nodes), dtype=np.bool_)
        inside = self.all_of(self._sets[requirement.key.removeprefix(SET)].selector)
        return inside if requirement.operator == "exists" else ~inside

    def _compare(self, requirement: Requirement) -> Mask:
        bound = _quantity(requirement.values[0])
        found = self.amounts(requirement.key)
        # Nothing compares to not-a-number, which stands for values that are no amounts.
        holds: Mask = _COMPARE[requirement.operator](found.amounts, bound.amount)
        if bound.kind == "number":
            return holds
        fit: Mask = holds & ((found.kinds == _KINDS[bound.kind]) | (found.kinds == _KINDS["number"]))
        return fit

    def _column(self, key: str) -> tuple[Codes, Mapping[str | None, int]]:
        found = self._columns.get(key)
        if found is None:
            code_of: dict[str | None, int] = {None: ABSENT}
            codes = [code_of.setdefault(value, len(code_of)) for value in self.values(key)]
            found = self._columns[key] = np.array(codes, dtype=np.int32), code_of
        return found


class SeeingColumns(Columns):
    """Labels, and where a node has no label of that name what it says or measures."""

    trusted = False

    def __init__(self, nodes: Sequence[Member], sets: Mapping[str, LabelSet], heard: Heard) -> None:
        super().__init__(nodes, sets)
        self._heard = heard

    def values(self, key: str) -> Sequence[str | None]:
        """Return every node's value of a key."""
        scope, name = key_parts(key)
        if scope == "label":
            return super().values(key)
        if scope == "node":
            return [node_keys(node).get(name) for node in self._nodes]
        told = [variable(name, node, self._heard.get(node.id)) for node in self._nodes]
        if scope == "var":
            return told
        return [node.labels.get(name, value) for node, value in zip(self._nodes, told, strict=True)]

    def sees(self, key: str) -> bool:
        """Say that any key may be asked for."""
        return bool(key)

    def _read_amounts(self, key: str) -> Amounts:
        """Take measured amounts as the numbers they are, where nothing else stands in their place."""
        scope, name = key_parts(key)
        if scope not in ("", "var") or name not in AMOUNTS:
            return super()._read_amounts(key)
        unit, measure = AMOUNTS[name]
        read = [measure(node, self._heard.get(node.id)) for node in self._nodes]
        if None in read or (not scope and any(name in node.labels for node in self._nodes)):
            return super()._read_amounts(key)
        amounts: Floats = np.array(read, dtype=np.float64)
        return Amounts(amounts, np.full(len(read), _KINDS["bytes" if unit else "number"], dtype=np.int8))


def _quantity(text: str) -> Quantity:
    return parse_quantity(text) or Quantity("number", np.nan)


def _codes_of(code_of: Mapping[str | None, int], values: Sequence[str]) -> list[int]:
    """Return the codes of the values asked for; amounts with units stand for every way of writing them."""
    plain = [code_of[value] for value in values if value in code_of]
    measures = [each for each in values if (found := parse_quantity(each)) is not None and found.kind != "number"]
    if not measures:
        return plain
    same = [
        code for value, code in code_of.items() if value is not None and any(same_value(value, m) for m in measures)
    ]
    return list(dict.fromkeys([*plain, *same]))
