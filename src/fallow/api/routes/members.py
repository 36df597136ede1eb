"""Members: reading them, labelling, cordoning and draining them, removing them."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import MemberList
from fallow.api.lookups import check_match, etag, member_called
from fallow.api.problems import problems
from fallow.api.selecting import usable_selector
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import refuse
from fallow.decide.events import event
from fallow.decide.harvest.views import load_of
from fallow.decide.label_sets import chosen
from fallow.decide.plan import Step
from fallow.decide.removal import Cause, removal
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import member_view
from fallow.model.clusters import HERE_ID
from fallow.model.labels import is_label
from fallow.model.members import Member, MemberChange, MemberState, MemberView, Revocation, Role, Thresholds
from fallow.model.shares import Share
from fallow.model.taints import Taints, taint_text
from fallow.model.tokens import ApiRole

MAX_LABELS = 64
SelectorQuery = Annotated[str | None, QueryParameter(max_length=1024)]
IfMatch = Annotated[str | None, HeaderParameter(name="If-Match")]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of members."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/members/{reference:str}"
    return (
        get("/v1/members", guards=viewer, responses=problems(400))(list_members),
        get(one, guards=viewer, responses=problems(404))(read_member),
        patch(one, guards=operator, responses=problems(404, 409, 412, body=True))(change_member),
        delete(one, guards=operator, responses=problems(404, 409, 412))(remove_member),
    )


async def list_members(
    services: Needs, role: FromQuery[Role | None] = None, selector: SelectorQuery = None
) -> MemberList:
    """List members, all or those of one role, or those that a selector picks by all that is known of them."""
    snapshot = services.cache.snapshot()
    found = chosen(snapshot, usable_selector(selector or "", snapshot), services.hub.usages())
    items = tuple(_view(services, member) for member in found if role is None or member.role is role)
    return MemberList(revision=services.cache.revision, items=items)


async def read_member(services: Needs, reference: FromPath[str]) -> Response[MemberView]:
    """Read one member by id or name."""
    member = member_called(services.cache.snapshot(), reference)
    return Response(_view(services, member), headers=etag(member.revision))


async def change_member(
    services: Needs,
    request: Request[Any, Any, Any],
    reference: FromPath[str],
    data: JSONBody[MemberChange],
    if_match: IfMatch = None,
) -> Response[MemberView]:
    """Set or remove labels; cordon, drain or use a member again; say how long a cluster may be silent."""
    actor = actor_of(request)

    def decide() -> tuple[Step | None, str]:
        member = member_called(services.cache.snapshot(), reference)
        check_match(member, if_match)
        changed, words = _changed(member, data, services.settings.heartbeat_seconds)
        if not words:
            return None, member.id
        now = services.clock()
        changed = msgspec.structs.replace(changed, updated_at=now)
        told = event(
            services.new_id(), now, actor, "member", member.id, member.name, "MemberChanged",
            f"{member.role} {member.name}: {', '.join(words)}",
        )  # fmt: skip
        return Step(puts=(changed, told)), member.id

    member_id = await commit_again(services.applier, decide)
    member = member_called(services.cache.snapshot(), member_id)
    return Response(_view(services, member), headers=etag(member.revision))


async def remove_member(
    services: Needs,
    request: Request[Any, Any, Any],
    reference: FromPath[str],
    if_match: IfMatch = None,
    force: FromQuery[bool] = False,
    keep_containers: FromQuery[bool] = False,
) -> None:
    """Remove a member for good: its key is not accepted any more, and its replicas are replaced.

    Its machine stops and removes what it runs for us, now or when it comes back, unless `keep_containers`.
    """
    actor = actor_of(request)

    def decide() -> tuple[Step, Revocation]:
        snapshot = services.cache.snapshot()
        member = member_called(snapshot, reference)
        check_match(member, if_match)
        if member.id in snapshot.clusters:
            _check_cluster_may_go(snapshot, member, force)
        held = _held(snapshot, member)
        if not force:
            _check_machine_may_go(snapshot, member, held)
        cause = Cause(
            actor=actor, reason="MemberRemoved", because="by an operator", keep_containers=keep_containers, held=held
        )
        step = removal(snapshot, member, services.clock(), cause, services.new_id)
        return step, next(record for record in step.puts if isinstance(record, Revocation))

    revoked = await commit_again(services.applier, decide)
    services.hub.disconnect(revoked.member_id, revoked.reason, clean=not revoked.keep_containers)
    services.hub.forget(revoked.member_id)


def _held(snapshot: Snapshot, member: Member) -> int:
    """Return how many replicas go with a member: its own, and those in a server's virtual machines."""
    own = len(snapshot.replicas_by_node.get(member.id, ()))
    return own + load_of(snapshot, snapshot.vms_by_server.get(member.id, ())).replicas


