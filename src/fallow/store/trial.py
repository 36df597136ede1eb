"""A snapshot as it would be once some steps were committed."""

from dataclasses import replace
from typing import Any

from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.kinds import KIND_OF
from fallow.model.meta import Record
from fallow.store.indexes import Index, Moved, carry, move, node_of


class Trial:
    """Lets steps that will share a commit be checked one after another, each against what those before it leave.

    Of the indexes of replicas only `replicas_by_node` is put right after every step. Deployments can be so large that
    doing it for `replicas_by_deployment`, too, would cost more than building that for the few checks that look at it.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._own: dict[str, dict[str, Record]] = {}  # fields of the snapshot that are copies of ours
        self._by_node: Index | None = None

    def accept(self, step: Step) -> None:
        """Make `snapshot` what it is after `step`."""
        before = self.snapshot
        moved: list[Moved] = []
        touched: set[str] = set()
        writes: list[tuple[Record, Record | None]] = [(put, put) for put in step.puts]
        writes += [(deleted, None) for deleted in step.deletes]
        for record, after in writes:
            field = KIND_OF[type(record)].replace("-", "_")
            if not hasattr(before, field):
                continue  # events: decisions do not see them
            touched.add(field)
            replaced = self._set(field, record.id, after)
            if isinstance(record, Replica):
                moved.append((_replica(replaced), _replica(after)))
        fields: dict[str, Any] = {field: self._own[field] for field in touched}
        self.snapshot = replace(before, **fields)
        carry(before, self.snapshot, touched)
        if moved and "replicas_by_node" in vars(before):
            self._move(before, moved)

    def _set(self, field: str, id_: str, record: Record | None) -> Record | None:
        if field not in self._own:
            self._own[field] = dict(getattr(self.snapshot, field))
        replaced = self._own[field].get(id_)
        if record is None:
            self._own[field].pop(id_, None)
        else:
            self._own[field][id_] = record
        return replaced

    def _move(self, before: Snapshot, moved: list[Moved]) -> None:
        if self._by_node is None:
            self._by_node = dict(before.replicas_by_node)
        for one in moved:  # one by one, as a step may put a record that it then deletes
            move(self._by_node, [one], node_of)
        vars(self.snapshot)["replicas_by_node"] = self._by_node


def _replica(record: Record | None) -> Replica | None:
    return record if isinstance(record, Replica) else None
