"""A copy of an SQLite file beside it, whole or not at all, while it may be in use."""

import os
import sqlite3
from pathlib import Path

from fallow.store.contract import StoreError


def copy_beside(path: Path, version: int) -> Path:
    """Copy the database to `NAME.version-N` in its folder, for its owner alone, and return that path.

    One of an earlier attempt is replaced: it was made of the same data. Raises StoreError.
    """
    target = path.with_name(f"{path.name}.version-{version}")
    unfinished = path.with_name(f"{target.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        source, copy = sqlite3.connect(path), sqlite3.connect(unfinished)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        finally:
            copy.close()
            source.close()
        _sync(unfinished, os.O_RDONLY)
        unfinished.replace(target)
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"cannot keep a copy of {path} before the upgrade: {error}; make room in {path.parent}, then start again"
        ) from error
    return target


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
