"""How a machine becomes a member: it checks the CA, joins with a token, and renews with its key."""

from typing import Any

from litestar import MediaType, Request, get, post
from litestar.params import JSONBody

from fallow.api.auth import calling, check_rate, source_of
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.door import source_key
from fallow.control.refusals import Refused
from fallow.model.members import Identity, JoinRequest, RenewRequest

MAX_BODY = 64 * 1024
# Whoever sends these does not hold what the request says: a guess, not a mistake.
_GUESSES = frozenset({"urn:fallow:token-unknown", "urn:fallow:key-mismatch"})
_REFUSALS = problems(400, 403, 409, 429, 503, guarded=False, body=True)


@get("/v1/ca", media_type=MediaType.TEXT, security=[{}], responses=problems(429, guarded=False))
async def ca(services: Needs, request: Request[Any, Any, Any]) -> str:
    """Return the CA's certificate. Believe it only when its key's SHA-256 is the one in your join token."""
    check_rate(services.limits.anybody, request)
    return services.ca_pem


@post("/v1/join", request_max_body_size=MAX_BODY, security=[{}], responses=_REFUSALS)
async def join(services: Needs, request: Request[Any, Any, Any], data: JSONBody[JoinRequest]) -> Identity:
    """Become a member with a join token. The same token and key again give the same member."""
    calling("join")
    try:
        return await services.admission.join(data, source_of(request))
    except Refused as refused:
        await _count(services, request, refused)
        raise


@post("/v1/renew", status_code=200, request_max_body_size=MAX_BODY, security=[{}], responses=_REFUSALS)
async def renew(services: Needs, request: Request[Any, Any, Any], data: JSONBody[RenewRequest]) -> Identity:
    """Get a new certificate; the request's signature proves possession of the member's key."""
    calling("renew")
    try:
        return await services.admission.renew(data)
    except Refused as refused:
        await _count(services, request, refused)
        raise


async def _count(services: Needs, request: Request[Any, Any, Any], refused: Refused) -> None:
    """Count and record what was refused. Raises RefusedWith (429) when it was too much.

    Who proves to be somebody always passes: a machine must not be locked out by another behind the same address.
    """
    if refused.problem.status == 403:
        # The title alone: details repeat what the caller sent.
        call, code = calling(request.route_handler.fn.__name__), refused.problem.type
        summary = f"{refused.problem.title} ({code.rpartition(':')[2]})"
        await services.attempts.note(call, (code, source_key(call.source)), "unauthorized", summary)
    check_rate(services.limits.joins, request)
    if refused.problem.type in _GUESSES:
        check_rate(services.limits.failures, request)


HANDLERS = (ca, join, renew)
