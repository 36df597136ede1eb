"""What HAProxy is told in files: the configuration, the map from host and path to backend, and the names in both.

HAProxy cannot make backends at run time, so the file holds spare ones, `b000` upwards, and the map says which of them
serves which host and path; a `t5432` passes on connections to port 5432. A key of the map is `host/path/`, and what is
looked up ends in a slash too, so that the longest prefix found ends where a segment of the path ends.

A worker that a reload has replaced still gets requests on the connections it has. It passes them on to the new worker,
over a socket of their own that tells who the client is: so only the newest worker chooses endpoints, and no connection
need be closed while a request may be on its way.

All names of files are relative: HAProxy runs in the folder, whose own path may be of any length and form.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fallow.model.routes import Endpoint, HttpRoute

CONFIG_FILE = "haproxy.cfg"
MAP_FILE = "routes.map"
MASTER_SOCKET = "master.sock"
ANY_HOST = "*"

# Options of a server are the same in the file and on the socket, where `default-server` does not count. A dead server
# is out after two failed checks, or three failed connections in a row: when a whole region dies, its backups take over
# at once. Without a pool every request would open a connection of its own.
_SERVER_OPTIONS = (
    "check inter 1s fastinter 500ms downinter 1s fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down "
    "pool-purge-delay 5s pool-max-conn 200 weight {weight}"
)

_SERVER_LINE = "    server "
_BACKUP_MARK = ".b"

_GLOBAL = """\
# Written by fallow; changes by hand are lost.
global
    stats socket unix@{socket} mode 600 level admin expose-fd listeners
    hard-stop-after {hard_stop_seconds}s
"""

# Written by hand for what is not driven, these two keep the promises of every request as well: a benchmark does so.
DEFAULTS = """
defaults common
    balance leastconn
    option allbackups
    retries 3
    option redispatch 1
    timeout connect 1s
    timeout queue 5s
    timeout client-fin 30s

defaults web from common
    mode http
    http-reuse safe
    retry-on conn-failure empty-response
    option idle-close-on-response
    timeout http-request 10s
    timeout http-keep-alive 30s
    timeout client 5m
    timeout server 5m
    timeout tunnel 1h
    http-error status 502 content-type text/plain string "The service gave no valid answer.\\n"
    http-error status 503 content-type text/plain string "The service is not available just now.\\n"
    http-error status 504 content-type text/plain string "The service did not answer in time.\\n"

defaults wire from common
    mode tcp
    timeout client 1h
    timeout server 1h
"""

FORWARDING = """\
    http-request del-header Forwarded
    http-request del-header Proxy
    http-request del-header X-Real-IP
    http-request del-header X-Forwarded- -m beg
    http-request add-header X-Forwarded-Proto http
    http-request add-header X-Forwarded-Host %[req.hdr(host)]
    option forwardfor
    http-request disable-l7-retry unless { method GET HEAD OPTIONS }
"""

_FRONTEND = """
frontend http from web
    bind {bind}
    bind unix@handover.sock mode 600 accept-proxy
    http-request set-var(txn.path) path
    http-request set-var(txn.backend) req.hdr(host),host_only,lower,rtrim(.),concat(,txn.path,/),map_beg({map_file})
    http-request set-var(txn.backend) str({any_host}),concat(,txn.path,/),map_beg({map_file}) \
if !{{ var(txn.backend) -m found }}
{forwarding}    use_backend handover if {{ stopping }}
    use_backend %[var(txn.backend)]
    default_backend nowhere

backend nowhere from web
    http-request return status 404 content-type text/plain string "Nothing is served at this address.\\n"

backend handover from web
    server next unix@handover.sock send-proxy-v2
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What stays the same as long as the proxy lives. An empty `bind_address` is every IPv4 address."""

    http_port: int
    bind_address: str
    spare_backends: int
    drain_seconds: float
    program: str
    stop_seconds: float = 5.0
    hard_stop_seconds: int = 3600  # how long connections older than a reload may go on


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What only a reload changes: how many backends there are, and which TCP ports are open.

    The socket's name carries the `generation`, so that a command never reaches the worker before a reload.
    """

    generation: int
    backends: int
    listens: tuple[int, ...] = ()


