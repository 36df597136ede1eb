"""Many machines that join at once at two processes of one control plane, which are killed again and again.

A process is a cache, an applier and a `LeaseBook` over a shared store, used as joins use them: batches under one lock,
every commit guarded by the members' roster. A machine whose process died asks another, under its own id. Time stands
still, so nothing leaves quarantine: no address may ever be given twice.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any

from records import NOW, member

from fallow.control.commits import commit_again
from fallow.control.rosters import guarded
from fallow.decide.leases import LeaseBook, LeaseRefused, LeaseWish, release
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease, Member, Role
from fallow.model.pools import NetworkMode, Pool, ReleasedLease
from fallow.store.applier import Applier
from fallow.store.cache import Cache, decode_item
from fallow.store.contract import Batch, Check, Item, Store, StoreError, Write

BATCH = 8
SOURCE = "192.0.2.1"


def overlay(cidr: str) -> Pool:
    return Pool(id="default", created_at=NOW, updated_at=NOW, cidr=cidr, mode=NetworkMode.WIREGUARD)


class Handle:
    """The store as one process reaches it, until it dies: before or after what it does as its `fuse`-th operation."""

    shared = True

    def __init__(self, truth: Store, fuse: int, after: bool) -> None:
        self.max_operations, self.max_bytes = truth.max_operations, truth.max_bytes
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._truth = truth
        self._fuse = fuse  # below zero: for ever
        self._after = after

    async def _begin(self) -> bool:
        """Begin an operation, if alive; say whether it is the last."""
        await asyncio.sleep(0)
        if not self.dead.done():
            self._fuse -= 1
            if self._fuse != 0 or self._after:
                return self._fuse == 0
            self.dead.set_result(None)
        return await asyncio.Event().wait()

    async def _end(self, last: bool) -> None:
        if last and not self.dead.done():
            self.dead.set_result(None)
        if self.dead.done():
            await asyncio.Event().wait()

    async def get(self, key: str) -> Item | None:
        last = await self._begin()
        found = await self._truth.get(key)
        await self._end(last)
        return found

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        last = await self._begin()
        found = await self._truth.list(prefix)
        await self._end(last)
        return found

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        last = await self._begin()
        try:
            revision = await self._truth.commit(checks, writes)
        except StoreError:
            await self._end(last)
            raise
        await self._end(last)
        return revision

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        async with aclosing(self._truth.watch(prefix, after)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                last = await self._begin()
                yield batch
                await self._end(last)


class Process:
    """One process of the control plane, as far as it gives and takes leases."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.cache = Cache(handle)  # type: ignore[arg-type]
        self.applier = Applier(handle, self.cache)  # type: ignore[arg-type]
        self._lock = asyncio.Lock()
        self._waiting: deque[str] = deque()
        self._outcomes: dict[str, Lease | LeaseRefused] = {}
        self._book = LeaseBook(Snapshot(), 0.0)

    async def join(self, id_: str) -> Lease:
        """Give a machine its lease, the same when it has one. Raises LeaseRefused."""
        self._waiting.append(id_)
        async with self._lock:
            while id_ not in self._outcomes:
                await self._admit()
        outcome = self._outcomes.pop(id_)
        if isinstance(outcome, LeaseRefused):
            raise outcome
        return outcome

    async def _admit(self) -> None:
        batch = [self._waiting[position] for position in range(min(BATCH, len(self._waiting)))]

        def decide() -> tuple[Step | None, dict[str, Lease | LeaseRefused]]:
            snapshot = self.cache.snapshot()
            self._book = LeaseBook(snapshot, NOW, before=self._book)
            outcomes: dict[str, Lease | LeaseRefused] = {}
            new: list[Member] = []
            for id_ in batch:
                known = snapshot.members.get(id_)
                try:
                    outcomes[id_] = known.lease if known is not None else self._give(id_, new)
                except LeaseRefused as refused:
                    outcomes[id_] = refused
            if not new:
                return None, outcomes
            return guarded(self.cache, Step(puts=tuple(new), guards=self._book.guards), "members", NOW), outcomes

        self._outcomes |= await commit_again(self.applier, decide)
        for _ in batch:
            self._waiting.popleft()

    def _give(self, id_: str, new: list[Member]) -> Lease:
        lease = self._book.allocate(LeaseWish(role=Role.NODE, source_address=SOURCE))
        new.append(member(id_, id=id_, revision=0, lease=lease))
        return lease

    async def remove(self, id_: str) -> None:
        """Remove a member; its lease is in quarantine from then on."""

        def decide() -> tuple[Step | None, None]:
            snapshot = self.cache.snapshot()
            gone = snapshot.members.get(id_)
            if gone is None:
                return None, None
            return Step(puts=release(snapshot, gone, NOW), deletes=(gone,)), None

        await commit_again(self.applier, decide)


