"""A command line of its own for every test: no context of the user, a fake control plane."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cli_fake_api
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from fallow.cli.app import build_cli
from fallow.cli.launchers import Launchers
from fallow.cli.session import Session, connect
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
def launchers(launched: list[object]) -> Launchers:
    def launch(options: object) -> int:
        launched.append(options)
        return 0

    return Launchers(server=launch, join=launch, lend=launch, gateway=launch, up=launch, store=launch)


@pytest.fixture
def app(launchers: Launchers) -> typer.Typer:
    return build_cli(launchers)


def _none(_: object) -> int:
    return 0


@cache
def all_commands() -> Any:
    """Return the commands as Typer makes them anew whenever it is called: for a process once, for a test too often."""
    return get_command(build_cli(Launchers(server=_none, join=_none, gateway=_none, up=_none, store=_none)))


class Ran:
    """What one command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Fallow = Callable[..., Ran]


@pytest.fixture
def alone(launchers: Launchers) -> Fallow:
    """Run a command without any context."""

    def run(*arguments: str, stdin: str | None = None) -> Ran:
        session = Session(launchers=launchers, connect=connect)
        with CliRunner().isolation(input=stdin) as (out, err, _):
            with pytest.raises(SystemExit) as ended:
                all_commands().main(list(arguments), prog_name="fallow", obj=session)
            sys.stdout.flush()
            sys.stderr.flush()
            return Ran(ended.value.code or 0, _text(out), _text(err))

    return run


def _text(stream: BytesIO) -> str:
    return stream.getvalue().decode().replace("\r\n", "\n")


@pytest.fixture
def fallow(api: cli_fake_api.FakeApi, alone: Fallow) -> Fallow:
    """Run a command whose context is the fake control plane."""
    save_context(Context(name="test", url=api.url, token=cli_fake_api.TOKEN))
    return alone