def worker_socket(generation: int) -> str:
    """Return the name of the command socket of a generation's worker."""
    return f"worker-{generation}.sock"


def slot_name(slot: int) -> str:
    """Return the name of an HTTP backend."""
    return f"b{slot:03d}"


def listen_name(port: int) -> str:
    """Return the name of what listens on a TCP port."""
    return f"t{port}"


def server_name(endpoint: Endpoint) -> str:
    """Return the endpoint's name inside HAProxy: its id, and a digest of where it is; `endpoint_id` reads it back.

    HAProxy cannot make a server a backup, or none, while it lives: so it has another name then, and is another server.
    """
    place = f"{endpoint.id} {socket_address(endpoint.address, endpoint.port)}"
    mark = _BACKUP_MARK if endpoint.backup else ""
    return f"{endpoint.id}:{hashlib.sha256(place.encode()).hexdigest()[:8]}{mark}"


def endpoint_id(name: str) -> str:
    """Return the endpoint's id from its name inside HAProxy."""
    return name.rpartition(":")[0]


def is_backup(name: str) -> bool:
    """Say whether the server with this name inside HAProxy is a backup."""
    return name.rpartition(":")[2].endswith(_BACKUP_MARK)


def socket_address(address: str, port: int) -> str:
    """Return address and port in one; raises ValueError when the address is none."""
    found = ipaddress.ip_address(address)
    return f"[{found}]:{port:d}" if found.version == 6 else f"{found}:{port:d}"


def server_words(endpoint: Endpoint) -> str:
    """Return address and options of a server, as they follow its name in the file and on the socket."""
    options = _SERVER_OPTIONS.format(weight=endpoint.weight)
    return f"{socket_address(endpoint.address, endpoint.port)} {options}{' backup' if endpoint.backup else ''}"


def bind_words(settings: Settings, port: int) -> str:
    """Return what follows `bind`."""
    return socket_address(settings.bind_address, port) if settings.bind_address else f":{port}"


def render_config(settings: Settings, layout: Layout, servers: Mapping[str, Iterable[Endpoint]]) -> str:
    """Return the configuration file; `servers` are by the name of their backend."""
    parts = [
        _GLOBAL.format(socket=worker_socket(layout.generation), hard_stop_seconds=settings.hard_stop_seconds),
        DEFAULTS,
        _FRONTEND.format(
            bind=bind_words(settings, settings.http_port),
            map_file=MAP_FILE,
            any_host=ANY_HOST,
            forwarding=FORWARDING,
        ),
    ]
    for slot in range(layout.backends):
        parts.append(f"\nbackend {slot_name(slot)} from web\n")
        parts.extend(_server_lines(servers.get(slot_name(slot), ())))
    for port in layout.listens:
        name = listen_name(port)
        parts.append(f"\nlisten {name} from wire\n    bind {bind_words(settings, port)}\n")
        parts.extend(_server_lines(servers.get(name, ())))
    return "".join(parts)


def skeleton(config: str) -> str:
    """Return a configuration without its servers: what HAProxy must be reloaded for."""
    return "".join(line for line in config.splitlines(keepends=True) if not line.startswith(_SERVER_LINE))


def map_entries(routes: Iterable[HttpRoute], slots: Mapping[str, int]) -> list[str]:
    """Return the lines of the map, sorted; `slots` are by backend key."""
    return sorted(f"{_place(route)} {slot_name(slots[route.backend])}" for route in routes)


def _place(route: HttpRoute) -> str:
    return f"{route.host.lower() or ANY_HOST}{route.path.rstrip('/')}/"


def _server_lines(endpoints: Iterable[Endpoint]) -> list[str]:
    return [f"{_SERVER_LINE}{server_name(endpoint)} {server_words(endpoint)}\n" for endpoint in endpoints]
