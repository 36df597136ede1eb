"""Every refusal and every fault as an `application/problem+json` document (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from fallow.api.problems import PROBLEM_JSON
from fallow.control.hub import HubError
from fallow.control.refusals import Refused
from fallow.decide.compose import ComposeError
from fallow.decide.deploy import OfHostError, StillDeletingError
from fallow.model.problems import Problem
from fallow.store.contract import Conflict, StoreError, TooLarge

MAX_ERRORS = 50

_log = structlog.get_logger("fallow.api")

_TITLES = {
    400: ("bad-request", "Bad request", "see /docs for what this call expects"),
    401: ("unauthorized", "Unauthorized", ""),
    403: ("forbidden", "Forbidden", ""),
    404: ("not-found", "Not found", "see /docs for all calls"),
    405: ("method-not-allowed", "Method not allowed", "see /docs for all calls"),
    408: ("too-slow", "Request too slow", "send the whole request at once"),
    413: ("too-large", "Request too large", "the body may have 2 MiB, for joining and renewing 64 KiB"),
    429: ("too-many-requests", "Too many requests", "wait, then try again"),
}


class RefusedWith(Refused):
    """A refusal that also carries response headers."""

    def __init__(self, problem: Problem, headers: Mapping[str, str]) -> None:
        super().__init__(problem)
        self.headers = dict(headers)


def request_id(request: Request[Any, Any, Any]) -> str:
    """Return the id that this request has in logs and in its answer."""
    return str(request.scope["state"].get("request_id", ""))


def on_refused(request: Request[Any, Any, Any], error: Refused) -> Response[bytes]:
    """Answer a refusal of our own."""
    return _answer(request, error.problem, error.headers if isinstance(error, RefusedWith) else {})


def on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refuses: unknown paths and methods, bodies of the wrong shape or size."""
    status = error.status_code
    if status >= 500:
        return on_fault(request, error)
    code, title, hint = _TITLES.get(status, ("refused", "Refused", ""))
    errors = _errors_of(error.extra) if isinstance(error, ValidationException) else ()
    detail = "" if status in (404, 405) else error.detail.partition("\n")[0][:500]
    if errors:
        detail = "the request does not have the expected shape"
    problem = Problem(type=f"urn:fallow:{code}", title=title, status=status, detail=detail, hint=hint, errors=errors)
    return _answer(request, problem, error.headers or {})


def on_compose(request: Request[Any, Any, Any], error: ComposeError) -> Response[bytes]:
    """Answer an application file that cannot be used, with everything wrong in it."""
    problem = Problem(
        type="urn:fallow:bad-compose",
        title="The Compose file cannot be used",
        status=422,
        detail=f"{len(error.errors)} things are wrong in it" if len(error.errors) > 1 else "".join(error.errors),
        errors=tuple(error.errors[:MAX_ERRORS]),
    )
    return _answer(request, problem)


def on_still_deleting(request: Request[Any, Any, Any], error: StillDeletingError) -> Response[bytes]:
    """Answer a deploy of what is not gone yet."""
    problem = Problem(
        type="urn:fallow:deleting",
        title="Still being deleted",
        status=409,
        detail=f"{error.path} is still being deleted",
        hint="wait until it is gone: fallow deployment list",
    )
    return _answer(request, problem)


def on_of_host(request: Request[Any, Any, Any], error: OfHostError) -> Response[bytes]:
    """Answer a change of what is run for a host."""
    problem = Problem(
        type="urn:fallow:of-host",
        title="It belongs to the host",
        status=409,
        detail=f"{error.path} is run here for the host {error.host}, which says how many of it and made of what",
        hint=f"change it there: fallow --context NAME-OF-THE-HOST deployment show {error.path}",
    )
    return _answer(request, problem)


def on_hub(request: Request[Any, Any, Any], error: HubError) -> Response[bytes]:
    """Answer what needs a member that cannot be reached."""
    problem = Problem(
        type="urn:fallow:not-connected",
        title="Not connected",
        status=409,
        detail=str(error),
        hint="see when it was last heard: fallow node list",
    )
    return _answer(request, problem)


def on_conflict(request: Request[Any, Any, Any], error: Conflict) -> Response[bytes]:
    """Answer a change that somebody else's change overtook."""
    problem = Problem(
        type="urn:fallow:conflict", title="Changed meanwhile", status=409, detail=str(error), hint="try again"
    )
    return _answer(request, problem)


def on_store(request: Request[Any, Any, Any], error: StoreError) -> Response[bytes]:
    """Answer when the store cannot do it now."""
    _log.error("store failed", request_id=request_id(request), error=str(error))
    problem = Problem(
        type="urn:fallow:store",
        title="The store cannot do it now",
        status=503,
        detail="nothing is known to have been changed",
        hint="look whether it happened, then try again",
    )
    return _answer(request, problem, {"Retry-After": "1"})


def on_too_large(request: Request[Any, Any, Any], error: TooLarge) -> Response[bytes]:
    """Answer a change of more records than the store takes at once."""
    problem = Problem(
        type="urn:fallow:too-large",
        title="Too much for one change",
        status=413,
        detail=str(error),
        hint="change it in parts, or let the store take more at once (etcd: --max-txn-ops, and max_txn_ops in its URL)",
    )
    return _answer(request, problem)


def on_recursion(request: Request[Any, Any, Any], error: RecursionError) -> Response[bytes]:
    """Answer a document nested deeper than any of ours."""
    problem = Problem(type="urn:fallow:bad-request", title="Bad request", status=400, detail="nested too deeply")
    return _answer(request, problem)


def on_text(request: Request[Any, Any, Any], error: UnicodeDecodeError) -> Response[bytes]:
    """Answer a body that is not text."""
    problem = Problem(type="urn:fallow:bad-request", title="Bad request", status=400, detail="not text in UTF-8")
    return _answer(request, problem)


def on_fault(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a fault of ours without its details, which the log has under the request's id."""
    _log.error("request failed", request_id=request_id(request), exc_info=error)
    problem = Problem(
        type="urn:fallow:internal",
        title="Internal error",
        status=500,
        detail="the control plane failed at this request",
        hint="its log tells why, under this request id",
    )
    return _answer(request, problem)


HANDLERS: dict[Any, Any] = {
    Refused: on_refused,
    HTTPException: on_http,
    ComposeError: on_compose,
    StillDeletingError: on_still_deleting,
    OfHostError: on_of_host,
    HubError: on_hub,
    Conflict: on_conflict,
    TooLarge: on_too_large,
    StoreError: on_store,
    RecursionError: on_recursion,
    UnicodeDecodeError: on_text,
    Exception: on_fault,
}


def _answer(
    request: Request[Any, Any, Any], problem: Problem, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    problem = msgspec.structs.replace(problem, request_id=request_id(request))
    return Response(
        msgspec.json.encode(problem), status_code=problem.status, media_type=PROBLEM_JSON, headers=dict(headers or {})
    )


def _errors_of(extra: Any) -> tuple[str, ...]:
    """Return what a ValidationException says, one line a fault."""
    found = []
    for one in extra if isinstance(extra, list) else []:
        if isinstance(one, dict):
            key, message = str(one.get("key", "")), str(one.get("message", ""))
            found.append(f"{key}: {message}"[:500] if key else message[:500])
    return tuple(found[:MAX_ERRORS])
