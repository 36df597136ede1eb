"""The page at /docs: Swagger UI, served from an installed package so that it works without internet."""

import gzip
from functools import cache
from importlib.resources import files
from typing import Any

from litestar import Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath

from fallow.version import VERSION

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

# Swagger UI sets styles on elements; everything else comes from this server, in files of its own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Fallow API</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
  </head>
  <body>
    <div id="api"></div>
    <noscript>This page needs JavaScript; <a href="/docs/openapi.json">openapi.json</a> does not.</noscript>
    <script src="/docs/assets/swagger-ui-bundle.js"></script>
    <script src="/docs/assets/start.js"></script>
  </body>
</html>
"""

# The bundled Swagger UI draws OpenAPI 3.1 but refuses its version number; what we use of 3.1 it shows correctly.
_START = """fetch("/docs/openapi.json").then((answer) => answer.json()).then((spec) => {
  spec.openapi = "3.0.3";
  SwaggerUIBundle({ spec, dom_id: "#api", deepLinking: true, tryItOutEnabled: true, validatorUrl: null });
});
"""


class DocsPage(OpenAPIRenderPlugin):
    """The page itself, its script and the files of Swagger UI."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request, openapi_schema: dict[str, object]) -> bytes:  # type: ignore[type-arg]
        """Return the page."""
        return _PAGE.encode()

    def receive_router(self, router: Router) -> None:
        """Add what the page loads."""
        router.register(asset)


class Description(JsonRenderPlugin):
    """The description as JSON."""

    def render(self, request: Request, openapi_schema: dict[str, Any]) -> bytes:  # type: ignore[type-arg]
        """Return the description."""
        return super().render(request, _exact(openapi_schema))


@get("/assets/{name:str}", include_in_schema=False, sync_to_thread=False)
def asset(name: FromPath[str]) -> Response[bytes]:
    """Return one file the page loads."""
    if name == "start.js":
        return Response(_START.encode(), media_type="text/javascript")
    if name not in ASSETS:
        raise NotFoundException
    headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=86400"}
    return Response(_packed(name), media_type=ASSETS[name], headers=headers)


def openapi_config() -> OpenAPIConfig:
    """Return what Litestar needs to describe the API and to serve the description."""
    return OpenAPIConfig(
        title="Fallow",
        version=VERSION,
        description="The API of a Fallow control plane. Refusals are problem documents (RFC 9457).",
        use_handler_docstrings=True,
        security=[{"token": []}],
        components=Components(
            security_schemes={
                "token": SecurityScheme(type="http", scheme="bearer", description="An API token: fallow-api.ID.SECRET")
            }
        ),
        openapi_router=Router(
            "/docs", route_handlers=[], include_in_schema=False, after_request=_finish, security=[{}]
        ),
        render_plugins=[DocsPage(), Description()],
    )


def _exact(schema: Any) -> Any:
    """Return a schema in which the items of a bounded tuple are of one kind.

    Litestar takes the dots of `Annotated[tuple[X, ...], ...]` for a type of its own, which may be anything.
    """
    if isinstance(schema, list):
        return [_exact(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kinds = schema.get("oneOf")
    if isinstance(kinds, list) and len(kinds) == 2 and kinds[1] == {}:
        return _exact(kinds[0])
    return {name: _exact(part) for name, part in schema.items()}


def _finish(response: Response[object]) -> Response[object]:
    """Protect the page, and answer what is not there like everywhere else instead of with Litestar's own page."""
    if response.status_code == 404:
        raise NotFoundException
    response.headers["Content-Security-Policy"] = POLICY
    return response


@cache
def _packed(name: str) -> bytes:
    """Return a file of Swagger UI, compressed."""
    (folder,) = (found for found in files("swagger_ui_bundle").joinpath("vendor").iterdir() if found.is_dir())
    return gzip.compress(folder.joinpath(name).read_bytes(), mtime=0)
