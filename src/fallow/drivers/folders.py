"""Folders that only their owner may enter: the data of a control plane, a node or a gateway; and files in them."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path


class FolderError(Exception):
    """The data folder cannot be used; the text is for a person."""


def make_private(folder: Path, ours: Sequence[str]) -> None:
    """Make `folder` for its owner alone; one that exists and that others may enter is closed to them.

    It is refused instead where that would take away what others use: a folder like /tmp, and one with subfolders in
    which none of the files `ours` shows that it is a data folder already. Raises FolderError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o077 == 0:
            return
        with os.scandir(folder) as entries:
            found = {entry.name: entry.is_dir() for entry in entries}
        if mode & stat.S_ISVTX or (any(found.values()) and not found.keys() & set(ours)):
            raise FolderError(
                f"{folder} is open to other users and holds folders of others; "
                f"give the data a folder of its own, or close this one: chmod 700 {folder}"
            )
        folder.chmod(0o700)
    except OSError as error:
        raise FolderError(f"the data folder {folder} cannot be made private: {error.strerror}") from error


def write_whole(path: Path, content: bytes, durable: bool = False) -> None:
    """Replace a file in one step; `durable` waits until it is on the disk. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as out:
        out.write(content)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    fresh.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
