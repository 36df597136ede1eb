"""The store's tools as the command line starts them."""

import asyncio
from pathlib import Path

import pytest

from fallow.cli.failures import Failure
from fallow.cli.launchers import BackupOptions, MigrateOptions, RestoreOptions
from fallow.store.open import open_store
from fallow.wiring.store_tools import run_store


def silent(_done: int, _total: int) -> None:
    pass


def test_backup_restore_and_migration(tmp_path: Path) -> None:
    async def make() -> None:
        await (await open_store(f"sqlite:{tmp_path / 'a.db'}")).close()

    asyncio.run(make())
    file = tmp_path / "b"
    run_store(BackupOptions(store=f"sqlite:{tmp_path / 'a.db'}", file=file))
    run_store(RestoreOptions(file=file, store=f"sqlite:{tmp_path / 'b.db'}", replace=False, progress=silent))
    copied = run_store(
        MigrateOptions(
            source=f"sqlite:{tmp_path / 'b.db'}",
            target=f"sqlite:{tmp_path / 'c.db'}",
            replace=False,
            progress=silent,
        )
    )
    assert (copied.records, (tmp_path / "c.db").exists()) == (0, True)


def test_what_cannot_be_done_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="There is no store at"):
        run_store(BackupOptions(store=f"sqlite:{tmp_path / 'a.db'}", file=tmp_path / "b"))
    with pytest.raises(Failure, match="no kind of store"):
        run_store(BackupOptions(store="consul:x", file=tmp_path / "b"))
    with pytest.raises(Failure, match="b: No such file"):
        run_store(
            RestoreOptions(file=tmp_path / "b", store=f"sqlite:{tmp_path / 'a.db'}", replace=False, progress=silent)
        )
