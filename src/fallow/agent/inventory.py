"""What a node's engine has of images: looked at when the engine says that something changed, and every minute."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from fallow.agent.image_notes import ImageNotes
from fallow.agent.pulling import quickly
from fallow.drivers.engine.contract import Engine, EngineError, StoredImage
from fallow.model.image_frames import ImagesReported
from fallow.model.images import NodeImage, PlatformImage
from fallow.model.references import MAX_REFERENCE

_log = structlog.get_logger("fallow.agent.inventory")

AUDIT_SECONDS = 60.0
DEBOUNCE_SECONDS = 1.0  # a pull of ten names is one change
RETRY_SECONDS = 5.0
LOOK_SECONDS = 60.0
MAX_IMAGES = 2000  # of one report
MAX_REPORT_BYTES = 6 * 1024 * 1024
MAX_NAMES = 256
FREE_STEP = 0.05  # of the disk: a smaller change is none to tell
_FULL = "its disk is full: the engine has no room even to list its images"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What there was at one moment."""

    images: tuple[NodeImage, ...] = ()
    layer_bytes: dict[str, int] = field(default_factory=dict)  # unpacked, by diff id
    disk_bytes: int = 0
    disk_free_bytes: int = 0


class Inventory:
    """Looks at an engine's images and says when they have changed. `clock` gives UTC seconds."""

    def __init__(self, engine: Engine, notes: ImageNotes, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._notes = notes
        self._clock = clock
        self._changed = asyncio.Event()
        self._reported: ImagesReported | None = None  # in this session
        self._warning = ""
        self._warned = ""  # of last, while it lasts
        self.last = Look()

    # what pulls and loads say

    def note_pulled(self, image_id: str, image: PlatformImage | None, loaded: bool) -> None:
        """Note that an image is there, through us."""
        blobs = tuple(layer.digest for layer in image.layers) if image is not None else ()
        self._notes.pulled(image_id, self._clock(), blobs, loaded)
        self._changed.set()

    def missing_bytes(self, image: PlatformImage) -> int:
        """Return the compressed size of the layers that are not known to be there."""
        there = self._notes.blobs_of(each.id for each in self.last.images)
        return sum(layer.size_bytes for layer in image.layers if layer.digest not in there)

    # looking

    async def look(self) -> Look:
        """Return all images as they are now. Raises EngineError."""
        found = await quickly(self._engine.images(), LOOK_SECONDS)
        size, free = await quickly(self._engine.disk())
        now, ids = self._clock(), [each.id for each in found]
        self._notes.keep_only(ids)
        used = [each.id for each in found if each.containers]
        self._notes.needed([*used, *(id_ for id_ in ids if not self._notes.of(id_).last_needed_at)], now)
        sizes = {layer: bytes_ for each in found for layer, bytes_ in zip(each.layers, each.layer_bytes, strict=False)}
        self.last = Look(
            images=tuple(self._node_image(each) for each in found),
            layer_bytes=sizes,
            disk_bytes=size,
            disk_free_bytes=free,
        )
        return self.last

    def _node_image(self, stored: StoredImage) -> NodeImage:
        note = self._notes.of(stored.id)
        return NodeImage(
            id=stored.id,
            references=_told(stored.references),
            digests=_told(stored.digests),
            architecture=stored.architecture[:64],
            size_bytes=stored.size_bytes,
            layers=stored.layers[:512],
            containers=stored.containers,
            loaded=note.loaded,
            pulled_at=note.pulled_at,
            last_needed_at=note.last_needed_at,
        )

    # telling

    def warn(self, text: str) -> None:
        """Tell something with the next report, once until all is well."""
        if text == self._warned:
            return
        self._warning, self._warned = text[:1024], text
        self._changed.set()

    def well(self) -> None:
        """Note that what was warned of is over."""
        self._warned = ""

    def new_session(self) -> None:
        """Tell everything once more."""
        self._reported = None
        self._changed.set()

    async def run(self, tell: Callable[[ImagesReported], Awaitable[bool]], looked: Callable[[], None]) -> None:
        """Look and tell until cancelled. `tell` says whether it could; `looked` is called after each look."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._changed.clear()
                pause = AUDIT_SECONDS
                try:
                    look = await self.look()
                    await self._notes.save()
                    await self._tell(self._news(look), tell)
                    looked()
                except EngineError as error:
                    _log.debug("images not looked at", reason=str(error))
                    pause = RETRY_SECONDS
                    if error.kind == "no-space":
                        self.warn(_FULL)
                        await self._tell(self._as_before(), tell)
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                    await asyncio.sleep(DEBOUNCE_SECONDS)
                except TimeoutError:
                    continue
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _tell(self, report: ImagesReported | None, tell: Callable[[ImagesReported], Awaitable[bool]]) -> None:
        if report is not None and await tell(report):
            self._reported = report
            self._warning = "" if report.warning == self._warning else self._warning

    def _as_before(self) -> ImagesReported | None:
        """Return what was told last with a new warning, None without one."""
        if self._reported is None or not self._warning:
            return None
        return msgspec.structs.replace(self._reported, disk_free_bytes=0, warning=self._warning)

    async def _listen(self) -> None:
        """Hear what the engine says of its images. What is missed is found by the next look."""
        while True:
            try:
                events = self._engine.image_events()
                self._changed.set()  # what happened before it was listened to
                async for _ in events:
                    self._changed.set()
            except EngineError as error:
                _log.debug("no events of images", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    def _news(self, look: Look) -> ImagesReported | None:
        """Return what to tell, None when nothing has changed but times and a little space."""
        told = _that_fit(look.images)
        report = ImagesReported(
            images=told,
            omitted=len(look.images) - len(told),
            disk_bytes=look.disk_bytes,
            disk_free_bytes=look.disk_free_bytes,
            warning=self._warning,
        )
        before = self._reported
        if before is None or report.warning or _timeless(before) != _timeless(report):
            return report
        far = abs(before.disk_free_bytes - report.disk_free_bytes) > FREE_STEP * max(1, report.disk_bytes)
        return report if far else None


def _told(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what the control plane would not take: one such name, and it would end the session."""
    return tuple(name for name in names if len(name) <= MAX_REFERENCE)[:MAX_NAMES]


def _that_fit(images: tuple[NodeImage, ...]) -> tuple[NodeImage, ...]:
    """Return as many images as go into one frame."""
    size = 0
    for number, image in enumerate(images[:MAX_IMAGES]):
        size += 400 + sum(len(text) + 5 for text in (*image.references, *image.digests, *image.layers))
        if size > MAX_REPORT_BYTES:
            return images[:number]
    return images[:MAX_IMAGES]


def _timeless(report: ImagesReported) -> object:
    """Return what has to be told when it changes; of containers only whether there are any."""
    images = tuple(
        (each.id, each.references, each.digests, each.size_bytes, bool(each.containers), each.loaded, each.pulled_at)
        for each in report.images
    )
    return images, report.omitted, report.disk_bytes
