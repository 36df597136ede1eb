"""Who calls, and whether they may: API tokens, three roles, and a limit on wrong guesses."""

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from fallow.api.errors import RefusedWith
from fallow.api.limits import RateLimit, retry_after
from fallow.api.services import Services
from fallow.control.audit import CALLING
from fallow.control.door import source_key
from fallow.decide.audit import Call
from fallow.model.problems import Problem
from fallow.model.tokens import ApiRole, ApiToken

_RANK = {ApiRole.VIEWER: 0, ApiRole.OPERATOR: 1, ApiRole.ADMIN: 2}
_SCHEME = "bearer "

Connection = ASGIConnection[Any, Any, Any, Any]


def guards(services: Services) -> dict[ApiRole, Guard]:
    """Return a guard for each role; it lets its role and every higher one in."""
    return {role: _guard(services, role) for role in ApiRole}


def source_of(connection: Connection) -> str:
    """Return the address a request came from, as the socket tells it; headers that claim another are not believed."""
    return connection.client.host if connection.client is not None else ""


def calling(operation: str) -> Call:
    """Return the present request as the audit record will tell of it, and note what is called."""
    call = CALLING.get()
    if call is None:
        raise LookupError("requests are served inside Telemetry only")
    call.operation = operation
    return call


def actor_of(request: Request[Any, Any, Any]) -> str:
    """Return the caller as events name it."""
    caller: ApiToken = request.scope["state"]["caller"]
    return f"api:{caller.name}"


def may_read_values(request: Request[Any, Any, Any]) -> bool:
    """Say whether the caller may read what deployments put into their containers' environment."""
    caller: ApiToken = request.scope["state"]["caller"]
    return caller.role is not ApiRole.VIEWER


def too_many(seconds: float) -> RefusedWith:
    """Return the refusal for a source that asks too often."""
    problem = Problem(
        type="urn:fallow:too-many-requests",
        title="Too many requests",
        status=429,
        detail="too many attempts from this address",
        hint=f"try again in {retry_after(seconds)} s",
    )
    return RefusedWith(problem, {"Retry-After": retry_after(seconds)})


def check_rate(limit: RateLimit, connection: Connection) -> None:
    """Take one from the caller's budget. Raises RefusedWith (429)."""
    seconds = limit.take(source_of(connection))
    if seconds > 0:
        raise too_many(seconds)


def _guard(services: Services, needed: ApiRole) -> Guard:
    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        call = calling(handler.fn.__name__)
        caller = await _caller(services, connection, call)
        call.who, call.token_id = f"api:{caller.name}", caller.id
        if _RANK[caller.role] < _RANK[needed]:
            summary = f"needs the role {needed}, has the role {caller.role}"
            await services.attempts.note(call, ("role", caller.id, call.operation), "forbidden", summary)
            raise RefusedWith(
                Problem(
                    type="urn:fallow:forbidden",
                    title="Forbidden",
                    status=403,
                    detail=f"this needs the role {needed}; token {caller.name} has the role {caller.role}",
                    hint=f"ask an admin for a token: fallow token create --role {needed}",
                ),
                {},
            )
        connection.scope["state"]["caller"] = caller

    return guard


async def _caller(services: Services, connection: Connection, call: Call) -> ApiToken:
    """Return the token of the request. Raises RefusedWith: 401, or 429 after too many wrong ones.

    A right token always passes: who shares an address with a guesser must not be locked out, and secrets of 192 bits
    need no lock against guessing.
    """
    header = connection.headers.get("authorization", "")
    if not header:
        raise _unauthorized("no credential was sent", 'Bearer realm="fallow"')
    if header[: len(_SCHEME)].lower() == _SCHEME:
        caller = services.tokens.verify_bearer(header[len(_SCHEME) :].strip())
        if caller is not None:
            return caller
    await services.attempts.note(call, ("login", source_key(call.source)), "unauthorized", "no valid API token")
    check_rate(services.limits.failures, connection)
    raise _unauthorized(
        "the API token is not valid: unknown, revoked or expired", 'Bearer realm="fallow", error="invalid_token"'
    )


def _unauthorized(detail: str, challenge: str) -> RefusedWith:
    problem = Problem(
        type="urn:fallow:unauthorized",
        title="Unauthorized",
        status=401,
        detail=detail,
        hint="send the header: Authorization: Bearer fallow-api.ID.SECRET",
    )
    return RefusedWith(problem, {"WWW-Authenticate": challenge})