def _check_machine_may_go(snapshot: Snapshot, member: Member, held: int) -> None:
    """Raise Refused (409) for one that holds replicas and may be alive, and for the node of a virtual machine."""
    vm = snapshot.vms_by_node.get(member.id)
    if vm is not None:
        raise refuse(
            409, "in-vm", "It goes with its virtual machine", f"{member.name} is the node of virtual machine {vm.name}",
            f"fallow vm delete {vm.name}; or force it: the virtual machine is taken away all the same",
        )  # fmt: skip
    # The virtual machines of a dead server may run on without it.
    if held and (member.state is not MemberState.DEAD or member.role is Role.SERVER):
        noun = "server" if member.role is Role.SERVER else "node"
        raise refuse(
            409,
            "holds-replicas",
            "Still in use",
            f"{member.name} holds {held} replicas",
            f"fallow {noun} drain {member.name}, wait until it is empty; or force it: they are replaced",
        )


def _check_cluster_may_go(snapshot: Snapshot, cluster: Member, force: bool) -> None:
    """Raise Refused (409) for our own nodes, and for a cluster that has shares unless `force`."""
    if cluster.id == HERE_ID:
        raise refuse(
            409, "is-here", "It is this cluster itself", f"{cluster.name} stands for the nodes of this control plane",
            "it goes by itself with the last of the other clusters; fallow cluster drain keeps deployments off it",
        )  # fmt: skip
    held = sum(map(_holds, snapshot.shares_by_cluster.get(cluster.id, ())))
    if held and not force:
        raise refuse(
            409, "holds-replicas", "Still in use", f"{cluster.name} runs replicas of {held} deployments",
            f"fallow cluster drain {cluster.name} moves them; or force it: they are replaced, and its own go on there",
        )  # fmt: skip


def _holds(share: Share) -> bool:
    return share.replicas > 0 or (share.reported is not None and share.reported.remaining > 0)


def _changed(member: Member, change: MemberChange, heartbeat_seconds: float) -> tuple[Member, list[str]]:
    """Return the member as wished, and what is new in words. Raises Refused (400)."""
    labels, words = dict(member.labels), []
    for key, value in change.labels.items():
        if not is_label(key, value or ""):
            raise refuse(
                400,
                "bad-request",
                "Not a usable label",
                f"{key[:80]!r}={(value or '')[:80]!r}",
                "a key has 1 to 63 letters, digits and . _ / -, a value up to 63 without /; both begin and end plainly",
            )
        if value is None and labels.pop(key, None) is not None:
            words.append(f"label {key} removed")
        elif value is not None and labels.get(key) != value:
            labels[key] = value
            words.append(f"label {key}={value}")
    if len(labels) > MAX_LABELS:
        raise refuse(400, "bad-request", "Too many labels", f"a member has at most {MAX_LABELS}")
    scheduling = change.scheduling or member.scheduling
    if scheduling is not member.scheduling:
        words.append(f"{scheduling}, was {member.scheduling}")
    changed = msgspec.structs.replace(member, labels=labels, scheduling=scheduling)
    if change.taints is not msgspec.UNSET and change.taints != member.taints:
        changed = msgspec.structs.replace(changed, taints=_usable(member, change.taints))
        words.append(f"taints {', '.join(map(taint_text, change.taints)) or 'none'}")
    if change.thresholds is not msgspec.UNSET and change.thresholds != member.thresholds:
        _check_thresholds(member, change.thresholds, heartbeat_seconds)
        changed = msgspec.structs.replace(changed, thresholds=change.thresholds)
        words.append(str(change.thresholds or "thresholds of all clusters"))
    if change.unfence is True and member.fence:
        words.append("let in again")
        changed = msgspec.structs.replace(changed, fence="", runs=())
    return changed, words


def _usable(member: Member, taints: Taints) -> Taints:
    """Return taints that a member may have. Raises Refused (400)."""
    if member.role is not Role.CLUSTER:
        raise refuse(400, "bad-request", "Only clusters have taints", f"{member.name} is a {member.role}")
    if len({taint.key for taint in taints}) < len(taints):
        raise refuse(400, "bad-request", "Two taints of one key", "a key is given once, with one effect")
    for taint in taints:
        if not is_label(taint.key, taint.value):
            raise refuse(400, "bad-request", "Not a usable taint", f"{taint.key[:80]!r}={taint.value[:80]!r}")
    return taints


def _check_thresholds(member: Member, wanted: Thresholds | None, heartbeat_seconds: float) -> None:
    """Raise Refused (400) for thresholds that this member may not have."""
    if member.role is not Role.CLUSTER or member.id == HERE_ID:
        raise refuse(
            400, "bad-request", "Only member clusters have thresholds of their own",
            f"{member.name} is {'this cluster itself' if member.id == HERE_ID else f'a {member.role}'}",
            "those of nodes, gateways and servers are options of the control plane: --suspect-after and --dead-after",
        )  # fmt: skip
    if wanted is None or heartbeat_seconds < wanted.suspect_after_seconds < wanted.dead_after_seconds:
        return
    raise refuse(
        400, "bad-request", "Thresholds that contradict each other", str(wanted),
        f"suspect is later than a heartbeat, which is {heartbeat_seconds:g}s, and dead later than suspect",
    )  # fmt: skip


def _view(services: Needs, member: Member) -> MemberView:
    hub = services.hub
    return member_view(
        services.cache.snapshot(),
        member,
        member.id in hub.connected(),
        hub.last_seen(member.id),
        hub.usage(member.id),
    )
