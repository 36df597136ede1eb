"""Whether we live, whether we are ready, what we measure, and which release we are. Open to everybody."""

import msgspec
from litestar import MediaType, Response, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fallow.api.services import Needs
from fallow.model.kinds import SCHEMA_VERSION
from fallow.version import VERSION

_NOT_READY = {503: ResponseSpec(data_container=str, description="Not ready yet: why", media_type=MediaType.TEXT)}


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Our release, and the layout of the data it stores."""

    version: str
    schema: int


@get("/healthz", media_type=MediaType.TEXT, security=[{}])
async def healthz() -> str:
    """Say that the process answers."""
    return "ok\n"


@get("/readyz", media_type=MediaType.TEXT, security=[{}], responses=_NOT_READY)
async def readyz(services: Needs) -> Response[str]:
    """Say whether requests make sense: 503 with the reason until everything has started."""
    reason = services.ready()
    if reason is None:
        return Response("ok\n")
    return Response(f"{reason}\n", status_code=503, headers={"Retry-After": "1"})


@get("/metrics", media_type=MediaType.TEXT, security=[{}])
async def metrics(services: Needs) -> Response[bytes]:
    """Return metrics in Prometheus' text format; no names of workloads are among them."""
    return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)


@get("/v1/version", security=[{}])
async def version() -> Version:
    """Return the release."""
    return Version(version=VERSION, schema=SCHEMA_VERSION)


HANDLERS = (healthz, readyz, metrics, version)
