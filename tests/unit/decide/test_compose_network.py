"""Ports, routes and health checks: how they are written and how they depend on each other."""

import pytest

from fallow.decide.compose import ComposeError, parse_compose
from fallow.model.containers import HealthCheck
from fallow.model.deployments import DeploymentSpec


def service(keys: str) -> tuple[DeploymentSpec, tuple[str, ...]]:
    lines = "\n".join("    " + line for line in keys.splitlines())
    found = parse_compose(f"services:\n  web:\n    image: app\n{lines}\n")
    return found.deployments[0][1], found.warnings


def errors(keys: str) -> tuple[str, ...]:
    with pytest.raises(ComposeError) as caught:
        service(keys)
    return caught.value.errors


def ports_of(spec: DeploymentSpec) -> list[str]:
    return [port.key + (f"@{port.host}" if port.host else "") for port in spec.container.ports]


def routes_of(spec: DeploymentSpec) -> list[str]:
    return [
        f"tcp:{route.listen}>{route.port}" if route.kind == "tcp" else f"{route.host}{route.path}>{route.port}"
        for route in spec.routes
    ]


PORTS = [
    ("ports: ['8080']", ["8080/tcp"], []),
    ("ports: [8080]", ["8080/tcp"], []),
    ("ports: [22:22]", ["22/tcp"], ["tcp:22>22"]),
    ("ports: ['80:8080']", ["8080/tcp"], ["tcp:80>8080"]),
    ("ports: ['80:8080', '81:8080']", ["8080/tcp"], ["tcp:80>8080", "tcp:81>8080"]),
    ("ports: ['80:8080/tcp']", ["8080/tcp"], ["tcp:80>8080"]),
    ("ports: ['8080/udp']", ["8080/udp"], []),
    ("ports: ['53', '53/udp']", ["53/tcp", "53/udp"], []),
    ("ports: ['8000-8002']", ["8000/tcp", "8001/tcp", "8002/tcp"], []),
    ("ports: ['80-81:8080-8081']", ["8080/tcp", "8081/tcp"], ["tcp:80>8080", "tcp:81>8081"]),
    ("ports: ['127.0.0.1:80:8080']", ["8080/tcp"], []),
    ("ports: ['127.0.0.1::8080']", ["8080/tcp"], []),
    ("ports: ['[::1]:80:8080']", ["8080/tcp"], []),
    ("ports: ['0.0.0.0:80:8080']", ["8080/tcp"], ["tcp:80>8080"]),
    ("ports: [{target: 8080}]", ["8080/tcp"], []),
    ("ports: [{target: 8080, published: 80}]", ["8080/tcp"], ["tcp:80>8080"]),
    ("ports: [{target: 8080, published: '80', protocol: tcp, mode: ingress}]", ["8080/tcp"], ["tcp:80>8080"]),
    ("ports: [{target: 8080, published: 80, mode: host}]", ["8080/tcp@80"], []),
    ("ports: [{target: 53, published: 53, mode: host, protocol: udp}]", ["53/udp@53"], []),
    ("ports: [{target: 8080, mode: host, name: web, app_protocol: http}]", ["8080/tcp"], []),
    ("ports: ['8080', {target: 8080, published: 80, mode: host}]", ["8080/tcp@80"], []),
    ("expose: ['8080', 9000, '7000-7001/udp']", ["8080/tcp", "9000/tcp", "7000/udp", "7001/udp"], []),
    ("expose: ['8080']\nports: ['80:8080']", ["8080/tcp"], ["tcp:80>8080"]),
]


@pytest.mark.parametrize(("keys", "ports", "routes"), PORTS)
def test_compose_ports(keys: str, ports: list[str], routes: list[str]) -> None:
    spec, _ = service(keys)
    assert ports_of(spec) == ports
    assert routes_of(spec) == routes


PORTS_WARNED = [
    ("ports: ['127.0.0.1:80:8080']", "127.0.0.1 means the local machine only, so no port is opened"),
    ("ports: ['[::1]:80:8080']", "[::1] means the local machine only"),
    ("ports: ['0.0.0.0:80:8080']", "the address 0.0.0.0 is ignored: the port is open on every address of the gateways"),
    (
        "ports: [{target: 1, published: 1, host_ip: 10.0.0.1, mode: host}]",
        "the address 10.0.0.1 is ignored: the port is open on every address of the node",
    ),
    (
        "ports: ['80:8080']\nx-fallow: {routes: [http://a.test]}",
        "port 80 is not opened: x-fallow.routes leads to port 8080 by host name",
    ),
]


