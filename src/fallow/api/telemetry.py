"""Around every request: its id, one line of log, and its place in the metrics. Never bodies, queries or credentials."""

import re
import time
from typing import TYPE_CHECKING, Any

import structlog
from litestar.enums import ScopeType
from prometheus_client import CollectorRegistry, Counter, Histogram

from fallow.control.audit import CALLING
from fallow.control.ids import new_id
from fallow.decide.audit import Call

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

from fallow.api.bodies import Body
from fallow.api.routes.image_archives import PATH as LONG_BODY

_log = structlog.get_logger("fallow.api")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}\Z")
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Telemetry:
    """Wraps the whole application, so that unknown paths and faults pass through it too."""

    def __init__(self, app: "ASGIApp", registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "fallow_http_requests_total", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "fallow_http_request_seconds", "Time until the answer began", ["method", "route"], registry=registry
        )

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one connection."""
        request_id = _request_id(scope)
        scope["state"]["request_id"] = request_id
        client = scope.get("client")
        token = CALLING.set(Call(request_id=request_id, source=client[0] if client else ""))
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self._serve(scope, receive, send)
        finally:
            CALLING.reset(token)

    async def _serve(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        request_id = scope["state"]["request_id"]
        began, status = time.perf_counter(), 0

        async def send_with_id(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *_headers(scope)]
                self._count(scope, status, time.perf_counter() - began)
            await send(message)

        try:
            body = Body(receive, lambda: status != 0, long=scope.get("path") == LONG_BODY)
            await self._app(scope, body.receive if scope["type"] == ScopeType.HTTP else receive, send_with_id)
        except Exception as error:
            # The answer had begun, so its status stands; the server breaks the connection off.
            _log.error("answer broken off", exc_info=error)
            raise
        finally:
            _tell(scope, status, time.perf_counter() - began)

    def _count(self, scope: "Scope", status: int, seconds: float) -> None:
        # By template, never by path: paths are endless and hold the names of workloads.
        method, route = _method(scope), scope.get("path_template") or "unknown"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


def _request_id(scope: "Scope") -> str:
    """Return the id the caller chose, if it is a plain one, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return str(value.decode())
    return new_id(16)


def _headers(scope: "Scope") -> list[tuple[bytes, bytes]]:
    stored = (b"cache-control", b"no-store") if scope["path"].startswith("/v1/") else None
    return [*HEADERS, stored] if stored else list(HEADERS)


def _shown(path: str) -> str:
    """Return a path fit for a terminal: whoever asks chooses it."""
    return "".join(character if character.isprintable() else "?" for character in path)


def _method(scope: "Scope") -> str:
    method = str(scope.get("method", ""))
    return method if method in _METHODS else "other"


def _tell(scope: "Scope", status: int, seconds: float) -> None:
    call = CALLING.get()
    said: dict[str, Any] = {
        "method": _method(scope),
        "route": scope.get("path_template") or "unknown",
        "path": _shown(scope["path"][:200]),
        "status": status,
        "ms": round(seconds * 1000, 1),
        "who": call.who if call is not None else "",
        "source": call.source if call is not None else "",
    }
    # What only reads is worth a line to whoever looks for it; what changes something, or fails, to everybody.
    quiet = scope["path"] in _QUIET or (scope.get("method") == "GET" and status < 400)
    (_log.debug if quiet else _log.info)("request", **said)
