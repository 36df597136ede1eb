"""Whether we live, whether we are ready, what we measure, and which release we are. Open to everybody."""

from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fallow.api.auth import check_rate
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.kinds import SCHEMA_VERSION
from fallow.version import VERSION

_TOO_MANY = problems(429, guarded=False)
_NOT_READY = _TOO_MANY | {
    503: ResponseSpec(data_container=str, description="Not ready yet: why", media_type=MediaType.TEXT)
}


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Our release, and the layout of the data it stores."""

    version: str
    schema: int


@get("/healthz", media_type=MediaType.TEXT, security=[{}], responses=_TOO_MANY)
async def healthz(services: Needs, request: Request[Any, Any, Any]) -> str:
    """Say that the process answers."""
    check_rate(services.limits.anybody, request)
    return "ok\n"


@get("/readyz", media_type=MediaType.TEXT, security=[{}], responses=_NOT_READY)
async def readyz(services: Needs, request: Request[Any, Any, Any]) -> Response[str]:
    """Say whether requests make sense: 503 with the reason until everything has started."""
    check_rate(services.limits.anybody, request)
    reason = services.ready()
    if reason is None:
        return Response("ok\n")
    return Response(f"{reason}\n", status_code=503, headers={"Retry-After": "1"})


@get("/metrics", media_type=MediaType.TEXT, security=[{}], responses=_TOO_MANY)
async def metrics(services: Needs, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return metrics in Prometheus' text format; no names of workloads are among them."""
    check_rate(services.limits.scrapes, request)
    return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)


@get("/v1/version", security=[{}], responses=_TOO_MANY)
async def version(services: Needs, request: Request[Any, Any, Any]) -> Version:
    """Return the release."""
    check_rate(services.limits.anybody, request)
    return Version(version=VERSION, schema=SCHEMA_VERSION)


HANDLERS = (healthz, readyz, metrics, version)
