"""How a deployment is divided over clusters, as tables."""

from rich.table import Table

from fallow.cli import output
from fallow.model.divisions import DivisionView


def share_table(division: DivisionView) -> Table:
    """Return a table of a deployment's shares, by cluster."""
    return output.rows(
        output.table("CLUSTER", "CLUSTER STATE", "TARGET", "TOLD", "PLACED", "READY", "STATE", "RULE", "WHY"),
        (
            (each.cluster, each.cluster_state, each.target, each.replicas, each.placed, each.ready, each.state,
             each.rule, each.reason)
            for each in division.shares
        ),
    )  # fmt: skip


def history_table(division: DivisionView) -> Table:
    """Return a table of a deployment's divisions, newest first."""
    return output.rows(
        output.table("SINCE", "TOTAL", "SHARES", "BECAUSE"),
        (
            (output.clock(past.at), past.total, _shares(past.shares), past.cause)
            for past in reversed(division.history)
        ),
    )  # fmt: skip


def _shares(shares: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(shares.items()) if count)
