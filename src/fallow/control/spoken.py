"""Which member clusters have said, since their sessions opened, all there is to say: on record for whoever decides.

Until then what is stored of a cluster may be as old as its last session: it is told neither more nor less, and nobody
counts on what it runs.
"""

import asyncio
from dataclasses import dataclass

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.refusals import Refused
from fallow.decide.federation.words import said_all
from fallow.decide.plan import Step
from fallow.model.members import Member, MemberState
from fallow.model.meta import Record
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5
STILL_SECONDS = 3.0  # a session that is heard for so long after another one opened, is the one that the cluster has


@dataclass
class _Said:
    """What is stored of what a cluster said on its session; `opening` is the store's revision at its opening.

    `later` is that of another session that opened since, and `seen_at` when that was seen, by the event loop's clock.
    """

    opening: int
    shares: bool = False
    room: bool = False
    later: int = 0
    seen_at: float = 0.0


def superseded(opening: int, member: Record | None) -> bool:
    """Say whether another session of a cluster opened after the one of `opening`; 0: it is not known which that is."""
    return isinstance(member, Member) and 0 < opening < member.opened_at_revision


class Spoken:
    """Notes openings before anything else is done for a session, and afterwards when all has been said."""

    def __init__(self, cache: Cache, applier: Applier) -> None:
        self._cache = cache
        self._applier = applier
        self._said: dict[str, _Said] = {}
        self._news: set[str] = set()
        self._woken = asyncio.Event()

    async def opening(self, cluster_id: str) -> None:
        """Write down that a session opens. Raises StoreError, and Refused when others keep changing the member."""

        def decide() -> tuple[Step | None, None]:
            member = self._cache.get("members", cluster_id)
            if not isinstance(member, Member):
                return None, None
            opened = msgspec.structs.replace(member, opened_at_revision=self._cache.revision)
            return Step(puts=(opened,)), None

        await commit_again(self._applier, decide)

    def opened(self, cluster_id: str, *, asked: bool) -> None:
        """Listen to what a cluster says from now on; one that is `asked` nothing need not speak of its room."""
        member = self._cache.get("members", cluster_id)
        if isinstance(member, Member):
            self._said[cluster_id] = _Said(member.opened_at_revision, room=not asked)

    def opening_of(self, cluster_id: str) -> int:
        """Return the store's revision at the opening of the session that is held here; 0: there is none."""
        said = self._said.get(cluster_id)
        return said.opening if said is not None else 0

    def closed(self, cluster_id: str) -> None:
        """Forget a cluster that is not heard here any more."""
        self._said.pop(cluster_id, None)

    def shares_stored(self, cluster_id: str) -> None:
        """Note that the full set of reports is stored."""
        if cluster_id in self._said:
            self._said[cluster_id].shares = True
            self.changed(cluster_id)

    def room_stored(self, cluster_id: str) -> None:
        """Note that answers are stored."""
        if cluster_id in self._said:
            self._said[cluster_id].room = True
            self.changed(cluster_id)

    def heard(self, cluster_id: str) -> None:
        """Note that a session goes on: another one that opened meanwhile had ended before, and was noticed late."""
        said = self._said.get(cluster_id)
        if said is not None and said.later and asyncio.get_running_loop().time() - said.seen_at >= STILL_SECONDS:
            said.opening, said.later = said.later, 0
            self.changed(cluster_id)

    def changed(self, member_id: str) -> None:
        """Look again at a member whose record is another now: one that was given up may be heard again."""
        if member_id in self._said:
            self._news.add(member_id)
            self._woken.set()

    async def run(self) -> None:
        """Write down who has spoken until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            news, self._news = self._news, set()
            for cluster_id in sorted(news):
                try:
                    await commit_again(self._applier, lambda: (self._step(cluster_id), None))  # noqa: B023 - awaited
                except (StoreError, Refused) as error:
                    _log.warning("not on record that a cluster has spoken; tried again", error=str(error))
                    self.changed(cluster_id)
                    await asyncio.sleep(RETRY_SECONDS)

    def _step(self, cluster_id: str) -> Step | None:
        said, member = self._said.get(cluster_id), self._cache.get("members", cluster_id)
        if said is None or not isinstance(member, Member):
            return None
        if member.opened_at_revision != said.opening:
            if member.opened_at_revision != said.later:
                said.later, said.seen_at = member.opened_at_revision, asyncio.get_running_loop().time()
            return None
        if not (said.shares and said.room) or member.state is not MemberState.READY:
            return None  # what it said counts when it is alive
        if said_all(member):
            return None
        return Step(puts=(msgspec.structs.replace(member, spoken_at_revision=self._cache.revision),))
