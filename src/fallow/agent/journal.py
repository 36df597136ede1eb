"""What a node was told to run, kept for the next start of its agent, when the control plane may be out of reach."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from fallow.agent.folder import set_aside, write_private
from fallow.model.wire import Assignment

_log = structlog.get_logger("fallow.agent.journal")

FILE = "journal.json"
VERSION = 1


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """The assignments as last known, the replicas that ended for good with the reason, and the newest serial."""

    version: int = VERSION
    assignments: tuple[Assignment, ...] = ()
    failed: dict[str, str] = {}
    serial: int = 0


class JournalError(Exception):
    """The journal could not be written; the text is for a person."""


def load(folder: Path) -> Journal | None:
    """Return the journal, None when there is none. One that cannot be read is set aside, so that it is not lost."""
    path = folder / FILE
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=Journal)
        if journal.version == VERSION:
            return journal
        reason = f"it has version {journal.version}, this agent knows {VERSION}"
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    kept = set_aside(path)
    _log.error("journal cannot be read; waiting for the control plane", kept_as=str(kept), reason=reason)
    return None


class JournalWriter:
    """Writes the newest journal, off the event loop; those in between are skipped.

    `write` replaces a file so that a power cut leaves the old one or the new one. It raises OSError.
    """

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None] = write_private) -> None:
        self._path = folder / FILE
        self._write = write
        self._newest: Journal | None = None
        self._wanted = 0
        self._saved = 0
        self._lock = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None

    def put(self, journal: Journal) -> None:
        """Take in what is to be written by the next `flush`."""
        self._newest = journal
        self._wanted += 1

    async def flush(self) -> None:
        """Return once everything put so far is on the disk. Raises JournalError."""
        wanted = self._wanted
        async with self._lock:
            if self._saved >= wanted or self._newest is None:
                return
            writing, data = self._wanted, msgspec.json.encode(self._newest)
            if self._writing is not None and not self._writing.done():
                await asyncio.wait({self._writing})  # its caller was cancelled; the write itself cannot be
            self._writing = asyncio.create_task(asyncio.to_thread(self._write, self._path, data))
            try:
                await asyncio.shield(self._writing)
            except OSError as error:
                raise JournalError(f"the agent's journal {self._path} cannot be written: {error.strerror}") from error
            self._saved = writing
