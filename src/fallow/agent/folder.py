"""The data folder of an agent: private, written whole or not at all, used by one process at a time."""

import fcntl
import os
from pathlib import Path
from typing import IO

from fallow.drivers.folders import FolderError, make_private

__all__ = ["FolderError", "lock", "prepare", "set_aside", "sync_folder", "write_private"]


OURS = ("identity.json", "key.pem", "journal.json")


def prepare(folder: Path) -> None:
    """Make the folder, open to its owner alone. Raises FolderError."""
    make_private(folder, OURS)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file so that after a power cut it is either the old or the new one; mode 0600. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a file out of the way, never over another, and return its new name. Raises OSError."""
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.replace(kept)
    return kept


def lock(folder: Path) -> IO[bytes]:
    """Claim the folder until the returned file is closed. Raises FolderError when another agent uses it."""
    prepare(folder)
    try:
        file = os.fdopen(os.open(folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    except OSError as error:
        raise FolderError(f"the data folder {folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise FolderError(f"another agent already uses {folder}; give this one a folder of its own") from error
    return file
