"""Stores what clusters say they have room for: the newest answers of each, and no oftener than they change."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.spoken import superseded
from fallow.decide.federation.checks import fit_room
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.cluster_frames import RoomReported
from fallow.model.rooms import Room, RoomQuestion
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5
REST_SECONDS = 0.2  # answers that come meanwhile are stored together


class Rooms:
    """`clock` gives UTC seconds; `questions` are those that a snapshot's deployments raise: others are not heard.

    `stored` is called with a cluster's id when its newest answers are stored, or were before. `opening_of` is that of
    `Spoken`: answers wait while another session opened later, until it is clear which of them the cluster has.
    """

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        clock: Callable[[], float],
        questions: Callable[[Snapshot], tuple[RoomQuestion, ...]],
        stored: Callable[[str], None] = lambda _: None,
        opening_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._questions = questions
        self._stored = stored
        self._opening_of = opening_of
        self._newest: dict[str, RoomReported] = {}
        self._filled = asyncio.Event()

    def roomed(self, cluster_id: str, frame: RoomReported) -> None:
        """Take in all answers of a cluster; of several at once the last count."""
        self._newest[cluster_id] = frame
        self._filled.set()

    def forget(self, cluster_id: str) -> None:
        """Forget what a cluster said on a session that is over, and is not stored yet."""
        self._newest.pop(cluster_id, None)

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            newest, self._newest = self._newest, {}
            keys = {question.key for question in self._questions(self._cache.snapshot())}
            for cluster_id, frame in newest.items():
                if superseded(self._opening_of(cluster_id), self._cache.get("members", cluster_id)):
                    self._newest.setdefault(cluster_id, frame)
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self._filled.set)
                    continue
                try:
                    await self._store(cluster_id, frame, keys)
                except StoreError as error:
                    _log.warning("room not stored; it is tried again", cluster=cluster_id, error=str(error))
                    self._newest.setdefault(cluster_id, frame)
                    self._filled.set()
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    self._stored(cluster_id)
            await asyncio.sleep(REST_SECONDS)

    async def _store(self, cluster_id: str, frame: RoomReported, keys: set[str]) -> None:
        """Store what a cluster says, if it is something else. Raises StoreError."""
        while True:
            room = self._room(cluster_id, frame, keys)
            if room is None:
                return
            try:
                await self._applier.commit(Step(puts=(room,)))
            except Conflict as conflict:
                _log.debug("room is written again", cluster=cluster_id, conflict=str(conflict))
            else:
                return

    def _room(self, cluster_id: str, frame: RoomReported, keys: set[str]) -> Room | None:
        """Return the record to write; None: nothing is new, or the cluster is no member."""
        snapshot = self._cache.snapshot()
        if cluster_id not in snapshot.clusters:
            return None
        answers, orders = fit_room(frame, keys, snapshot.deployments.keys())
        now, before = self._clock(), snapshot.rooms.get(cluster_id) or Room(id=cluster_id, created_at=0, updated_at=0)
        room = msgspec.structs.replace(before, answers=answers, orders=orders, summary=frame.summary)
        if room == before:
            return None
        return msgspec.structs.replace(room, created_at=before.created_at or now, updated_at=now)
