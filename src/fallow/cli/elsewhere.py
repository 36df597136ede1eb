"""What runs in member clusters is not listed by their host: where it runs, and which command asks there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fallow.cli import output
from fallow.client.errors import ApiError
from fallow.model.divisions import DivisionView

if TYPE_CHECKING:
    from fallow.client.api import Client

NOT_FOUND = 404


def division_of(client: "Client", path: tuple[str, str]) -> DivisionView | None:
    """Return how a deployment is divided; None: there is none, or the control plane is too old to say."""
    try:
        return client.clusters.division(*path)
    except ApiError as error:
        if error.problem.status != NOT_FOUND:
            raise
        return None


def placed_elsewhere(division: DivisionView) -> dict[str, int]:
    """Return how many replicas of a deployment other clusters have, by name."""
    return {share.cluster: share.placed for share in division.shares if share.placed and not share.here}


def running_elsewhere(client: "Client") -> dict[str, int]:
    """Return how many replicas other clusters run for this one, by name."""
    try:
        found = client.clusters.all().items
    except ApiError as error:
        if error.problem.status != NOT_FOUND:
            raise
        return {}
    return {view.member.name: view.running for view in found if view.running and not view.here}


def note_elsewhere(found: Mapping[str, int], words: str) -> None:
    """Say where replicas are that are not shown, and with which `words` they are asked for."""
    if found:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(found.items()))
        output.note(f"In other clusters: {counts}. Ask there: fallow --context {min(found)} {words}")
