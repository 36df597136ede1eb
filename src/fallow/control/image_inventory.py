"""Keeps what every node says it has: stored when it has changed, and not more often than it must be."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.ids import new_id
from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.model.image_frames import ImagesReported
from fallow.model.images import NodeImage, NodeImages
from fallow.model.members import Member
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.control")

CHANGED_SECONDS = 2.0  # between two writes of one node whose images have changed
IDLE_SECONDS = 600.0  # between two writes when only use, times or free space have
LOOK_SECONDS = 0.5


class ImageInventory:
    """Holds the newest word of every node until it is due. `clock` gives UTC seconds, `steady` some that nobody sets.

    What is not stored yet is lost with this process: a node tells everything again in its next session.
    """

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._steady = steady
        self._waiting: dict[str, ImagesReported] = {}
        self._stored_at: dict[str, float] = {}
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Return of how many nodes there is something to be stored."""
        return len(self._waiting)

    def heard(self, member_id: str, frame: ImagesReported) -> None:
        """Note what a node has now."""
        self._waiting[member_id] = frame
        self._news.set()

    async def run(self) -> None:
        """Store what is due until cancelled."""
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            try:
                await self._store_due()
            except StoreError as error:
                _log.warning("images of nodes not stored; it is tried again", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _store_due(self) -> None:
        now, steps, due = self._steady(), [], {}
        for member_id, frame in list(self._waiting.items()):
            before = self._cache.get("node-images", member_id)
            old = before if isinstance(before, NodeImages) else None
            if self._cache.get("members", member_id) is None or (old is not None and _same(old, frame)):
                del self._waiting[member_id]
                continue
            hurried = old is None or bool(frame.warning) or _what(old.images) != _what(frame.images)
            pause = CHANGED_SECONDS if hurried else IDLE_SECONDS
            if now - self._stored_at.get(member_id, -IDLE_SECONDS) >= pause:
                due[member_id] = frame
                steps.append(self._step(member_id, old, frame))
        if not steps:
            return
        await self._applier.apply(Plan(steps=steps))
        for member_id, frame in due.items():
            self._stored_at[member_id] = now
            stored = self._cache.get("node-images", member_id)
            if self._waiting.get(member_id) is frame and isinstance(stored, NodeImages) and _same(stored, frame):
                del self._waiting[member_id]
        if len(self._stored_at) > 2 * len(self._cache.records("members")) + 100:
            self._stored_at = {id_: at for id_, at in self._stored_at.items() if self._cache.get("members", id_)}

    def _step(self, member_id: str, old: NodeImages | None, frame: ImagesReported) -> Step:
        """Store what a node has; what it had to do by itself is an event."""
        record = self._record(member_id, old, frame)
        member = self._cache.get("members", member_id)
        if not frame.warning or (old is not None and old.warning == frame.warning) or not isinstance(member, Member):
            return Step(puts=(record,))
        told = event(
            new_id(), record.updated_at, f"node:{member_id}", "member", member_id, member.name, "NodeDiskFull",
            f"{member.name}: {frame.warning}", "warning",
        )  # fmt: skip
        return Step(puts=(record, told))

    def _record(self, member_id: str, old: NodeImages | None, frame: ImagesReported) -> NodeImages:
        now = self._clock()
        base = old or NodeImages(id=member_id, created_at=now, updated_at=now)
        return msgspec.structs.replace(
            base,
            updated_at=now,
            images=frame.images,
            omitted=frame.omitted,
            disk_bytes=frame.disk_bytes,
            disk_free_bytes=frame.disk_free_bytes,
            warning=frame.warning or base.warning,
            seen_at=now,
        )


def _what(images: tuple[NodeImage, ...]) -> list[tuple[object, ...]]:
    """Return what there is, without how it is used."""
    return sorted((each.id, each.references, each.digests, each.loaded) for each in images)


def _same(stored: NodeImages, frame: ImagesReported) -> bool:
    """Say whether a node tells nothing new; how much space is free changes all the time, and is in its heartbeats."""
    if frame.warning and frame.warning != stored.warning:
        return False
    return (stored.images, stored.omitted, stored.disk_bytes) == (frame.images, frame.omitted, frame.disk_bytes)