@pytest.mark.parametrize(("keys", "message"), PORTS_WARNED)
def test_compose_ports_warned(keys: str, message: str) -> None:
    _, warnings = service(keys)
    assert len(warnings) == 1
    assert warnings[0].startswith("services.web.ports[0] (line 4): ")
    assert message in warnings[0]


PORTS_REFUSED = [
    ("ports: [web]", "ports[0] (line 4): 'web' is not a port; write 8080, 80:8080, 8080/udp or 8000-8003:9000-9003"),
    ("ports: ['1:2:3:4']", "'1:2:3:4' is not a port"),
    ("ports: ['-']", "'-' is not a port"),
    ("ports: ['0']", "ports go from 1 to 65535, not '0'"),
    ("ports: ['65536']", "ports go from 1 to 65535, not '65536'"),
    ("ports: ['9-8']", "ports go from 1 to 65535, not '9-8'"),
    ("ports: ['1-65535']", "is a range of more than 64 ports"),
    ("ports: ['80/sctp']", "the protocol must be tcp or udp, not 'sctp'"),
    ("ports: ['80-82:8080']", "publishes 3 ports for 1 of the container; write one for each"),
    ("ports: ['53:53/udp']", "gateways pass on TCP only; write the long form with `mode: host` for UDP"),
    ("ports: ['80:8080', '80:9090']", "ports[1] (line 4): port 80 leads to port 8080 already"),
    ("ports: '8080'", "ports (line 4): must be a list"),
    ("ports: [{published: 80}]", "ports[0] (line 4): needs `target`, the container's port"),
    ("ports: [{target: 80, mode: swarm}]", "ports[0].mode (line 4): must be ingress or host, not 'swarm'"),
    ("ports: [{target: 80, protocol: sctp}]", "protocol (line 4): must be tcp or udp, not 'sctp'"),
    ("ports: [{target: 80, publish: 8}]", "ports[0].publish (line 4): is not a known key; did you mean 'published'?"),
    (
        "ports: [{target: 1, published: 2, mode: host}, {target: 1, published: 3, mode: host}]",
        "ports[1] (line 4): the port 1/tcp has the host port 2 already",
    ),
    ("expose: ['80:8080']", "expose[0] (line 4): names container ports only; publish under `ports`"),
    ("expose: ['1-64', '101-110']", "Expected `array` of length <= 64"),
]


@pytest.mark.parametrize(("keys", "message"), PORTS_REFUSED)
def test_compose_ports_refused(keys: str, message: str) -> None:
    found = errors(keys)
    assert len(found) == 1
    assert message in found[0]


ROUTES = [
    ("ports: ['8080']\nx-fallow: {routes: [http://Shop.Example.test]}", ["shop.example.test/>8080"]),
    ("ports: ['8080']\nx-fallow: {routes: http://a.test/api/}", ["a.test/api>8080"]),
    ("expose: ['8080']\nx-fallow: {routes: [http://a.test, http://b.test/x]}", ["a.test/>8080", "b.test/x>8080"]),
    ("ports: ['8080', '53/udp']\nx-fallow: {routes: [http://a.test]}", ["a.test/>8080"]),
    ("ports: ['5432']\nx-fallow: {routes: ['tcp://:5432']}", ["tcp:5432>5432"]),
    ("ports: ['5432']\nx-fallow: {routes: ['tcp://:15432']}", ["tcp:15432>5432"]),
    ("x-fallow: {routes: [{host: a.test, port: 8080}]}", ["a.test/>8080"]),
    ("x-fallow: {routes: [{kind: http, host: a.test, path: /b, port: 8080}]}", ["a.test/b>8080"]),
    ("x-fallow: {routes: [{listen: 5432, port: 5432}]}", ["tcp:5432>5432"]),
    ("x-fallow: {routes: [{kind: tcp, listen: 1, port: 2}]}", ["tcp:1>2"]),
    ("ports: ['80:8080']\nx-fallow: {routes: [http://a.test]}", ["a.test/>8080"]),
    (
        "ports: ['80:8080', '90:9090']\nx-fallow: {routes: [{host: a.test, port: 8080}]}",
        ["a.test/>8080", "tcp:90>9090"],
    ),
    ("ports: ['80:8080']\nx-fallow: {routes: ['tcp://:80']}", ["tcp:80>8080"]),
    ("x-fallow: {routes: }", []),
]


