"""`fallow store`: what is asked of the launcher, and what is said."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fallow.cli.app import build_cli
from fallow.cli.launchers import BackupOptions, Launchers, MigrateOptions, RestoreOptions, StoreCopied, StoreTask


class Tool:
    """Notes what it was asked and has copied three records."""

    def __init__(self) -> None:
        self.asked: list[StoreTask] = []

    def __call__(self, task: StoreTask) -> StoreCopied:
        self.asked.append(task)
        return StoreCopied(records=3, revision=8)


def _none(_: object) -> int:
    return 0


@pytest.fixture
def tool() -> Tool:
    return Tool()


@pytest.fixture
def app(tool: Tool) -> typer.Typer:
    return build_cli(Launchers(server=_none, join=_none, gateway=_none, up=_none, store=tool))


def test_a_backup(tool: Tool, app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["store", "backup", "--store", "sqlite:/a", "file"])
    assert (result.exit_code, tool.asked) == (0, [BackupOptions(store="sqlite:/a", file=Path("file"))])
    assert result.stdout.startswith("3 records of revision 8 in file")


@pytest.mark.parametrize("replace", [True, False])
def test_a_restore_and_a_migration(tool: Tool, app: typer.Typer, replace: bool) -> None:
    more = ["--replace"] if replace else []
    for command in (
        ["store", "restore", "file", "--store", "etcd://h"],
        ["store", "migrate", "--from", "sqlite:/a", "--to", "etcd://h"],
    ):
        assert CliRunner().invoke(app, [*command, *more]).exit_code == 0
    restored, migrated = tool.asked
    assert isinstance(restored, RestoreOptions)
    assert (restored.file, restored.store, restored.replace) == (Path("file"), "etcd://h", replace)
    assert isinstance(migrated, MigrateOptions)
    assert (migrated.source, migrated.target, migrated.replace) == ("sqlite:/a", "etcd://h", replace)


def test_as_json(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["store", "backup", "--store", "sqlite:/a", "file", "--json"])
    told = json.loads(result.stdout)
    assert (told["records"], told["revision"]) == (3, 8)


def test_a_store_must_be_named(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["store", "backup", "file"])
    assert result.exit_code == 2
    assert "--store" in result.stderr
