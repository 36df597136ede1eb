"""What an agent remembers of images that no engine does: when they came through us, were needed, and from where."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from fallow.agent.folder import set_aside, write_private

_log = structlog.get_logger("fallow.agent.image_notes")

FILE = "images.json"
VERSION = 1
STALE_SECONDS = 600.0  # so old the written time of a use may be


class ImageNote(msgspec.Struct, frozen=True, kw_only=True):
    """One image. `blobs` are its layers as registries have them: what is compressed differently has another digest."""

    pulled_at: float = 0.0
    last_needed_at: float = 0.0
    loaded: bool = False
    blobs: tuple[str, ...] = ()


class _Notebook(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    images: dict[str, ImageNote] = {}


class ImageNotes:
    """Notes by image id, in a file of the agent's folder. A use is written at most every STALE_SECONDS.

    A notebook that cannot be read is set aside: its images then count as first seen now, so none goes too early.
    """

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None] = write_private) -> None:
        self._path = folder / FILE
        self._write = write
        self._notes: dict[str, ImageNote] = {}
        self._written: dict[str, ImageNote] = {}

    def load(self) -> None:
        """Read what an earlier agent has written."""
        try:
            notebook = msgspec.json.decode(self._path.read_bytes(), type=_Notebook)
            if notebook.version != VERSION:
                raise ValueError(f"it has version {notebook.version}, this agent knows {VERSION}")
            self._notes, self._written = dict(notebook.images), dict(notebook.images)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, ValueError) as error:
            kept = set_aside(self._path)
            _log.error("the notes on images cannot be read", kept_as=str(kept), reason=str(error))

    def of(self, image_id: str) -> ImageNote:
        """Return what is known of an image."""
        return self._notes.get(image_id, ImageNote())

    def pulled(self, image_id: str, now: float, blobs: tuple[str, ...], loaded: bool) -> None:
        """Note that an image came through us, or was asked for and is there."""
        before = self.of(image_id)
        self._notes[image_id] = ImageNote(
            pulled_at=before.pulled_at or now,
            last_needed_at=now,
            # What a registry has given once, it can give again.
            loaded=loaded and (before.loaded or not before.pulled_at),
            blobs=blobs or before.blobs,
        )

    def needed(self, image_ids: Iterable[str], now: float) -> None:
        """Note that images have containers, or were seen for the first time."""
        for id_ in image_ids:
            self._notes[id_] = msgspec.structs.replace(self.of(id_), last_needed_at=now)

    def keep_only(self, image_ids: Iterable[str]) -> None:
        """Forget images that are gone."""
        kept = set(image_ids)
        self._notes = {id_: note for id_, note in self._notes.items() if id_ in kept}

    def blobs_of(self, image_ids: Iterable[str]) -> set[str]:
        """Return the layers, as registries have them, that images are known to have brought."""
        return {blob for id_ in image_ids for blob in self.of(id_).blobs}

    async def save(self) -> None:
        """Write what is worth it. A full disk is logged, and tried again with the next call."""
        if not self._changed():
            return
        notes = dict(self._notes)
        data = msgspec.json.encode(_Notebook(images=notes))
        try:
            await asyncio.to_thread(self._write, self._path, data)
            self._written = notes
        except OSError as error:
            _log.error("the notes on images are not saved", reason=error.strerror)

    def _changed(self) -> bool:
        if set(self._notes) != set(self._written):
            return True
        for id_, note in self._notes.items():
            before = self._written[id_]
            if note.last_needed_at - before.last_needed_at > STALE_SECONDS:
                return True
            if msgspec.structs.replace(note, last_needed_at=before.last_needed_at) != before:
                return True
        return False
