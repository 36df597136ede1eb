"""The typed client's calls about clusters. Every method raises a `ClientError`."""

from typing import TypeVar
from urllib.parse import quote

from fallow.client.listings import Listing, decoded
from fallow.client.transport import Transport
from fallow.model.clusters import ClusterView
from fallow.model.divisions import DivisionView
from fallow.model.shares import PlanRequest, PlanResult

T = TypeVar("T")


class ClusterCalls:
    """The clusters of a host, and how deployments are divided over them. They are changed as other members are."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> Listing[ClusterView]:
        """Return the clusters of a host by name, itself among them; none where it has no members."""
        return self._get(Listing[ClusterView], "/v1/clusters")

    def one(self, ref: str) -> ClusterView:
        """Return the cluster with that id or name."""
        return self._get(ClusterView, f"/v1/clusters/{quote(ref, safe='')}")

    def division(self, project: str, name: str) -> DivisionView:
        """Return how a deployment is divided over clusters."""
        return self._get(DivisionView, f"/v1/deployments/{quote(project, safe='')}/{quote(name, safe='')}/division")

    def plan(self, request: PlanRequest) -> PlanResult:
        """Return what would move between clusters; nothing is done."""
        return decoded(PlanResult, self._transport.send("POST", "/v1/plans", body=request), self._transport.url)

    def _get(self, kind: type[T], path: str) -> T:
        return decoded(kind, self._transport.send("GET", path), self._transport.url)
