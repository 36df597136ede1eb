"""A snapshot as it would be once some steps were committed."""

from dataclasses import replace
from typing import Any

from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.kinds import KIND_OF
from fallow.model.meta import Record


class Trial:
    """Lets steps that will share a commit be checked one after another, each against what those before it leave.

    A new snapshot builds its indexes anew. Of those that a check has used, the two that are asked for every step are
    carried along instead: what is on a node, and which members are nodes.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._own: dict[str, dict[str, Record]] = {}  # fields of the snapshot that are copies of ours
        self._by_node: dict[str, list[Replica]] | None = None

    def accept(self, step: Step) -> None:
        """Make `snapshot` what it is after `step`."""
        before = self.snapshot
        moved: list[tuple[Replica | None, Replica | None]] = []
        touched: set[str] = set()
        for record, after in [*((put, put) for put in step.puts), *((deleted, None) for deleted in step.deletes)]:
            field = KIND_OF[type(record)].replace("-", "_")
            if not hasattr(before, field):
                continue  # events: decisions do not see them
            touched.add(field)
            replaced = self._set(field, record.id, after)
            if isinstance(record, Replica):
                moved.append(
                    (replaced if isinstance(replaced, Replica) else None, after if isinstance(after, Replica) else None)
                )
        fields: dict[str, Any] = {field: self._own[field] for field in touched}
        self.snapshot = replace(before, **fields)
        self._carry(before, moved, "members" not in touched)

    def _set(self, field: str, id_: str, record: Record | None) -> Record | None:
        if field not in self._own:
            self._own[field] = dict(getattr(self.snapshot, field))
        replaced = self._own[field].pop(id_, None)
        if record is not None:
            self._own[field][id_] = record
        return replaced

    def _carry(self, before: Snapshot, moved: list[tuple[Replica | None, Replica | None]], same_members: bool) -> None:
        built, carried = vars(before), vars(self.snapshot)
        if same_members and "nodes" in built:
            carried["nodes"] = built["nodes"]
        if "replicas_by_node" not in built:
            return
        if self._by_node is None:
            self._by_node = dict(before.replicas_by_node)
        carried["replicas_by_node"] = self._by_node
        for old, new in moved:
            if old is not None and old.node_id in self._by_node:
                self._by_node[old.node_id] = [kept for kept in self._by_node[old.node_id] if kept.id != old.id]
            if new is not None and new.node_id and not new.ended:
                self._by_node[new.node_id] = [*self._by_node.get(new.node_id, ()), new]
