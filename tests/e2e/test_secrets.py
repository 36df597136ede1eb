"""Secrets on the whole real path: made, used, guessed and refused - and then looked for wherever they must not be."""

import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import images, parts
from testbed.cluster import FALLOW, Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

COMPOSE = "services: {web: {image: %s, environment: {PASSWORD: %s}, expose: [8080]}}"
DEBUG = ("--log-level", "debug")


class Used(Cluster):
    """A cluster with one node, and every secret that was made in it."""

    join_token = ""
    guess = ""
    wrong_join = ""
    password = ""
    revoked = ""


def secret_of(token: str) -> str:
    return token.split(".")[2]


@pytest.fixture(scope="module")
def used() -> Iterator[Used]:
    """Go the whole path once: join, deploy, be refused."""
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl")
    with Fabric() as fabric:
        registry = Registry(fabric)
        cluster = Used(fabric, insecure_registries=(registry.address,), port=free_port(17543), server_options=DEBUG)
        try:
            cluster.power_on("s1")
            cluster.start_server()
            cluster.boot("s1")
            walk(cluster, images.push(registry.address, "shop:1", images.shop("1")))
            yield cluster
        finally:
            cluster.close()


def walk(cluster: Used, image: str) -> None:
    cluster.join_token = cluster.token("node")
    cluster.join("s1", "--name", "s1", *DEBUG, token=cluster.join_token)
    cluster.start_gateway("gw1", free_port(18180), cluster.token("gateway"))
    cluster.wait_ready("s1", "gw1")
    cluster.password = f"pw-{secrets.token_hex(12)}"
    file = cluster.fabric.folder / "compose.yaml"
    file.write_text(COMPOSE % (image, cluster.password))
    cluster.fallow("deploy", str(file), "--timeout", "60s")
    cluster.guess = f"fallow-api.{cluster.join_token.split('.')[1]}.{secrets.token_urlsafe(24)}"
    cluster.wrong_join = cluster.join_token.replace(secret_of(cluster.join_token), secrets.token_urlsafe(24))
    for credential in (cluster.guess, cluster.wrong_join, cluster.join_token):
        refused = ask(cluster, "/v1/members", credential)
        assert "401" in refused
        assert secret_of(credential) not in refused
    for token in (cluster.wrong_join, cluster.join_token):  # guessed, and used already
        with pytest.raises(TestbedError) as caught:
            cluster.fallow("join", cluster.url, "--data", str(cluster.fabric.folder / "no"), "--name",
                           "thief", env={"FALLOW_JOIN_TOKEN": token})  # fmt: skip
        assert secret_of(token) not in str(caught.value)


def ask(cluster: Used, path: str, token: str) -> str:
    """Return status and body of a request, whatever they are."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(cluster.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.headers} {error.read().decode()}"


def credentials(cluster: Used) -> dict[str, str]:
    """Return every secret that nothing but its holder should ever show: what it is -> itself."""
    admin = (cluster.fabric.folder / "config/fallow/contexts.json").read_text()
    start = admin.index("fallow-api.")
    return {
        "admin token": secret_of(admin[start : admin.index('"', start)]),
        "join token": secret_of(cluster.join_token),
        "guessed API token": secret_of(cluster.guess),
        "guessed join token": secret_of(cluster.wrong_join),
    }


def test_no_log_tells_a_secret(used: Used) -> None:
    logs = {path: path.read_text(errors="replace") for path in used.fabric.folder.rglob("*.log")}
    names = {path.name for path in logs}
    assert {"server.log", "agent.log", "gateway.log"} <= names
    assert any("debug" in text for path, text in logs.items() if path.name == "server.log")
    for path, text in logs.items():
        for what, secret in (credentials(used) | {"environment": used.password}).items():
            assert secret not in text, f"{what} in {path}"
        assert "PRIVATE KEY" not in text, path


def test_no_event_metric_list_or_refusal_tells_a_secret(used: Used) -> None:
    told = {
        "events": used.fallow("events", "--json"),
        "tokens": used.fallow("token", "list", "--json"),
        "members": used.fallow("node", "list", "--role", "all", "--json"),
        "node": used.fallow("node", "show", "s1", "--json"),
        "explain": used.fallow("explain", "default/web", "--json"),
        "metrics": ask(used, "/metrics", ""),
        "unknown path": ask(used, f"/v1/{used.guess}", used.guess),
        "description": ask(used, "/docs/openapi.json", ""),
    }
    for where, text in told.items():
        for what, secret in credentials(used).items():
            assert where == "unknown path" or secret not in text, f"{what} in {where}"
        assert used.password not in text, where
        assert "PRIVATE KEY" not in text, where
    assert secret_of(used.guess) not in told["unknown path"]


def test_no_command_line_shows_a_secret(used: Used) -> None:
    secrets_ = credentials(used) | {"environment": used.password}
    seen = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        seen += FALLOW in line
        for what, secret in secrets_.items():
            assert secret not in line, f"{what} in {line[:200]}"
    assert seen >= 3


def test_what_is_on_disk_is_private_and_only_where_it_must_be(used: Used) -> None:
    folder = used.fabric.folder
    data = {"server": folder / "server", "agent": used.nodes["s1"].folder / "agent", "gateway": folder / "gw1"}
    keys = {"ca.key", "server.pem", "key.pem", "certificate.pem"}
    hold_environment = {"fallow.db", "fallow.db-wal", "journal.json"}
    wanted = {name.encode(): what for what, name in credentials(used).items()}
    for where in data.values():
        assert where.stat().st_mode & 0o077 == 0, where
        for path in where.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            # The test's own log, and what HAProxy is told: no secret, in a closed folder.
            public = path.name in ("ca.crt", "gateway.log") or "haproxy" in path.parts
            assert public or path.stat().st_mode & 0o077 == 0, (path, oct(path.stat().st_mode))
            content = path.read_bytes() if path.is_file() else b""
            for secret, what in wanted.items():
                assert secret not in content, f"{what} in {path}"
            assert used.password.encode() not in content or path.name in hold_environment, path
            assert b"PRIVATE KEY" not in content or path.name in keys, path
    assert any(used.password.encode() in path.read_bytes() for path in data["server"].glob("fallow.db*")), (
        "looked past it"
    )


def test_the_database_opened_to_others_is_closed_at_the_next_start(used: Used) -> None:
    data = used.fabric.folder / "server"
    used.kill_server()
    data.chmod(0o755)
    for path in data.glob("fallow.db*"):
        path.chmod(0o644)
    used.start_server()
    assert data.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in data.glob("fallow.db*"))
    assert os.stat(data / "ca/ca.key").st_mode & 0o777 == 0o600
