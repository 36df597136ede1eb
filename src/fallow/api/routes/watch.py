"""Watching: every change of the store from a revision on, as server-sent events, none of them twice or missing."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from litestar.types import Guard

from fallow.api.auth import may_read_values
from fallow.api.problems import problems
from fallow.api.services import Needs, Services
from fallow.api.streams import Steps, check_room
from fallow.control.refusals import Refused, refuse
from fallow.decide.views import without_values
from fallow.model.audit import AuditEntry
from fallow.model.deployments import Deployment, Template
from fallow.model.kinds import KIND_OF, KINDS
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.model.registrations import MemberKey, Registration
from fallow.model.registries import KnownRegistry
from fallow.model.secrets import SealedSecret
from fallow.model.tokens import ApiRole, ApiToken, JoinToken
from fallow.store.cache import decode_item
from fallow.store.contract import Batch, Compacted, StoreError

BOOKMARK_SECONDS = 15.0
CATCH_UP_SECONDS = 2.0
_AUDIT = KIND_OF[AuditEntry]  # for admins, when they ask for it
_UNTOLD = (JoinToken, ApiToken, SealedSecret, Registration, MemberKey, KnownRegistry)
WATCHABLE = frozenset(KINDS) - {*(KIND_OF[kind] for kind in _UNTOLD), _AUDIT}
_HIDDEN = frozenset({"key_sha256", "token_id"})  # of members: nobody outside needs them

Revision = Annotated[int | None, QueryParameter(ge=0, le=2**62)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return the route of the watch."""
    stream = get("/v1/watch", guards=[guards[ApiRole.VIEWER]], media_type="text/event-stream", responses=problems(410))
    return (stream(watch),)


async def watch(
    services: Needs,
    request: Request[Any, Any, Any],
    kinds: Annotated[str | None, QueryParameter(max_length=200)] = None,
    after: Revision = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Stream:
    """Stream changes after a revision (default: from now on) of the given kinds (default: all), comma-separated."""
    caller: ApiToken = request.scope["state"]["caller"]
    wanted = _kinds(kinds, WATCHABLE | {_AUDIT} if caller.role is ApiRole.ADMIN else WATCHABLE)
    begin = _revision(after, last_event_id, services.cache.revision)
    check_room(services.limits)
    await _catch_up(services, begin)
    steps = Steps(services.store.watch("", begin))
    try:
        await steps.begin()
    except Compacted as error:
        await steps.aclose()
        raise _gone(str(error)) from error
    except BaseException:
        await steps.aclose()
        raise
    return Stream(_events(services, steps, wanted, begin, may_read_values(request)), media_type="text/event-stream")


async def _catch_up(services: Services, revision: int) -> None:
    """Wait until the cache has seen a revision, which may come from another process. Raises Refused, StoreError.

    A store shared by several processes is asked before a revision is said not to be: it may be that no commit has come
    after it, so that nothing would ever tell of it here.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_SECONDS):
            await services.cache.wait(revision)
    if services.cache.revision >= revision:
        return
    try:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            await services.applier.catch_up()
    except TimeoutError:
        raise StoreError(f"the store has not told in time whether there is a revision {revision}") from None
    if services.cache.revision < revision:
        raise _gone(f"revision {revision} is newer than anything stored here")


async def _events(
    services: Needs, steps: Steps[Batch], wanted: frozenset[str], begin: int, values: bool
) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events; a bookmark comes first, and whenever nothing else came for a while."""
    seen = begin
    with services.limits.stream():
        try:
            yield bookmark(seen)
            while True:
                try:
                    batch = await steps.next(BOOKMARK_SECONDS)
                except TimeoutError:
                    yield bookmark(seen)
                    continue
                if batch is None:
                    return
                told = change_events(batch, wanted, values)
                seen = batch.revision
                if told:
                    yield told
        except Compacted:
            yield b"event: compacted\ndata: {}\n\n"
        except StoreError:
            return  # the caller comes again with the last id it has seen
        finally:
            await steps.aclose()


def bookmark(revision: int) -> bytes:
    """Return the event that says: everything up to here has been sent."""
    return b'event: bookmark\nid: %d\ndata: {"revision":%d}\n\n' % (revision, revision)


def change_events(batch: Batch, wanted: frozenset[str], values: bool = True) -> bytes:
    """Return one event for each changed record of the wanted kinds, with or without `values` of environments.

    Only the last one carries the id: a caller cut off in the middle of a commit must get all of it again.
    """
    told = []
    for change in batch.changes:
        kind, _, id_ = change.key.partition("/")
        if kind in wanted:
            record = None if change.item is None else _public(decode_item(change.item), values)
            body = {"kind": kind, "id": id_, "revision": batch.revision, "record": record}
            told.append(b"event: change\ndata: " + msgspec.json.encode(body) + b"\n\n")
    if told:
        told[-1] = b"id: %d\n" % batch.revision + told[-1]
    return b"".join(told)


def _public(record: Record, values: bool) -> object:
    """Return what of a record may be told."""
    if isinstance(record, Deployment) and not values:
        spec = msgspec.structs.replace(record.spec, container=without_values(record.spec.container))
        return msgspec.structs.replace(record, spec=spec)
    if isinstance(record, Template) and not values:
        return msgspec.structs.replace(record, container=without_values(record.container))
    if not isinstance(record, Member):
        return record
    fields: dict[str, object] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in _HIDDEN}


def _kinds(text: str | None, allowed: frozenset[str]) -> frozenset[str]:
    asked = frozenset(part.strip() for part in text.split(",")) - {""} if text else frozenset[str]()
    unknown = sorted(asked - allowed)
    if unknown:
        raise refuse(
            400,
            "bad-request",
            "Kinds that cannot be watched",
            ", ".join(unknown),
            f"these can: {', '.join(sorted(allowed))}",
        )
    return asked or WATCHABLE


def _revision(after: int | None, last_event_id: str | None, newest: int) -> int:
    """Return where to begin; what the caller has seen last counts more than where it first began."""
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19):
            raise refuse(400, "bad-request", "Last-Event-ID must be a revision")
        return int(last_event_id)
    return newest if after is None else after


def _gone(detail: str) -> Refused:
    return refuse(410, "compacted", "Revision not kept", detail, "list again, then watch from the list's revision")
