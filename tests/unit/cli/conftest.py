"""A command line of its own for every test: no context of the user, a fake control plane."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cli_fake_api
import pytest
import typer
from typer.testing import CliRunner

from fallow.cli.app import build_cli
from fallow.cli.launchers import Launchers
from fallow.client.contexts import Context, save_context


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let nothing of the developer's own environment in, and nothing out."""
    for name in ("URL", "TOKEN", "CA_FILE", "CONTEXT", "PROJECT", "DEBUG", "JOIN_TOKEN"):
        monkeypatch.delenv(f"FALLOW_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def api() -> Iterator[cli_fake_api.FakeApi]:
    yield from cli_fake_api.serve()


@pytest.fixture
def launched() -> list[object]:
    """Return the options that launchers were given."""
    return []


@pytest.fixture
def app(launched: list[object]) -> typer.Typer:
    def launch(options: object) -> int:
        launched.append(options)
        return 0

    return build_cli(Launchers(server=launch, join=launch, lend=launch, gateway=launch, up=launch, store=launch))


class Ran:
    """What one command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Fallow = Callable[..., Ran]


@pytest.fixture
def alone(app: typer.Typer) -> Fallow:
    """Run a command without any context."""

    def run(*arguments: str, stdin: str | None = None) -> Ran:
        result = CliRunner().invoke(app, list(arguments), input=stdin, prog_name="fallow")
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def fallow(api: cli_fake_api.FakeApi, alone: Fallow) -> Fallow:
    """Run a command whose context is the fake control plane."""
    save_context(Context(name="test", url=api.url, token=cli_fake_api.TOKEN))
    return alone
