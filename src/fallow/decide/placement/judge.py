"""What every node would say to one more replica, for people who ask why."""

from fallow.decide.placement.filters import Verdict, verdict
from fallow.decide.placement.place import counted_rows
from fallow.decide.placement.request import replaced_by, request_of
from fallow.decide.placement.table import NodeTable
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Replica, Template


def judge(snapshot: Snapshot, replica: Replica, template: Template, heard: Heard | None = None) -> Verdict:
    """Return which nodes could hold `replica` now, were it to be placed anew; its own room counts as free."""
    others = {id_: found for id_, found in snapshot.replicas.items() if id_ != replica.id}
    without = Snapshot(
        members=snapshot.members, templates=snapshot.templates, replicas=others, label_sets=snapshot.label_sets
    )
    table = NodeTable(without, heard)
    held = counted_rows(without, replica.deployment_id, table.rows, replaced_by(others.values()))
    return verdict(table, request_of(template), held)
