"""The one part that commits what decisions want, as far as it still holds."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.kinds import KIND_OF, key_of
from fallow.model.meta import Reason, Record
from fallow.store.cache import Cache, decode_item
from fallow.store.contract import (
    Check,
    Conflict,
    Delete,
    Fenced,
    Item,
    OutcomeUnknown,
    Put,
    Store,
    StoreError,
    TooLarge,
    Write,
)
from fallow.store.trial import Trial

# A commit takes no more than this, and than the store takes, but for a single step that is larger by itself.
BATCH_STEPS = 1024
BATCH_BYTES = 1024 * 1024

# Written to learn of the commits before it; no record.
BARRIER_KEY = "meta/barrier"

_log = structlog.get_logger("fallow.store")
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """How many steps of a plan were committed and dropped, and the revision of the last commit (0: none)."""

    committed: int
    dropped: int
    revision: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A step as the store takes it; `expects` is the revision every key it touches must have."""

    step: Step
    expects: dict[str, int]
    writes: tuple[Write, ...]
    size: int


class Applier:
    """Commits steps and waits until the cache has seen them, so that the next decision knows of them.

    `check` says why a step no longer fits the newest snapshot, None when it does; it is asked about batches in which
    it `concerns` a step. Commits of plans take turns, so that no two of them use the same room; single steps do not
    wait for each other. With a `fence` nothing is committed any more once that check of a key fails: every commit then
    raises Fenced. `witness` is given every single step and the records it replaces or deletes, by key, and returns the
    step to commit instead: with what is to be recorded.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        check: Callable[[Snapshot, Step], Reason | None] | None = None,
        concerns: Callable[[Step], bool] = lambda _: True,
        fence: Check | None = None,
        witness: Callable[[Step, Mapping[str, Record]], Step] | None = None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._check = check
        self._concerns = concerns
        self._fence = fence
        self._max_operations = store.max_operations - (fence is not None)
        self._witness = witness
        self._turn = asyncio.Lock()
        self._unknown, self._settled = 0, 0  # outcomes that were not known, and how many of them are by now
        self._settling = asyncio.Lock()
        self._looks, self._looked = 0, 0  # how often it was looked what others have committed: begun, and the last done
        self._looking = asyncio.Lock()

    async def commit(self, step: Step) -> int:
        """Commit one step and return its revision.

        Raises Conflict; or StoreError for a step that is too large, or a record that could not be read again. Then
        nothing was written. Raises OutcomeUnknown when the store went away; what is committed next then raises a
        Conflict without keys, since it was decided without knowing the outcome.
        """
        if self._witness is not None:
            step = self._witness(step, self._before(step))
        encoded = _encode(step)
        self._refuse_too_large(encoded)
        if await self._was_in_doubt():
            raise Conflict(())
        return await self._commit([encoded])

    async def apply(self, plan: Plan) -> Applied:
        """Commit every step that still holds, in order, many in one commit; drop those that do not.

        The outcome is that of committing each step by itself; a step that is too large or has a record that could not
        be read again is dropped, and logged, since it can only be a mistake of ours. Raises StoreError when the store
        fails; what was committed until then stays. All of the first plan after an OutcomeUnknown is dropped: it was
        decided without knowing the outcome.
        """
        if await self._was_in_doubt():
            return Applied(committed=0, dropped=len(plan.steps), revision=0)
        waiting = deque(self._committable(plan.steps))
        known: dict[str, int] = {}  # revisions that our own commits have given to keys
        committed, revision = 0, 0
        while waiting:
            batch = _take(waiting, known, self._max_operations, min(BATCH_BYTES, self._store.max_bytes))
            async with self._turn:
                done, at = await self._settle(batch)
            if done:
                committed, revision = committed + len(done), at
            for encoded in done:
                for write in encoded.writes:
                    known[write.key] = at if isinstance(write, Put) else 0
        return Applied(committed=committed, dropped=len(plan.steps) - committed, revision=revision)

    async def catch_up(self) -> bool:
        """Wait until the cache has seen all that others have committed by now; say whether it had not yet.

        So it does for what was committed here with an outcome that nobody knew. Whoever asks while a look is under way
        shares the next one with all that do. Raises StoreError.
        """
        was_in_doubt = await self._was_in_doubt()
        if not self._store.shared:
            return was_in_doubt
        seen, needed = self._cache.revision, self._looks + 1
        async with self._looking:
            if self._looked < needed:
                self._looks += 1
                look = self._looks
                await self._cache.wait(await self._store.commit((), [Put(BARRIER_KEY, b"")]))
                self._looked = look
        return was_in_doubt or self._cache.revision > seen + 1

    def _before(self, step: Step) -> dict[str, Record]:
        found = ((key_of(record), self._cached(record)) for record in (*step.puts, *step.deletes))
        return {key: record for key, record in found if record is not None}

    def _cached(self, record: Record) -> Record | None:
        return self._cache.get(KIND_OF[type(record)], record.id)

    async def _settle(self, batch: Sequence[_Encoded]) -> tuple[Sequence[_Encoded], int]:
        """Commit what holds of a batch; return that and its revision."""
        while batch := self._fitting(batch):
            try:
                return batch, await self._commit(batch)
            except Conflict as conflict:
                keys = set(conflict.keys)
                batch = [encoded for encoded in batch if keys.isdisjoint(encoded.expects)]
        return [], 0

    def _fitting(self, batch: Sequence[_Encoded]) -> Sequence[_Encoded]:
        if self._check is None or not any(self._concerns(encoded.step) for encoded in batch):
            return batch
        trial = Trial(self._cache.snapshot())
        fitting = []
        for encoded in batch:
            if self._check(trial.snapshot, encoded.step) is None:
                trial.accept(encoded.step)
                fitting.append(encoded)
        return fitting

    async def _commit(self, batch: Sequence[_Encoded]) -> int:
        expects = {key: revision for encoded in batch for key, revision in encoded.expects.items()}
        writes = [write for encoded in batch for write in encoded.writes]
        checks = [Check(key, at) for key, at in expects.items()]
        try:
            revision = await self._store.commit([self._fence, *checks] if self._fence else checks, writes)
        except Conflict as conflict:
            if self._fence is not None and self._fence.key in conflict.keys:
                raise Fenced(f"{self._fence.key} is another's now") from conflict
            await self._see(conflict.keys)
            raise
        except OutcomeUnknown:
            self._unknown += 1
            raise
        # No watch tells of a commit that deletes only what is not there.
        if any(isinstance(write, Put) or expects[write.key] for write in writes):
            await self._cache.wait(revision)
        return revision

    async def _was_in_doubt(self) -> bool:
        """Say whether an outcome was not known; if so, wait until the cache shows what became of it.

        Raises StoreError while the store is still away.
        """
        if self._settled == self._unknown:
            return False
        async with self._settling:
            unknown = self._unknown
            if self._settled < unknown:
                await self._cache.wait(await self._store.commit((), [Put(BARRIER_KEY, b"")]))
                self._settled = unknown
        return True

    def _committable(self, steps: Sequence[Step]) -> Iterator[_Encoded]:
        for step in steps:
            try:
                encoded = _encode(step)
                self._refuse_too_large(encoded)
                yield encoded
            except StoreError as error:
                _log.error("a step is dropped", reason=str(error))

    def _refuse_too_large(self, encoded: _Encoded) -> None:
        operations = max(len(encoded.expects), len(encoded.writes))
        if operations > self._max_operations or encoded.size > self._store.max_bytes:
            raise TooLarge(
                f"{operations} records of {encoded.size} bytes belong together, and the store takes "
                f"{self._max_operations} of {self._store.max_bytes} bytes in one commit; nothing was written"
            )

    async def _see(self, keys: Sequence[str]) -> None:
        """Wait until the cache has seen what we collided with, or whoever decides again would collide again."""
        items = await asyncio.gather(*(self._store.get(key) for key in keys))
        await self._cache.wait(max((item.revision for item in items if item is not None), default=0))


def _encode(step: Step) -> _Encoded:
    """Return the step as the store takes it. Raises StoreError for a record that could not be read again.

    Stored all the same, such a record would keep every reader of the store from starting.
    """
    puts = [Put(key_of(record), _encoder.encode(record)) for record in step.puts]
    for put in puts:
        decode_item(Item(put.key, put.value, 0, 0))
    deletes = [Delete(key_of(record)) for record in step.deletes]
    expects = {key_of(record): record.revision for record in (*step.guards, *step.puts, *step.deletes)}
    return _Encoded(step, expects, (*puts, *deletes), sum(len(put.value) + len(put.key) for put in puts))


def _take(waiting: deque[_Encoded], known: dict[str, int], operations: int, size: int) -> list[_Encoded]:
    """Take from the front the steps that one commit may hold, leaving out those our own commits have made stale.

    It holds at most `operations` checks, as many writes, and `size` bytes, but for a single step that is larger.

    It ends before a step that touches what an earlier one writes, or that expects of a key what an earlier one does
    not: whether that one still holds is known only after the commit.
    """
    batch: list[_Encoded] = []
    expects: dict[str, int] = {}
    written: set[str] = set()
    while waiting and len(batch) < BATCH_STEPS:
        head = waiting[0]
        if any(known.get(key, revision) != revision for key, revision in head.expects.items()):
            waiting.popleft()
            continue
        overlaps = any(key in written or expects.get(key, at) != at for key, at in head.expects.items())
        fits = (
            head.size <= size
            and len(written) + len(head.writes) <= operations
            and len(expects) + sum(key not in expects for key in head.expects) <= operations
        )
        if batch and (overlaps or not fits):
            break
        batch.append(waiting.popleft())
        expects.update(head.expects)
        written.update(write.key for write in head.writes)
        size -= head.size
    return batch
