"""What every node would say to one more replica, for people who ask why."""

from dataclasses import replace

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.filters import Verdict, verdict
from fallow.decide.placement.place import counted_rows
from fallow.decide.placement.request import replaced_by, request_of
from fallow.decide.placement.table import NodeTable
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Replica, Template


def judge(
    snapshot: Snapshot,
    replica: Replica,
    template: Template,
    heard: Heard | None = None,
    servers: HeardServers | None = None,
    now: float = 0.0,
) -> Verdict:
    """Return which nodes could hold `replica` now, were it to be placed anew; its own room counts as free.

    What it uses of a server is measured together with the rest there, and counts.
    """
    others = {id_: found for id_, found in snapshot.replicas.items() if id_ != replica.id}
    without = replace(snapshot, replicas=others)
    table = NodeTable(without, heard, servers, now)
    held = counted_rows(without, replica.deployment_id, table.rows, replaced_by(others.values()))
    return verdict(table, request_of(template), held)
