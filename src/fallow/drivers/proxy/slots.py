"""Which of HAProxy's backends serves what: pure, but for the question whether a TCP port can be had."""

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from fallow.drivers.proxy.config import Layout, Settings, listen_name, slot_name
from fallow.drivers.proxy.servers import Key, place_of
from fallow.model.routes import Endpoint, ProxyState


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """How HAProxy can do a state; `slots` by backend key, `endpoints` by their names inside HAProxy.

    `closed` says why a TCP port that is wanted cannot be opened.
    """

    slots: dict[str, int]
    layout: Layout
    endpoints: dict[Key, Endpoint]
    closed: dict[int, str]

    def reloaded(self) -> "Arrangement":
        """Return the same for a worker that has yet to be made."""
        return replace(self, layout=replace(self.layout, generation=self.layout.generation + 1))


def arrange(
    settings: Settings, state: ProxyState, before: Arrangement, occupied: Collection[str], running: bool
) -> Arrangement:
    """Return how to do `state` with as little change as possible; another generation means that a reload is needed.

    `occupied` are the names of backends that have servers; the TCP ports of a `running` HAProxy are ours already.
    """
    closed = closed_ports(settings, (route.listen for route in state.tcp), before.layout.listens if running else ())
    listens = tuple(sorted(route.listen for route in state.tcp if route.listen not in closed))
    slots, backends = assign(state, before.slots, occupied, before.layout.backends)
    layout = before.layout
    if not running or (listens, backends) != (layout.listens, layout.backends):
        layout = Layout(generation=layout.generation + 1, backends=backends, listens=listens)
    return Arrangement(slots=slots, layout=layout, endpoints=placements(state, slots, listens), closed=closed)


def assign(
    state: ProxyState, before: Mapping[str, int], occupied: Collection[str], backends: int
) -> tuple[dict[str, int], int]:
    """Return the slot of every http backend key, and how many slots there must be.

    A key keeps its slot; a slot whose key is gone stays taken while its backend is `occupied` by servers (named as in
    HAProxy). When none is free the number doubles, so that reloads for want of slots become rare.
    """
    keys = [backend.key for backend in state.backends if backend.mode == "http"]
    slots = {key: slot for key, slot in before.items() if key in keys or slot_name(slot) in occupied}
    taken = set(slots.values())
    fresh = [key for key in keys if key not in slots]
    while backends - len(taken) < len(fresh):
        backends *= 2
    free = (slot for slot in range(backends) if slot not in taken)
    slots.update(zip(fresh, free, strict=False))
    return slots, backends


def placements(state: ProxyState, slots: Mapping[str, int], listens: Collection[int]) -> dict[Key, Endpoint]:
    """Return every endpoint that should serve, by the names of its backend and server."""
    found: dict[Key, Endpoint] = {}
    streams = {backend.key: backend for backend in state.backends if backend.mode == "tcp"}
    for backend in state.backends:
        if backend.mode == "http":
            name = slot_name(slots[backend.key])
            found.update((place_of(name, endpoint), endpoint) for endpoint in backend.endpoints)
    for route in state.tcp:
        if route.listen in listens:
            name = listen_name(route.listen)
            found.update((place_of(name, endpoint), endpoint) for endpoint in streams[route.backend].endpoints)
    return found


def keys_by_name(state: ProxyState, slots: Mapping[str, int]) -> dict[str, str]:
    """Return backend keys by HAProxy's name of the backend."""
    found = {slot_name(slot): key for key, slot in slots.items()}
    found.update((listen_name(route.listen), route.backend) for route in state.tcp)
    return found


def by_backend(endpoints: Mapping[Key, Endpoint]) -> dict[str, list[Endpoint]]:
    """Return the endpoints by HAProxy's name of their backend, sorted."""
    found: dict[str, list[Endpoint]] = {}
    for (backend, _), endpoint in sorted(endpoints.items(), key=lambda item: item[0]):
        found.setdefault(backend, []).append(endpoint)
    return found


def names_in(layout: Layout) -> set[str]:
    """Return the names of the backends that a worker of this layout has."""
    return {slot_name(slot) for slot in range(layout.backends)} | {listen_name(port) for port in layout.listens}


def closed_ports(settings: Settings, wanted: Iterable[int], open_now: Collection[int]) -> dict[int, str]:
    """Return why a wanted TCP port cannot be opened; one port that is taken must not stop all other routes."""
    closed: dict[int, str] = {}
    for port in wanted:
        if port == settings.http_port:
            closed[port] = "it is the gateway's port for http"
        elif port not in open_now and (fault := _bind_fault(settings.bind_address, port)):
            closed[port] = fault
    return closed


def _bind_fault(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return (error.strerror or "it cannot be opened").lower()
    return ""
