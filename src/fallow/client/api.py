"""The typed client: one method for every row of `docs/design/api.md`; those of images, registries, trust,
clusters, servers, server pools and virtual machines are attributes of it.

Every method raises a `ClientError`: `ApiError` when the control plane refuses, else `Unreachable`, `Untrusted` or
`BadAnswer`.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

from fallow.client.clusters import ClusterCalls
from fallow.client.hosts import HostCalls
from fallow.client.image_archives import ArchiveCalls
from fallow.client.images import ImageCalls
from fallow.client.listings import Listing, decoded
from fallow.client.registries import RegistryCalls
from fallow.client.servers import ServerCalls, ServerPoolCalls, VmCalls
from fallow.client.streams import split_lines
from fallow.client.transport import READ_SECONDS, Transport, part, peer_certificate
from fallow.client.trust import TrustCalls
from fallow.client.watching import Change, Watching
from fallow.model.audit import AuditEntry
from fallow.model.control import ControlStatus, Level, LogLevel
from fallow.model.deployments import (
    DeploymentChange,
    DeploymentView,
    DeployRequest,
    DeployResult,
    Explanation,
    GenerationView,
    ReplicaView,
    RollbackRequest,
)
from fallow.model.events import Event
from fallow.model.labels import LabelSetChange, LabelSetRequest, LabelSetView, RelabelRequest, RelabelResult
from fallow.model.members import MemberChange, MemberView
from fallow.model.names import DnsAnswer, DnsRecord, DnsStatus
from fallow.model.peers import PeerView
from fallow.model.pools import LeaseView, PoolChange, PoolRequest, PoolView
from fallow.model.registrations import Approval, RegistrationView, Rejection
from fallow.model.routes import RouteView
from fallow.model.tokens import TokenChange, TokenRequest, TokenView
from fallow.model.upgrades import UpgradeRequest, UpgradeView

__all__ = ["Client", "Listing", "ServerVersion"]

T = TypeVar("T")


class ServerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Which release a control plane is, and which shape its store has."""

    version: str
    schema: int | str


