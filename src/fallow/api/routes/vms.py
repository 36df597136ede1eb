"""Virtual machines on servers: reading them, and making, changing and deleting them by hand."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import VmList
from fallow.api.lookups import check_match, etag, server_called, vm_called
from fallow.api.problems import problems
from fallow.api.routes.members import IfMatch
from fallow.api.services import Needs
from fallow.api.strict import check_strictly
from fallow.control.commits import commit_again
from fallow.control.refusals import Refused, refuse
from fallow.control.rosters import guarded
from fallow.decide.events import event
from fallow.decide.harvest.views import vm_view, vm_views
from fallow.decide.harvest.vm_requests import VmRefused, asked_before, change_words, changed_vm, deleted_vm, new_vm
from fallow.decide.plan import Step
from fallow.model.events import Event
from fallow.model.tokens import ApiRole
from fallow.model.units import format_bytes
from fallow.model.vms import Vm, VmChange, VmRequest, VmView

Caller = Request[Any, Any, Any]
ServerQuery = Annotated[str | None, QueryParameter(max_length=64)]
ROSTER = "vms"  # of their names


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of virtual machines."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/vms/{reference:str}"
    return (
        get("/v1/vms", guards=viewer, responses=problems(404))(list_vms),
        get(one, guards=viewer, responses=problems(404))(read_vm),
        post("/v1/vms", guards=operator, responses=problems(404, 409, body=True))(create_vm),
        patch(one, guards=operator, responses=problems(404, 409, 412, body=True))(change_vm),
        delete(one, guards=operator, status_code=202, responses=problems(404, 409, 412))(delete_vm),
    )


async def list_vms(services: Needs, server: ServerQuery = None) -> VmList:
    """List virtual machines, all or those of one server."""
    snapshot = services.cache.snapshot()
    found = (
        snapshot.vms.values() if server is None else snapshot.vms_by_server.get(server_called(snapshot, server).id, ())
    )
    return VmList(revision=services.cache.revision, items=vm_views(snapshot, found, services.hub.servers()))


async def read_vm(services: Needs, reference: FromPath[str]) -> Response[VmView]:
    """Read one virtual machine by id or name."""
    return _answer(services, vm_called(services.cache.snapshot(), reference).id)


async def create_vm(services: Needs, request: Caller, data: JSONBody[VmRequest]) -> Response[VmView]:
    """Make a virtual machine on a server; it becomes a node by itself. With a name of its own it is made once."""
    await check_strictly(request, VmRequest)
    actor = actor_of(request)

    def decide() -> tuple[Step | None, str]:
        snapshot, now = services.cache.snapshot(), services.clock()
        server = server_called(snapshot, data.server)
        known = asked_before(snapshot, server, data)
        if known is not None:
            return None, known.id
        heard = services.hub.servers().get(server.id)
        try:
            made = new_vm(snapshot, server, data, heard, now, services.new_id())
        except VmRefused as refused:
            raise _refused(refused) from refused
        size = f"{made.cpus:g} processors, {format_bytes(made.memory_bytes)} of memory"
        told = _event(services, now, actor, made, "VmCreated", f"is to be made on {server.name}: {size}")
        return guarded(services.cache, Step(puts=(made, told)), ROSTER, now), made.id

    return _answer(services, await commit_again(services.applier, decide), 201)


async def change_vm(
    services: Needs,
    request: Caller,
    reference: FromPath[str],
    data: JSONBody[VmChange],
    if_match: IfMatch = None,
) -> Response[VmView]:
    """Resize, drain, stop or start a virtual machine; it stops once what it holds has moved."""
    await check_strictly(request, VmChange)
    actor = actor_of(request)

    def decide() -> tuple[Step | None, str]:
        snapshot, now = services.cache.snapshot(), services.clock()
        before = vm_called(snapshot, reference)
        check_match(before, if_match)
        try:
            after = changed_vm(snapshot, before, data, services.hub.servers().get(before.server_id))
        except VmRefused as refused:
            raise _refused(refused) from refused
        words = change_words(before, after)
        if not words:
            return None, before.id
        after = msgspec.structs.replace(after, updated_at=now)
        return Step(puts=(after, _event(services, now, actor, after, "VmChanged", f": {words}"))), after.id

    return _answer(services, await commit_again(services.applier, decide))


async def delete_vm(services: Needs, request: Caller, reference: FromPath[str], if_match: IfMatch = None) -> None:
    """Ask for the end of a virtual machine and its disk: what it holds moves, its node is removed, then it is gone."""
    actor = actor_of(request)

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        before = vm_called(snapshot, reference)
        check_match(before, if_match)
        after = deleted_vm(before)
        if after == before:
            return None, None
        after = msgspec.structs.replace(after, updated_at=now)
        return Step(puts=(after, _event(services, now, actor, after, "VmDeleted", "is to go, with its disk"))), None

    await commit_again(services.applier, decide)


def _refused(refused: VmRefused) -> Refused:
    status = 400 if refused.code == "bad-request" else 409
    return refuse(status, refused.code, refused.title, refused.detail, refused.hint)


def _event(services: Needs, now: float, actor: str, of: Vm, reason: str, words: str) -> Event:
    text = f"virtual machine {of.name}{'' if words.startswith(':') else ' '}{words}"
    return event(services.new_id(), now, actor, "vm", of.id, of.name, reason, text)


def _answer(services: Needs, vm_id: str, status: int = 200) -> Response[VmView]:
    snapshot = services.cache.snapshot()
    found = vm_called(snapshot, vm_id)
    view = vm_view(snapshot, found, services.hub.servers())
    return Response(view, headers=etag(found.revision), status_code=status)
