"""Plans: what would move between clusters, if. Nothing is done."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import post
from litestar.params import JSONBody
from litestar.types import Guard

from fallow.api.lookups import cluster_called
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.refusals import refuse
from fallow.decide.federation.foretell import NEW_NAME, plan
from fallow.decide.snapshot import Snapshot
from fallow.model.meta import is_name
from fallow.model.shares import PlanRequest, PlanResult
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of plans."""
    viewer = [guards[ApiRole.VIEWER]]
    return (post("/v1/plans", guards=viewer, status_code=200, responses=problems(404, 409, body=True))(make_plan),)


async def make_plan(services: Needs, data: JSONBody[PlanRequest]) -> PlanResult:
    """Foretell what would move where if a cluster were lost, drained or added; nothing is done."""
    snapshot = services.cache.snapshot()
    request = _meant(snapshot, data)
    hub = services.hub
    async with services.reading:
        return await asyncio.to_thread(plan, snapshot, request, services.clock(), hub.usages(), hub.servers())


def _meant(snapshot: Snapshot, data: PlanRequest) -> PlanRequest:
    """Return the request with a cluster's id in place of its name. Raises Refused."""
    if data.what == "add":
        _check_new(snapshot, data)
        return data
    if not snapshot.clusters:
        raise refuse(
            409, "no-clusters", "There are no member clusters", "this control plane stands alone",
            "fallow cluster token create, and fallow cluster join on another control plane",
        )  # fmt: skip
    return msgspec.structs.replace(data, cluster=cluster_called(snapshot, data.cluster).id)


def _check_new(snapshot: Snapshot, data: PlanRequest) -> None:
    """Refuse a cluster that could not be. Raises Refused."""
    if not data.nodes or not data.cpus:
        raise refuse(400, "bad-request", "No nodes", "a cluster without nodes runs nothing", "--nodes 40x8cpu,32GiB")
    if data.cluster and not is_name(data.cluster):
        raise refuse(
            400, "bad-request", "Not a name", f"{data.cluster!r} cannot be a cluster's name", "take a-z, 0-9, -"
        )
    if any(member.name == (data.cluster or NEW_NAME) for member in snapshot.clusters.values()):
        raise refuse(
            409, "name-taken", "There is such a cluster", f"{data.cluster or NEW_NAME} is a cluster already",
            "give the planned one another --name",
        )  # fmt: skip