class Client:
    """Speaks to one control plane; synchronous, and safe to use from several threads."""

    def __init__(
        self,
        url: str,
        token: str = "",
        ca_pem: str = "",
        *,
        seconds: float = READ_SECONDS,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        """Take one URL, or those of several processes with commas. `seconds` limits one answer; nothing is sent yet.

        Raises ValueError when a URL or the CA is unusable.
        """
        self._transport = Transport(url, token, ca_pem, seconds=seconds, inner=inner)
        self.images = ImageCalls(self._transport)
        self.hosts = HostCalls(self._transport)
        self.clusters = ClusterCalls(self._transport)
        self.image_archives = ArchiveCalls(self._transport)
        self.registries = RegistryCalls(self._transport)
        self.trust = TrustCalls(self._transport)
        self.servers = ServerCalls(self._transport)
        self.server_pools = ServerPoolCalls(self._transport)
        self.vms = VmCalls(self._transport)
        self._ca_pem = ca_pem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Keep the token out of logs and tracebacks."""
        return f"Client({self.url!r})"

    @property
    def url(self) -> str:
        """Return the address that was asked last; the first one until then."""
        return self._transport.url

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    # the control plane itself

    def health(self) -> str:
        """Return `ok` when the process lives."""
        return self._transport.send("GET", "/healthz").text

    def ready(self) -> str:
        """Return `ok` when requests can be served; otherwise ApiError (503) says why not."""
        return self._transport.send("GET", "/readyz").text

    def metrics(self) -> str:
        """Return the metrics in Prometheus text form."""
        return self._transport.send("GET", "/metrics").text

    def version(self) -> ServerVersion:
        """Return which release answers."""
        return self._get(ServerVersion, "/v1/version")

    def ca(self) -> str:
        """Return the CA's certificate, PEM."""
        return self._transport.send("GET", "/v1/ca").text

    def status(self) -> ControlStatus:
        """Return how the control plane is."""
        return self._get(ControlStatus, "/v1/control/status")

    def set_log_level(self, level: Level) -> LogLevel:
        """Let the control plane log from `level` on, until it ends."""
        return self._send(LogLevel, "PUT", "/v1/control/log-level", LogLevel(level=level))

    def certificate_expires_at(self) -> float | None:
        """Return when the server's certificate ends, in UTC seconds; None when it shows none."""
        return peer_certificate(self.url, self._ca_pem)

    # members

    def members(self, role: str = "", selector: str = "") -> Listing[MemberView]:
        """Return the members of one role, or all; with `selector` those that it picks."""
        return self._get(Listing[MemberView], "/v1/members", role=role, selector=selector)

    def member(self, ref: str) -> MemberView:
        """Return the member with that id or name."""
        return self._get(MemberView, f"/v1/members/{part(ref)}")

    def change_member(self, ref: str, change: MemberChange, if_match: int | None = None) -> MemberView:
        """Set labels or scheduling; with `if_match` only when that is still the member's revision."""
        return self._send(MemberView, "PATCH", f"/v1/members/{part(ref)}", change, if_match)

    def remove_member(self, ref: str, *, force: bool = False, keep_containers: bool = False) -> None:
        """Remove a member for good; refused (409) while it holds replicas and is not dead, unless `force`.

        Its machine removes what it runs for us, unless `keep_containers`.
        """
        query = _query(force="true" if force else "", keep_containers="true" if keep_containers else "")
        self._transport.send("DELETE", f"/v1/members/{part(ref)}", query=query)

    # pools

    def pools(self) -> Listing[PoolView]:
        """Return all pools of leases, by name."""
        return self._get(Listing[PoolView], "/v1/pools")

    def pool(self, name: str) -> PoolView:
        """Return one pool."""
        return self._get(PoolView, f"/v1/pools/{part(name)}")

    def create_pool(self, request: PoolRequest) -> PoolView:
        """Create a pool; the same once more changes nothing."""
        return self._send(PoolView, "POST", "/v1/pools", request)

    def change_pool(self, name: str, change: PoolChange, if_match: int | None = None) -> PoolView:
        """Let a pool grow, or change what later leases get; with `if_match` only when that is still its revision."""
        return self._send(PoolView, "PATCH", f"/v1/pools/{part(name)}", change, if_match)

    def delete_pool(self, name: str) -> None:
        """Delete a pool; refused (409) while members have leases of it."""
        self._transport.send("DELETE", f"/v1/pools/{part(name)}")

    def leases(self, pool: str) -> Listing[LeaseView]:
        """Return the leases of a pool, those in quarantine too, by address."""
        return self._get(Listing[LeaseView], f"/v1/pools/{part(pool)}/leases")

    def relabel(self, request: RelabelRequest) -> RelabelResult:
        """Change the labels of every member that a selector picks, or foretell what that would change."""
        return self._send(RelabelResult, "POST", "/v1/relabel", request)

    # label sets

    def label_sets(self) -> Listing[LabelSetView]:
        """Return all label sets."""
        return self._get(Listing[LabelSetView], "/v1/label-sets")

    def label_set(self, name: str) -> LabelSetView:
        """Return one label set."""
        return self._get(LabelSetView, f"/v1/label-sets/{part(name)}")

    def create_label_set(self, request: LabelSetRequest) -> LabelSetView:
        """Make a label set; the same again changes nothing."""
        return self._send(LabelSetView, "POST", "/v1/label-sets", request)

    def change_label_set(self, name: str, change: LabelSetChange, if_match: int | None = None) -> LabelSetView:
        """Change a label set; with `if_match` only when that is still its revision."""
        return self._send(LabelSetView, "PATCH", f"/v1/label-sets/{part(name)}", change, if_match)

    def delete_label_set(self, name: str) -> None:
        """Delete a label set; refused (409) while anything uses it."""
        self._transport.send("DELETE", f"/v1/label-sets/{part(name)}")

    # upgrades of agents

    def upgrades(self) -> Listing[UpgradeView]:
        """Return upgrades, newest first."""
        return self._get(Listing[UpgradeView], "/v1/upgrades")

    def begin_upgrade(self, request: UpgradeRequest) -> UpgradeView:
        """Swap the agents of members, a share of them at a time."""
        return self._send(UpgradeView, "POST", "/v1/upgrades", request)

    def stop_upgrade(self, upgrade_id: str) -> UpgradeView:
        """Begin with no further member."""
        return self._send(UpgradeView, "POST", f"/v1/upgrades/{part(upgrade_id)}/stop", None)

    # machines that wait for approval

    def registrations(self) -> Listing[RegistrationView]:
        """Return the machines that wait for approval, the one that waits longest first."""
        return self._get(Listing[RegistrationView], "/v1/registrations")

    def approve(self, reference: str, approval: Approval) -> RegistrationView:
        """Let a machine in."""
        return self._send(RegistrationView, "POST", f"/v1/registrations/{part(reference)}/approve", approval)

    def reject(self, reference: str, rejection: Rejection) -> None:
        """Turn a machine away."""
        self._transport.send("POST", f"/v1/registrations/{part(reference)}/reject", body=rejection)

    # tokens

    def tokens(self) -> Listing[TokenView]:
        """Return all tokens, without their secrets."""
        return self._get(Listing[TokenView], "/v1/tokens")

    def create_token(self, request: TokenRequest) -> TokenView:
        """Create a token; its secret is in this answer and never again."""
        return self._send(TokenView, "POST", "/v1/tokens", request)

    def token(self, token_id: str) -> TokenView:
        """Return one token with those who used it."""
        return self._get(TokenView, f"/v1/tokens/{part(token_id)}")

    def extend_token(self, token_id: str, seconds: float) -> TokenView:
        """Let a join token last for so many seconds from now."""
        return self._send(TokenView, "PATCH", f"/v1/tokens/{part(token_id)}", TokenChange(ttl_seconds=seconds))

    def revoke_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self._transport.send("DELETE", f"/v1/tokens/{part(token_id)}")

    # deployments and replicas

    def deploy(self, request: DeployRequest) -> DeployResult:
        """Make deployments be as a Compose file says, or foretell what that would do."""
        return self._send(DeployResult, "POST", "/v1/deploy", request)

    def deployments(self, project: str = "") -> Listing[DeploymentView]:
        """Return the deployments of one project, or all."""
        return self._get(Listing[DeploymentView], "/v1/deployments", project=project)

    def deployment(self, project: str, name: str) -> DeploymentView:
        """Return one deployment."""
        return self._get(DeploymentView, _deployment(project, name))

    def change_deployment(
        self, project: str, name: str, change: DeploymentChange, if_match: int | None = None
    ) -> DeploymentView:
        """Scale a deployment; with `if_match` only when that is still its revision."""
        return self._send(DeploymentView, "PATCH", _deployment(project, name), change, if_match)

    def delete_deployment(self, project: str, name: str) -> None:
        """Ask for a deployment's end; it is gone when its last replica has stopped."""
        self._transport.send("DELETE", _deployment(project, name))

    def history(self, project: str, name: str) -> Listing[GenerationView]:
        """Return the generations of a deployment that are kept, newest first."""
        return self._get(Listing[GenerationView], f"{_deployment(project, name)}/history")

    def restart_deployment(self, project: str, name: str, if_match: int | None = None) -> DeploymentView:
        """Renew every replica by one of the same; with `if_match` only when that is still the revision."""
        return self._send(DeploymentView, "POST", f"{_deployment(project, name)}/restart", None, if_match)

    def roll_back_deployment(
        self, project: str, name: str, request: RollbackRequest, if_match: int | None = None
    ) -> DeploymentView:
        """Make an earlier generation wanted again, as a new one."""
        return self._send(DeploymentView, "POST", f"{_deployment(project, name)}/rollback", request, if_match)

    def pause_deployment(self, project: str, name: str) -> DeploymentView:
        """Stop the update under way from taking further steps."""
        return self._send(DeploymentView, "POST", f"{_deployment(project, name)}/pause", None)

    def resume_deployment(self, project: str, name: str) -> DeploymentView:
        """Let a paused update go on."""
        return self._send(DeploymentView, "POST", f"{_deployment(project, name)}/resume", None)

    def replicas(self, project: str = "", deployment: str = "", node: str = "") -> Listing[ReplicaView]:
        """Return replicas, ended ones that are still remembered too."""
        return self._get(Listing[ReplicaView], "/v1/replicas", project=project, deployment=deployment, node=node)

    def logs(self, replica_id: str, *, follow: bool = False, tail: int = 100) -> Iterator[str]:
        """Yield the last `tail` lines of a replica's log; with `follow` also those to come."""
        return self._lines(f"/v1/replicas/{part(replica_id)}/logs", follow, tail)

    def deployment_logs(self, project: str, name: str, *, follow: bool = False, tail: int = 100) -> Iterator[str]:
        """Yield the lines of all replicas of a deployment as `replica | line`."""
        return self._lines(f"{_deployment(project, name)}/logs", follow, tail)

    # what is told about them

    def explain(self, subject: str) -> Explanation:
        """Say why a replica (by id), a deployment (`project/name`) or a member (by name) is as it is."""
        return self._get(Explanation, "/v1/explain", subject=subject)

    def routes(self) -> Listing[RouteView]:
        """Return every route with what the gateways report of it."""
        return self._get(Listing[RouteView], "/v1/routes")

    def peers(self) -> Listing[PeerView]:
        """Return the processes of the control plane, oldest first."""
        return self._get(Listing[PeerView], "/v1/peers")

    def dns(self) -> DnsStatus:
        """Return which names there are and where they are served."""
        return self._get(DnsStatus, "/v1/dns")

    def dns_records(self, project: str = "") -> Listing[DnsRecord]:
        """Return the records that are served, all or those of one project's services."""
        return self._get(Listing[DnsRecord], "/v1/dns/records", project=project)

    def dns_query(self, name: str, kind: str = "") -> DnsAnswer:
        """Return what the name server answers; `kind` empty: A, or PTR for an address."""
        return self._get(DnsAnswer, "/v1/dns/query", name=name, type=kind)

    def events(
        self, subject: str = "", limit: int | None = None, *, who: str = "", since: float | None = None
    ) -> Listing[Event]:
        """Return what happened, newest last; `since` is in UTC seconds."""
        return self._get(
            Listing[Event], "/v1/events", subject=subject, who=who, limit=_number(limit), since=_number(since)
        )

    def audit(
        self, subject: str = "", limit: int | None = None, *, who: str = "", since: float | None = None
    ) -> Listing[AuditEntry]:
        """Return the audit record, newest last: who changed what through the API, and who was refused."""
        return self._get(
            Listing[AuditEntry], "/v1/audit", subject=subject, who=who, limit=_number(limit), since=_number(since)
        )

    def watch(self, kinds: Sequence[str], after: int, *, patience_seconds: float | None = None) -> Iterator[Change]:
        """Yield every change of records of `kinds` after revision `after`, in order, without a gap.

        A broken connection is made anew from the last revision seen, for `patience_seconds` (None: for ever); the first
        one must succeed. Raises WatchLost when changes are no longer kept.
        """
        return Watching(self._transport, kinds, after, patience_seconds).changes()

    def _lines(self, path: str, follow: bool, tail: int) -> Iterator[str]:
        query = {"follow": "true" if follow else "false", "tail": str(tail)}
        silence = None if follow else READ_SECONDS
        with self._transport.stream(
            path, query=query, headers={"Accept": "text/plain"}, silence_seconds=silence
        ) as pieces:
            yield from split_lines(pieces)

    def _get(self, kind: type[T], path: str, **query: str) -> T:
        return self._decode(kind, self._transport.send("GET", path, query=_query(**query)))

    def _send(self, kind: type[T], method: str, path: str, body: object, if_match: int | None = None) -> T:
        return self._decode(kind, self._transport.send(method, path, body=body, if_match=if_match))

    def _decode(self, kind: type[T], response: httpx.Response) -> T:
        return decoded(kind, response, self.url)


def _number(value: float | None) -> str:
    return "" if value is None else str(value)


def _deployment(project: str, name: str) -> str:
    return f"/v1/deployments/{part(project)}/{part(name)}"


def _query(**query: str) -> dict[str, str]:
    return {key: value for key, value in query.items() if value}
