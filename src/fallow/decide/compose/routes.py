"""`x-fallow.routes`, and the routes that published ports become."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.paths import check_host, check_path
from fallow.decide.compose.problems import Problems, Refusal, shown
from fallow.model.containers import PortSpec
from fallow.model.deployments import RouteSpec

_HTTP = re.compile(r"http://([^/]*)(/.*)?")
_TCP = re.compile(r"tcp://:([0-9]{1,5})")
_FORMS = "http://shop.example.com/path or tcp://:5432"


@dataclass(slots=True)
class _Wish:
    """One entry of `x-fallow.routes` while it is read."""

    kind: str = ""
    host: str = ""
    path: str = ""
    listen: int | None = None
    port: int | None = None


def read_routes(field: Field, draft: Draft) -> None:
    """Keep `x-fallow.routes` until all ports are known."""
    draft.routes.extend(field.items_or_one())


def finish_routes(draft: Draft) -> tuple[RouteSpec, ...]:
    """Return the service's routes, those of published ports last; every port they lead to becomes a container port."""
    routes = each(draft.routes, lambda field: _read_route(field, draft))
    taken = {address_of(route): route for route in routes}
    if len(taken) != len(routes):
        draft.service.error("x-fallow.routes holds the same address twice")
    http_ports = {route.port for route in routes if route.kind == "http"}
    for published in draft.published:
        if published.port in http_ports:
            published.field.warn(
                f"port {published.listen} is not opened: x-fallow.routes leads to port {published.port} by host name"
            )
            continue
        route = RouteSpec(kind="tcp", listen=published.listen, port=published.port)
        known = taken.setdefault(address_of(route), route)
        if known is route:
            routes.append(route)
        elif known.port != route.port:
            published.field.error(f"port {published.listen} leads to port {known.port} already")
    for route in routes:
        draft.add_port(draft.service, PortSpec(container=route.port))
    return tuple(routes)


def address_of(route: RouteSpec) -> str:
    """Return what only one route can have: `http://host/path` or `tcp://:port`."""
    return f"tcp://:{route.listen}" if route.kind == "tcp" else f"http://{route.host}{route.path}"


def check_addresses(claims: list[tuple[Field, tuple[RouteSpec, ...]]], problems: Problems) -> None:
    """Add an error for every address that two services of the file claim."""
    owners: dict[str, str] = {}
    for service, routes in claims:
        for address in map(address_of, routes):
            owner = owners.setdefault(address, service.path)
            if owner != service.path:
                problems.error(service.path, service.node.line, f"claims {address}, which {owner} has already")


def _read_route(field: Field, draft: Draft) -> RouteSpec:
    wish = _Wish()
    if field.is_mapping:
        before = field.problems.faults
        dispatch(field, _ROUTE, wish)
        if field.problems.faults > before:
            raise Refusal
        _check_kind(field, wish)
    else:
        _read_text(field, wish)
    port = wish.port or draft.only_port(field)
    if wish.kind == "tcp":
        return RouteSpec(kind="tcp", listen=wish.listen, port=port)
    return RouteSpec(kind="http", host=wish.host, path=_plain_path(wish.path), port=port)


def _read_text(field: Field, wish: _Wish) -> None:
    text = field.text()
    http, tcp = _HTTP.fullmatch(text), _TCP.fullmatch(text)
    if tcp is not None and 1 <= int(tcp[1]) <= 65535:
        wish.kind, wish.listen = "tcp", int(tcp[1])
    elif http is not None and ":" in http[1]:
        raise field.refusal(f"{shown(text)} names a port: write a mapping with host, path and the container's `port`")
    elif http is not None:
        wish.kind, wish.host = "http", check_host(field, http[1])
        wish.path = check_path(field, http[2] or "/")
    else:
        raise field.refusal(f"{shown(text)} is not a route; write {_FORMS}")


def _check_kind(field: Field, wish: _Wish) -> None:
    """Settle the kind of a route written as a mapping, and refuse what belongs to the other kind."""
    wish.kind = wish.kind or ("tcp" if wish.listen else "http")
    if wish.kind == "tcp" and (wish.host or wish.path):
        raise field.refusal("a tcp route has `listen` and `port`, no `host` and no `path`")
    if wish.kind == "tcp" and not wish.listen:
        raise field.refusal("a tcp route needs `listen`, the gateways' port")
    if wish.kind == "http" and wish.listen:
        raise field.refusal("an http route has `host` and `path`, no `listen`")
    if wish.kind == "http" and not wish.host:
        raise field.refusal("an http route needs `host`")


def _plain_path(path: str) -> str:
    """Return the path without a slash at its end: `/api/` and `/api` cover the same requests."""
    return path.rstrip("/") or "/"


def _kind(field: Field, wish: _Wish) -> None:
    wish.kind = field.choice("http", "tcp")


def _host(field: Field, wish: _Wish) -> None:
    wish.host = check_host(field)


def _path(field: Field, wish: _Wish) -> None:
    wish.path = check_path(field)


def _listen(field: Field, wish: _Wish) -> None:
    wish.listen = field.integer(1, 65535)


def _port(field: Field, wish: _Wish) -> None:
    wish.port = field.integer(1, 65535)


_ROUTE: dict[str, Callable[[Field, _Wish], None]] = {
    "kind": _kind,
    "host": _host,
    "path": _path,
    "listen": _listen,
    "port": _port,
}
