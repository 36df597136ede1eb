"""Fetching blobs into the cache: each one once, from one place after another, until it is whole and genuine."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from fallow.drivers.blobs import BlobCache, BlobError, CacheFull, Growing, Opened, Stored, Way

_log = structlog.get_logger("fallow.agent.blobs")

STARVED_SECONDS = 30.0  # so long a place that is alive may have nothing to send
UNREAD_SECONDS = 15.0  # after which a blob that nobody reads is left as it is
DOWN_SECONDS = 20.0  # so long one that did not answer is not asked again
BAD_SECONDS = 600.0  # and so long not for a blob of which it sent something else
ROUNDS = 2  # so often every place is tried
BEGIN_SECONDS = 0.01
MAX_FAULTS = 1000
_OF_A_PLACE = frozenset({"denied", "not-found", "rate-limited", "stalled", "unreachable", "wrong-content"})

Ways = Callable[[], Sequence[Way]]


class Fetches:
    """Blobs under way. `own_id` is this member; `steady` gives seconds that nobody sets."""

    def __init__(self, cache: BlobCache, own_id: str, *, steady: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._own_id = own_id
        self._steady = steady
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._out: dict[tuple[str, str], float] = {}  # place and digest (empty: any) -> until when it is not asked
        self._faults: dict[str, BlobError] = {}  # by digest: why the last resort did not give it
        self.fetched_bytes: dict[str, int] = {}  # by the place's id

    async def obtain(self, digest: str, size_bytes: int, ways: Ways) -> Stored | Growing:
        """Return a blob that is whole or arrives; `ways` is called if it has to be fetched. Raises BlobError."""
        while True:
            stored = await self._cache.stored(digest)
            if stored is not None:
                return stored
            growing = self._cache.growing(digest)
            if growing is not None:
                return growing
            task = self._tasks.get(digest)
            if task is None or task.done():
                task = self._tasks[digest] = asyncio.create_task(self._fetch(digest, size_bytes, ways()))
                task.add_done_callback(self._ended)
                task.set_name(digest)
            await asyncio.wait({task}, timeout=BEGIN_SECONDS)
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def fault(self, digests: Iterable[str]) -> BlobError | None:
        """Return why the last resort did not give one of these blobs; None when it did, or was not asked."""
        return next((self._faults[each] for each in digests if each in self._faults), None)

    def forget(self, digests: Iterable[str]) -> None:
        """Forget why these blobs were not to be had."""
        for each in digests:
            self._faults.pop(each, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("blob not fetched", digest=task.get_name(), reason=str(error))

    async def whole(self, digest: str, size_bytes: int, ways: Ways) -> Stored:
        """Return a blob once it is whole. Raises BlobError."""
        while True:
            found = await self.obtain(digest, size_bytes, ways)
            if isinstance(found, Stored):
                return found
            with found.read_by(self._own_id):
                while not found.whole and found.error is None:
                    await found.changed()
            if found.error is not None and not found.error.void:
                raise found.error

    async def stop(self) -> None:
        """Give up what is under way; what has arrived is there for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, digest: str, size_bytes: int, ways: Sequence[Way]) -> None:
        """Fetch one blob. Raises BlobError: nobody could give it.

        Whoever breaks off is followed by the next, from where it stopped. When what came together so is not genuine,
        nobody knows whose bytes were wrong: from then on (`alone`) each gives all of it, or nothing.
        """
        growing = await self._cache.begin(digest, size_bytes)
        givers = [""] if growing.written else []
        alone = False
        fault = BlobError("unreachable", f"nobody has {digest}")
        try:
            for way in self._in_turn(ways, digest):
                if alone and growing.written:
                    growing, givers = await self._begin_anew(growing, fault), []
                givers.append(way.id)
                try:
                    await self._take(growing, way)
                    self._cache.finish(growing)
                    self._faults.pop(digest, None)
                    return
                except BlobError as error:
                    fault = error
                    self._note(way, digest, error, givers)
                if fault.void:
                    alone = True
                    growing, givers = await self._begin_anew(growing, fault), []
                elif fault.kind in ("no-space", "timeout"):
                    break
        except OSError as error:
            fault = CacheFull(f"the blob cache cannot be written: {error.strerror}")
        finally:
            self._cache.abandon(growing, fault, keep=fault.kind != "no-space")
        raise fault

    async def _begin_anew(self, growing: Growing, fault: BlobError) -> Growing:
        """Throw away what has come, which those who have read it must do as well."""
        void = BlobError(fault.kind, str(fault), void=True)
        self._cache.abandon(growing, void)
        return await self._cache.begin(growing.digest, growing.size_bytes)

    def _in_turn(self, ways: Sequence[Way], digest: str) -> Iterator[Way]:
        for turn in range(ROUNDS):
            for way in ways:
                away = self._out.get((way.id, ""), 0.0) if not turn else 0.0  # who else is there, once all have failed?
                if self._steady() >= max(away, self._out.get((way.id, digest), 0.0)):
                    yield way

    def _note(self, way: Way, digest: str, error: BlobError, givers: list[str]) -> None:
        """Remember what a place did; the last resort is asked again all the same."""
        _log.info("blob not had from there", place=way.id, digest=digest, reason=str(error))
        if way.is_last:
            if error.kind in _OF_A_PLACE and (error.kind != "wrong-content" or givers == [way.id]):
                self._faults[digest] = error
            while len(self._faults) > MAX_FAULTS:
                del self._faults[next(iter(self._faults))]
            return
        if error.kind == "unreachable":
            self._out[way.id, ""] = self._steady() + DOWN_SECONDS
        elif error.kind == "denied":
            self._out[way.id, digest] = self._steady() + DOWN_SECONDS
        elif error.kind == "wrong-content" and givers == [way.id]:
            self._out[way.id, digest] = self._steady() + BAD_SECONDS

    async def _take(self, growing: Growing, way: Way) -> None:
        """Have a place send what is missing. Raises BlobError and OSError."""
        if growing.written == growing.size_bytes:
            return
        async with way.open(growing.digest, growing.size_bytes, growing.written) as opened:
            if self._own_id in opened.upstream:
                raise BlobError("failed", f"{way.id} fetches it from us")
            growing.upstream = opened.upstream
            try:
                await self._take_in(growing, way, opened)
            finally:
                growing.upstream = ()
        if growing.written < growing.size_bytes:
            raise BlobError("stalled", f"{way.id} broke off after {growing.written} of {growing.size_bytes} bytes")

    def _waits_for_itself(self, upstream: tuple[str, ...]) -> bool:
        """Say whether nodes that began at the same time fetch in a ring; the first of them by name has to leave."""
        ring = upstream[: upstream.index(self._own_id) + 1] if self._own_id in upstream else ()
        return bool(ring) and self._own_id == min(ring)

    async def _take_in(self, growing: Growing, way: Way, opened: Opened) -> None:
        skip, chunks = growing.written - opened.offset, aiter(opened.chunks)
        now = fed_at = read_at = self._steady()
        while growing.written < growing.size_bytes:
            try:
                async with asyncio.timeout(way.silence_seconds):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise BlobError("stalled", f"{way.id} sent nothing for {way.silence_seconds:g} s") from None
            if chunk is None:
                return
            growing.upstream = opened.upstream
            if not chunk and self._waits_for_itself(opened.upstream):
                raise BlobError("failed", f"{way.id} fetches it from us, through others")
            now = self._steady()
            fed_at = now if chunk else fed_at
            read_at = now if growing.readers else read_at
            if now - fed_at > STARVED_SECONDS:
                raise BlobError("stalled", f"{way.id} had nothing to send for {STARVED_SECONDS:g} s")
            if now - read_at > UNREAD_SECONDS:
                raise BlobError("timeout", "nobody reads it any more")
            fresh, skip = chunk[max(0, skip) :], skip - len(chunk)
            if fresh:
                self.fetched_bytes[way.id] = self.fetched_bytes.get(way.id, 0) + len(fresh)
                await growing.append(fresh)
