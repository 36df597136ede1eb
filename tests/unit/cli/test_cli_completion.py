"""Tab completion: what the shell gets, and that it stays silent."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from cli_fake_api import Asked, FakeApi, deployment, listing, member, replica, token
from typer.testing import CliRunner

from fallow.cli import completion
from fallow.client.contexts import Context, save_context
from fallow.model.mirrors import MirrorView

POOL = {
    "name": "default", "revision": 1, "created_at": 1.0, "created_by": "", "cidr": "10.86.0.0/16", "mode": "direct",
    "agent_port": 1, "host_ports": {"first": 1, "last": 2}, "host_ports_per_node": 1, "quarantine_seconds": 1.0,
    "usage": {"size": 1, "used": 0, "quarantined": 0, "free": 1},
}  # fmt: skip


def _complete(app: typer.Typer, line: str) -> list[str]:
    words = line.split(" ")
    environment = {"_FALLOW_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(app, [], prog_name="fallow", env=environment)
    assert result.exit_code == 0, result
    assert result.stderr == ""
    return result.stdout.split()


@pytest.fixture
def filled(api: FakeApi, app: typer.Typer) -> typer.Typer:
    save_context(Context(name="test", url=api.url, project="shop"))
    api.on("GET /v1/deployments", listing(deployment("web"), deployment("wiki"), deployment("web", "blog")))
    api.on("GET /v1/members", listing(member("node-1"), member("gate-1")))
    api.on("GET /v1/replicas", listing(replica("r-1")))
    api.on("GET /v1/tokens", listing(token()))
    api.on("GET /v1/pools", {"revision": 7, "items": [POOL]})
    api.on("GET /v1/registry-mirrors", listing(MirrorView(name="hub", registry="docker.io")))
    return app


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fallow node sh", ["show"]),
        ("fallow node show n", ["node-1"]),
        ("fallow deployment show w", ["web", "wiki"]),
        ("fallow deployment show blog/", ["blog/web"]),
        ("fallow deployment scale sh", ["shop/web", "shop/wiki"]),
        ("fallow deployment list --project b", ["blog"]),
        ("fallow logs r", ["r-1"]),
        ("fallow logs ", ["blog/web", "shop/web", "shop/wiki", "web", "wiki"]),
        ("fallow explain g", ["gate-1"]),
        ("fallow token revoke t", ["t-1"]),
        ("fallow token create --role o", ["operator"]),
        ("fallow pool resize d", ["default"]),
        ("fallow pool create new --mode w", ["wireguard"]),
        ("fallow registry mirror delete h", ["hub"]),
        ("fallow context use t", ["test"]),
        ("fallow --context t", ["test"]),
    ],
)
def test_names(filled: typer.Typer, line: str, expected: list[str]) -> None:
    assert _complete(filled, line) == expected


def test_the_context_on_the_line_counts(filled: typer.Typer) -> None:
    save_context(Context(name="gone", url="http://127.0.0.1:1"))
    assert _complete(filled, "fallow node show n") == []
    assert _complete(filled, "fallow --context test node show n") == ["node-1"]


@pytest.mark.parametrize("spoil", ["no context", "damaged file", "unreachable", "bad answer", "refused", "bad CA"])
def test_silence_when_something_is_wrong(api: FakeApi, app: typer.Typer, home: Path, spoil: str) -> None:
    match spoil:
        case "damaged file":
            (home / "config/fallow").mkdir(parents=True)
            (home / "config/fallow/contexts.json").write_text("{")
        case "unreachable":
            save_context(Context(name="x", url="http://127.0.0.1:1"))
        case "bad answer":
            api.on("GET /v1/members", "hello")
            save_context(Context(name="x", url=api.url))
        case "refused":
            api.refuse("GET /v1/members", 403, "No")
            save_context(Context(name="x", url=api.url))
        case "bad CA":
            save_context(Context(name="x", url="https://localhost:1", ca_pem="hello"))
    assert _complete(app, "fallow node show ") == []


def test_a_slow_control_plane_is_not_waited_for(
    api: FakeApi, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()

    def slow(_: Asked) -> Iterator[bytes]:
        yield b"{"
        never.wait(20)

    api.on("GET /v1/members", slow)
    save_context(Context(name="x", url=api.url))
    monkeypatch.setattr(completion, "PATIENCE_SECONDS", 0.05)
    assert _complete(app, "fallow node show ") == []
    never.set()


def test_the_shell_script(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # before the option is made
    ran = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="fallow")
    assert ran.exit_code == 0, ran
    assert "_FALLOW_COMPLETE=complete_bash" in ran.stdout