@pytest.mark.parametrize(("keys", "routes"), ROUTES)
def test_compose_routes(keys: str, routes: list[str]) -> None:
    spec, _ = service(keys)
    assert routes_of(spec) == routes
    assert {route.port for route in spec.routes} <= {port.container for port in spec.container.ports}


ROUTES_REFUSED = [
    ("x-fallow: {routes: [http://a.test]}", "routes[0] (line 4): needs `port`: the service names no TCP port"),
    ("ports: [1, 2]\nx-fallow: {routes: [http://a.test]}", "needs `port`: the service has the ports 1, 2"),
    ("ports: [1]\nx-fallow: {routes: [a.test]}", "'a.test' is not a route; write http://shop.example.com/path or tcp"),
    ("ports: [1]\nx-fallow: {routes: [https://a.test]}", "is not a route"),
    ("ports: [1]\nx-fallow: {routes: ['tcp://:0']}", "'tcp://:0' is not a route"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test:80']}", "names a port: write a mapping with host, path and"),
    ("ports: [1]\nx-fallow: {routes: ['http://']}", "the host '' is not a DNS name such as shop.example.com"),
    ("ports: [1]\nx-fallow: {routes: ['http://a_b.test']}", "the host 'a_b.test' is not a DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://*.test']}", "the host '*.test' is not a DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://a..test']}", "the host 'a..test' is not a DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://-a.test']}", "is not a DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://a@b.test']}", "is not a DNS name"),
    (f"ports: [1]\nx-fallow: {{routes: ['http://{'a' * 64}.test']}}", "is not a DNS name"),
    (f"ports: [1]\nx-fallow: {{routes: ['http://{'a.' * 127}test']}}", "is not a DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://10.0.0.1']}", "the host '10.0.0.1' is an address; routes go by DNS name"),
    ("ports: [1]\nx-fallow: {routes: ['http://\u00e9.test']}", "must be written in ASCII (its xn-- form)"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/a b']}", "the path '/a b' must begin with / and hold only"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/a;b']}", "the path '/a;b' must begin with /"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/?q=1']}", "the path '/?q=1' must begin with /"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/a\"b']}", "must begin with / and hold only"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/../b']}", "must not hold '..', '.' or '//'"),
    ("ports: [1]\nx-fallow: {routes: ['http://a.test/" + "a" * 300 + "']}", "must have at most 255 characters"),
    (
        "ports: [1]\nx-fallow: {routes: ['http://a.test', 'http://A.test/']}",
        "x-fallow.routes holds the same address twice",
    ),
    ("ports: [1]\nx-fallow: {routes: [{port: 1}]}", "an http route needs `host`"),
    ("ports: [1]\nx-fallow: {routes: [{host: a.test, listen: 5, kind: http}]}", "has `host` and `path`, no `listen`"),
    ("ports: [1]\nx-fallow: {routes: [{host: a.test, listen: 5}]}", "a tcp route has `listen` and `port`, no `host`"),
    ("ports: [1]\nx-fallow: {routes: [{kind: tcp}]}", "a tcp route needs `listen`, the gateways' port"),
    (
        "ports: [1]\nx-fallow: {routes: [{host: a.test, path: api}]}",
        "routes[0].path (line 5): the path 'api' must begin",
    ),
    (
        "ports: [1]\nx-fallow: {routes: [{host: a.test, prt: 1}]}",
        "routes[0].prt (line 5): is not a known key; did you mean 'port'?",
    ),
    (
        "ports: [1]\nx-fallow: {routes: [{host: a.test, port: 70000}]}",
        "must be a whole number from 1 to 65535, not '70000'",
    ),
]


@pytest.mark.parametrize(("keys", "message"), ROUTES_REFUSED)
def test_compose_routes_refused(keys: str, message: str) -> None:
    found = errors(keys)
    assert len(found) == 1
    assert message in found[0]


NONE = HealthCheck(kind="none")


def command(*words: str, **timing: float) -> HealthCheck:
    values = {"interval_seconds": 30.0, "timeout_seconds": 30.0, "retries": 3} | timing
    return HealthCheck(kind="command", command=words, **values)  # type: ignore[arg-type]


