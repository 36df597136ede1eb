"""Following etcd through lost connections: every commit once and in order, however often the stream breaks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from itertools import groupby
from typing import Any

import grpc
import structlog
from aetcd import rpc

from fallow.store.contract import Batch, Change, Compacted, Item, StoreError
from fallow.store.etcd_members import MAX_PAUSE_SECONDS, MAX_TRY_SECONDS, Members, told

_log = structlog.get_logger("fallow.store")

_DENIED = "permission denied"

# From etcd's key and value to an item, its key as the store's callers know it.
ToItem = Callable[[Any], Item]


class _Lost(Exception):  # noqa: N818 - it is no error of anybody's: the watch goes on
    """The stream broke; the text says why."""


async def follow(members: Members, begin: bytes, after: int, to_item: ToItem) -> AsyncIterator[Batch]:
    """Yield all commits after `after` to keys that begin with `begin`, as `Store.watch` promises."""
    members.require_open()
    stream = _Stream(members, begin, after, to_item)
    refused = False
    pause = 0.0
    while members.is_open():
        member = members.current
        try:
            async with aclosing(stream.read()) as batches:
                async for batch in batches:
                    refused, pause = False, 0.0
                    yield batch
        except _Lost as lost:
            if not members.is_open():
                return
            if _DENIED in str(lost) or "auth token" in str(lost):
                # An ended token looks like a missing permission here: log in again, once.
                if refused:
                    raise StoreError(told(str(lost))) from lost
                refused = True
                members.forget_token()
                continue
            _log.info("a watch of etcd goes on elsewhere", member=member.endpoint, reason=str(lost))
            members.turn_from(member)
            await asyncio.sleep(pause)
            pause = min(max(pause * 2, 0.02), MAX_PAUSE_SECONDS)


class _Stream:
    """A position in etcd's history, and streams from there on, one after the other."""

    def __init__(self, members: Members, begin: bytes, after: int, to_item: ToItem) -> None:
        self._members = members
        self._begin = begin
        self._position = after
        self._to_item = to_item

    async def read(self) -> AsyncGenerator[Batch, None]:
        """Open a stream and yield from it until it breaks. Raises _Lost, Compacted and StoreError."""
        request = rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=self._begin,
                range_end=self._begin + b"\xff",
                start_revision=self._position + 1,
                # Tells how far all is quiet; else a quiet watch that breaks would go on from long ago.
                progress_notify=True,
            )
        )
        member = self._members.current
        try:
            async with self._members.stream(member) as call:
                self._require_going(await self._first(call, request))
                await self._require_kept()
                while True:
                    response = await self._next(call, call.read())
                    self._require_going(response)
                    for batch in self._batches(response.events):
                        self._position = batch.revision
                        yield batch
                    if not response.events:
                        self._position = max(self._position, response.header.revision)
        except grpc.aio.AioRpcError as error:
            raise _Lost(error.details() or error.code().name) from error

    async def _first(self, call: Any, request: Any) -> Any:
        async def begin() -> Any:
            async with asyncio.timeout(MAX_TRY_SECONDS):
                await call.write(request)
                return await call.read()

        return await self._next(call, begin())

    async def _next(self, call: Any, reading: Coroutine[Any, Any, Any]) -> Any:
        try:
            response = await self._members.guarded(reading)
        except TimeoutError:
            raise _Lost("it does not answer") from None
        except (StoreError, asyncio.InvalidStateError) as error:
            raise _Lost(str(error)) from error
        if response is grpc.aio.EOF:
            raise _Lost(await call.details() or "the stream ended")
        return response

    def _require_going(self, response: Any) -> None:
        if not response.canceled:
            return
        if response.compact_revision:
            raise Compacted(response.compact_revision + 1)
        raise _Lost(response.cancel_reason or "the member ended the watch")

    async def _require_kept(self) -> None:
        """Raise Compacted when the change right after our position may be forgotten.

        etcd itself lets a watch begin at the very revision it was compacted at, where a deletion is missing.
        """
        at = max(self._position, 1)
        request = rpc.RangeRequest(key=self._begin, revision=at, count_only=True)

        async def probe(member: Any, metadata: Any, seconds: float) -> None:
            try:
                await member.kv.Range(request, metadata=metadata, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                if "required revision is a future revision" not in (error.details() or ""):
                    raise

        try:
            await self._members.call(probe)
        except Compacted:
            raise Compacted(at + 2) from None
        except StoreError as error:
            raise _Lost(str(error)) from error

    def _batches(self, events: Sequence[Any]) -> list[Batch]:
        """Return the commits of one answer: etcd never splits one over two answers."""
        return [
            Batch(revision, tuple(self._change(event) for event in of_one))
            for revision, of_one in groupby(events, key=lambda event: event.kv.mod_revision)
            if revision > self._position
        ]

    def _change(self, event: Any) -> Change:
        item = self._to_item(event.kv)
        return Change(item.key, None if event.type == rpc.Event.DELETE else item)
