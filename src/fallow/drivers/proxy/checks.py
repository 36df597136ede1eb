"""The wall between what others may name and what HAProxy reads as commands or configuration.

Everything that reaches a command line or a file passes through here first, and is refused, never quoted: the command
socket splits on spaces, `;`, newlines and `<<`, a file on quotes and `#` as well.
"""

import ipaddress
import re
from collections.abc import Hashable, Iterable

from fallow.drivers.proxy.contract import ProxyError
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyState, TcpRoute

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"/[A-Za-z0-9._~%+:@=,/!$&()*-]{0,254}")


def check_state(state: ProxyState) -> None:
    """Raise ProxyError, naming the first fault, unless every part of `state` can be served as it is written."""
    for backend in state.backends:
        _check_backend(backend)
    for route in state.http:
        _check_http(route)
    for connection in state.tcp:
        _check_port("tcp route", connection.listen)
    _unique("backend", ((backend.key, backend.mode) for backend in state.backends))
    _unique("http route", ((route.host.lower(), _without_slash(route.path)) for route in state.http))
    _unique("tcp port", (route.listen for route in state.tcp))
    known = {(backend.key, backend.mode) for backend in state.backends}
    wanted: list[tuple[HttpRoute | TcpRoute, str]] = [(route, "http") for route in state.http]
    wanted += [(route, "tcp") for route in state.tcp]
    for found, mode in wanted:
        if (found.backend, mode) not in known:
            raise ProxyError(f"a route leads to {found.backend!r}, which is no {mode} backend of this state")


def check_bind(address: str) -> None:
    """Raise ProxyError unless `address` is an IP address to listen on; empty means all."""
    if address:
        _check_address("the address to listen on", address)


def _check_backend(backend: Backend) -> None:
    if backend.mode not in {"http", "tcp"}:
        raise ProxyError(f"backend {backend.key!r} has the unknown mode {backend.mode!r}")
    for endpoint in backend.endpoints:
        _check_endpoint(endpoint)
    _unique(f"endpoint of {backend.key!r}", (endpoint.id for endpoint in backend.endpoints))


def _check_endpoint(endpoint: Endpoint) -> None:
    if not _ID.fullmatch(endpoint.id):
        raise ProxyError(f"the endpoint id {endpoint.id!r} must be at most 100 letters, digits and . _ -")
    _check_address(f"the address of endpoint {endpoint.id}", endpoint.address)
    _check_port(f"endpoint {endpoint.id}", endpoint.port)
    if isinstance(endpoint.weight, bool) or not isinstance(endpoint.weight, int) or not 0 <= endpoint.weight <= 256:
        raise ProxyError(f"the weight of endpoint {endpoint.id} must be 0 to 256, not {endpoint.weight!r}")


def _check_address(what: str, address: str) -> None:
    try:
        found = ipaddress.ip_address(address)
    except ValueError as error:
        raise ProxyError(f"{what} is {address!r}, which is no IP address") from error
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None:
        raise ProxyError(f"{what} is {address!r}: an address with a scope is not supported")


def _check_port(what: str, port: int) -> None:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ProxyError(f"{what}: the port must be 1 to 65535, not {port!r}")


def _check_http(route: HttpRoute) -> None:
    if route.host and (len(route.host) > 253 or not _HOST.fullmatch(route.host.lower())):
        raise ProxyError(f"the host {route.host!r} of a route is not a DNS name")
    if not _PATH.fullmatch(route.path):
        raise ProxyError(f"the path {route.path!r} of a route has characters that no route may have, or more than 255")


def _without_slash(path: str) -> str:
    return path.rstrip("/")


def _unique(what: str, keys: Iterable[Hashable]) -> None:
    seen: set[Hashable] = set()
    for key in keys:
        if key in seen:
            raise ProxyError(f"the {what} {key!r} is there twice")
        seen.add(key)