@dataclass
class Outcome:
    """What came of it: leases by machine, those refused, and how often a process was killed."""

    leases: dict[str, Lease] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    crashes: int = 0


class Swarm:
    """Runs `machines` joins with up to `crashes` kills, by chance of `seed`; one join in `remove_one_in` is undone."""

    def __init__(self, store: Store, *, crashes: int, seed: int, fuse: int = 24, remove_one_in: int = 0) -> None:
        self.outcome = Outcome()
        self._store = store
        self._crashes = crashes
        self._chance = Random(seed)
        self._longest = fuse
        self._remove_one_in = remove_one_in
        self._processes: list[asyncio.Future[Process]] = []

    async def run(self, machines: int, workers: int = 100) -> Outcome:
        loop = asyncio.get_running_loop()
        self._processes = [loop.create_future() for _ in range(2)]
        living = [loop.create_task(self._live(place)) for place in range(2)]
        todo = deque(f"m-{number:05}" for number in range(machines))
        working = asyncio.gather(*(self._work(todo) for _ in range(workers)))
        await asyncio.wait({working, *living}, return_when=asyncio.FIRST_COMPLETED)
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)
        await working
        return self.outcome

    async def _live(self, place: int) -> None:
        """Be one place at which a process runs, dies and is started again."""
        while True:
            mortal = self._crashes > 0
            self._crashes -= mortal
            fuse = self._chance.randint(1, self._longest) if mortal else -1
            handle = Handle(self._store, fuse, self._chance.random() < 0.5)
            process = Process(handle)
            starting = asyncio.ensure_future(process.cache.start())
            await asyncio.wait({starting, handle.dead}, return_when=asyncio.FIRST_COMPLETED)
            if not handle.dead.done():
                self._processes[place].set_result(process)
            try:
                await handle.dead
            finally:
                starting.cancel()
                await process.cache.stop()
            self.outcome.crashes += 1
            if self._processes[place].done():
                self._processes[place] = asyncio.get_running_loop().create_future()

    async def _work(self, todo: "deque[str]") -> None:
        while todo:
            id_ = todo.popleft()
            try:
                self.outcome.leases[id_] = await self._insist(lambda process, id_=id_: process.join(id_))
            except LeaseRefused:
                self.outcome.refused.append(id_)
                continue
            if self._remove_one_in and self._chance.randrange(self._remove_one_in) == 0:
                await self._insist(lambda process, id_=id_: process.remove(id_))
                self.outcome.removed.add(id_)

    async def _insist(self, call: Any) -> Any:
        """Ask a process; another when it dies, until one has answered."""
        while True:
            process = await asyncio.shield(self._processes[self._chance.randrange(2)])
            asking = asyncio.ensure_future(call(process))
            await asyncio.wait({asking, process.handle.dead}, return_when=asyncio.FIRST_COMPLETED)
            if not process.handle.dead.done():
                return asking.result()
            asking.cancel()  # whatever it says by now, nobody heard
            await asyncio.gather(asking, return_exceptions=True)


async def look_back(store: Store) -> int:
    """Go through all that was ever stored, and check that no address was given twice; return how many were given."""
    _, newest = await store.list("")
    holder: dict[str, str] = {}
    members: dict[str, Member] = {}
    resting: set[str] = set()
    if newest == 0:
        return 0
    async with aclosing(store.watch("", 0)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            records = [(change.key, decode_item(change.item) if change.item else None) for change in batch.changes
                       if change.key.startswith(("members/", "released-leases/"))]  # fmt: skip
            for key, record in records:
                if record is None:
                    gone = members.pop(key.partition("/")[2]).lease.address
                    released = [one for _, one in records if isinstance(one, ReleasedLease) and one.address == gone]
                    assert released, f"{gone} is not in quarantine"
                elif isinstance(record, ReleasedLease):
                    resting.add(record.address)
                elif isinstance(record, Member):
                    address = record.lease.address
                    assert address not in resting, f"{address} was in quarantine"
                    assert holder.setdefault(address, record.id) == record.id, f"{address} was given twice"
                    members[record.id] = record
            if batch.revision >= newest:
                break
    return len(holder)
