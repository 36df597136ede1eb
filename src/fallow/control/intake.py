"""Takes in what sessions report, all of them together: one commit for whatever arrived while the last was under way."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from fallow.decide.plan import Plan, Step
from fallow.store.applier import Applier
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5
UNSTORED_BATCHES = 16

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[T]):
    """What one member reports at once; `stored` is done when it has been taken in.

    `opening` is the store's revision at the opening of the session it came on, where that is kept; else 0.
    """

    member_id: str
    items: Sequence[T]
    stored: asyncio.Future[None]
    opening: int = 0


class Unstored:
    """The batches of one session that are on their way to the store, by their numbers.

    A member numbers its batches in order, and repeats each until it is acknowledged. One that is on its way already is
    not taken in again, or a store that is slow for a while would silence honest members too. Nor is one that arrives
    again when a newer one is stored: what it said is over.
    """

    def __init__(self) -> None:
        self._batches: dict[int, asyncio.Future[None]] = {}
        self._stored = 0  # the newest that is

    async def take_in(
        self, batch: int, submit: Callable[[], asyncio.Future[None]], acknowledge: Callable[[], None]
    ) -> None:
        """Store a batch without holding up what comes behind it, but for a member that sends too many."""
        if batch in self._batches:
            return
        if batch <= self._stored:
            acknowledge()
            return
        stored = self._batches[batch] = submit()

        def settled(future: asyncio.Future[None]) -> None:
            del self._batches[batch]
            if not future.cancelled():
                self._stored = max(self._stored, batch)
                acknowledge()

        stored.add_done_callback(settled)
        if len(self._batches) > UNSTORED_BATCHES:
            await asyncio.wait(self._batches.values(), return_when=asyncio.FIRST_COMPLETED)


class Intake(Generic[T]):
    """Gathers batches from every session and stores what follows from them; `what` names them in the log."""

    what: str

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        self._queue: asyncio.Queue[Batch[T]] = asyncio.Queue()

    def steps(self, batches: Sequence[Batch[T]]) -> list[Step]:
        """Return what is to be stored, from the newest that is known; called again after a conflict."""
        raise NotImplementedError

    def taken_in(self) -> None:
        """Do what is to be done after each round."""

    def submit(self, member_id: str, items: Sequence[T], opening: int = 0) -> asyncio.Future[None]:
        """Return a future that is done once `items` of a member are stored, or were found to say nothing new.

        It is cancelled when they cannot be taken in at all.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Batch(member_id=member_id, items=items, stored=stored, opening=opening))
        return stored

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            batches = [await self._queue.get()]
            while not self._queue.empty():
                batches.append(self._queue.get_nowait())
            try:
                await self._take_in(batches)
            except Exception:  # noqa: BLE001 - one node's words must not end the loop for all; it is logged whole
                members = sorted({batch.member_id for batch in batches})
                _log.exception(f"{self.what} not taken in", members=members)
                await self._one_by_one(batches)
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_result(None)
            self.taken_in()

    async def _one_by_one(self, batches: Sequence[Batch[T]]) -> None:
        """Take in all batches but those that fail by themselves."""
        for batch in batches:
            try:
                await self._take_in([batch])
            except Exception:  # noqa: BLE001 - as above
                batch.stored.cancel()

    async def _take_in(self, batches: Sequence[Batch[T]]) -> None:
        """Store until nothing is left that a conflict kept out."""
        while True:
            try:
                steps = self.steps(batches)
                if not steps or (await self._applier.apply(Plan(steps=steps))).dropped == 0:
                    return
            except StoreError as error:
                _log.warning(f"store refused {self.what}; they are tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