HEALTH = [
    ("x-none: 1", NONE),
    ("ports: ['8080/udp']", NONE),
    ("ports: ['8080', '9090']", HealthCheck(kind="tcp", port=8080)),
    ("ports: ['8080']\nx-fallow: {routes: [{host: a.test, port: 9090}]}", HealthCheck(kind="tcp", port=9090)),
    ("ports: ['8080']\nhealthcheck: {disable: true}", NONE),
    ("ports: ['8080']\nhealthcheck: {test: [NONE]}", NONE),
    ("ports: ['8080']\nhealthcheck: {disable: false}", HealthCheck(kind="tcp", port=8080)),
    ("healthcheck: {test: [CMD, curl, -f, http://localhost]}", command("curl", "-f", "http://localhost")),
    ("healthcheck: {test: [CMD-SHELL, a && b]}", command("/bin/sh", "-c", "a && b")),
    ("healthcheck: {test: a && b}", command("/bin/sh", "-c", "a && b")),
    (
        "healthcheck: {test: a, interval: 5s, timeout: 500ms, retries: 9, start_period: 1m}",
        command("/bin/sh", "-c", "a", interval_seconds=5, timeout_seconds=0.5, retries=9, start_period_seconds=60),
    ),
    ("ports: ['80']\nhealthcheck: {interval: 5s}", HealthCheck(kind="tcp", port=80, interval_seconds=5)),
    ("ports: ['80']\nx-fallow: {health: {http: /ok}}", HealthCheck(kind="http", path="/ok", port=80)),
    ("x-fallow: {health: {http: /ok, port: 81}}", HealthCheck(kind="http", path="/ok", port=81)),
    ("x-fallow: {health: {tcp: 81}}", HealthCheck(kind="tcp", port=81)),
    (
        "ports: [80]\nhealthcheck: {interval: 5s, retries: 2}\nx-fallow: {health: {http: /ok, interval: 2s}}",
        HealthCheck(kind="http", path="/ok", port=80, interval_seconds=2, retries=2),
    ),
    (
        "ports: [80, 81]\nx-fallow: {health: {http: /ok}, routes: [{host: a.test, port: 81}]}",
        HealthCheck(kind="http", path="/ok", port=81),
    ),
]


@pytest.mark.parametrize(("keys", "expected"), HEALTH)
def test_compose_health(keys: str, expected: HealthCheck) -> None:
    spec, _ = service(keys)
    assert spec.container.health == expected
    if expected.port:
        assert expected.port in {port.container for port in spec.container.ports}


HEALTH_REFUSED = [
    ("healthcheck: {test: []}", 'healthcheck.test (line 4): must be ["CMD", command, ...]'),
    ("healthcheck: {test: [CMD]}", "it begins with 'CMD'"),
    ("healthcheck: {test: [curl, x]}", "it begins with 'curl'"),
    ("healthcheck: {test: [CMD-SHELL, a, b]}", "it begins with 'CMD-SHELL'"),
    ("healthcheck: {test: ''}", "healthcheck.test (line 4): must not be empty"),
    ("healthcheck: {test: a, interval: 0s}", "interval (line 4): must be a duration from 0.1s to 3600s, not '0s'"),
    ("healthcheck: {test: a, retries: 0}", "retries (line 4): must be a whole number from 1 to 1000, not '0'"),
    ("healthcheck: {tests: a}", "healthcheck.tests (line 4): is not a known key; did you mean 'test'?"),
    ("healthcheck: {test: a}\nx-fallow: {health: {tcp: 1}}", "health (line 5): contradicts `healthcheck`; keep one"),
    ("healthcheck: {disable: true}\nx-fallow: {health: {tcp: 1}}", "contradicts `healthcheck`"),
    ("x-fallow: {health: {port: 1}}", "health (line 4): needs `http: /path` or `tcp: port`"),
    ("x-fallow: {health: {http: /, tcp: 1}}", "contradicts the other probe; keep `http` or `tcp`"),
    ("x-fallow: {health: {http: ok, port: 1}}", "health.http (line 4): the path 'ok' must begin with /"),
    ("x-fallow: {health: {http: /ok}}", "health (line 4): needs `port`: the service names no TCP port"),
    ("ports: [1, 2]\nx-fallow: {health: {http: /ok}}", "needs `port`: the service has the ports 1, 2"),
]


@pytest.mark.parametrize(("keys", "message"), HEALTH_REFUSED)
def test_compose_health_refused(keys: str, message: str) -> None:
    assert message in errors(keys)[0]


def test_compose_start_interval_is_warned_of() -> None:
    assert "start_interval (line 4): is ignored" in service("healthcheck: {test: a, start_interval: 1s}")[1][0]
