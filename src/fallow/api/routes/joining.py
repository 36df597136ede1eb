"""How a machine becomes a member: it checks the CA, joins with a token, and renews with its key."""

from http import HTTPStatus
from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from fallow.api.auth import calling, check_rate, source_of
from fallow.api.errors import RefusedWith
from fallow.api.limits import retry_after
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.door import source_key
from fallow.control.refusals import Refused
from fallow.model.members import Identity, RenewRequest
from fallow.model.registrations import JoinWaiting, SignedBundle

MAX_BODY = 64 * 1024
# Whoever sends these does not hold what the request says: a guess, not a mistake.
_GUESSES = frozenset({"urn:fallow:token-unknown", "urn:fallow:key-mismatch", "urn:fallow:bundle-forged"})
_REFUSALS = problems(400, 403, 409, 429, 503, guarded=False, body=True)
_ADMITTED = ResponseSpec(data_container=Identity, generate_examples=False, description="It is a member")
_WAITS = ResponseSpec(data_container=JoinWaiting, generate_examples=False, description="It waits for approval")
_JOIN = {**_REFUSALS, 201: _ADMITTED, 202: _WAITS}
RETRY_AFTER = "2"


@get("/v1/ca", media_type=MediaType.TEXT, security=[{}], responses=problems(429, guarded=False))
async def ca(services: Needs, request: Request[Any, Any, Any]) -> str:
    """Return the CA's certificate. Believe it only when its key's SHA-256 is the one in your join token."""
    check_rate(services.limits.anybody, request)
    return services.ca_pem


@post("/v1/join", request_max_body_size=MAX_BODY, security=[{}], responses=_JOIN)
async def join(
    services: Needs, request: Request[Any, Any, Any], data: JSONBody[SignedBundle]
) -> Response[Identity | JoinWaiting]:
    """Become a member with a join token. The same token and key again give the same member.

    The bundle is a JSON document in a string, signed by the key of its `csr_pem`. The answer 202 says that a person has
    to let the machine in first: it is given after a while, or at once when many wait; ask again then.
    """
    calling("join")
    try:
        answer = await services.admission.join(data, source_of(request))
    except Refused as refused:
        await _count(services, request, refused)
        if refused.problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise RefusedWith(refused.problem, {"Retry-After": RETRY_AFTER}) from None
        raise
    if isinstance(answer, JoinWaiting):
        headers = {"Retry-After": retry_after(answer.retry_after_seconds)}
        return Response(answer, status_code=HTTPStatus.ACCEPTED, headers=headers)
    return Response(answer, status_code=HTTPStatus.CREATED)


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
