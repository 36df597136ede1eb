"""Commits that are written exactly once although the answer may be lost on the way.

Every transaction also puts a mark, a key of ours with a value of that one commit, and holds only while the mark is
unchanged. Tried again after a lost answer it is refused where it was written before, and the mark then says so. An
attempt that is still under way somewhere cannot be written after a later one, since that one has changed the mark.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import Any

from aetcd import rpc

from fallow.store.contract import OutcomeUnknown, StoreError
from fallow.store.etcd_members import Member, Members

# A mark that many commits old belongs to nobody who still waits for an answer.
OLD_REVISIONS = 1_000_000
SWEEP_AT_ONCE = 100
CLOSE_SECONDS = 1.0


@dataclass(slots=True)
class Mark:
    """One commit's mark: `revision` is its last change, 0 before the first; `value` is what this commit makes it."""

    key: bytes
    revision: int = 0
    value: bytes = b""


class Marks:
    """The marks of one open store. Each belongs to one commit at a time."""

    def __init__(self, members: Members, begin: bytes) -> None:
        self._members = members
        self._begin = begin
        self._own = begin + secrets.token_hex(8).encode() + b"/"
        self._made = 0
        self._commits = 0
        self._free: list[Mark] = []
        self._unsettled: set[bytes] = set()
        self._all_answered = True

    def take(self) -> Mark:
        """Return a mark that no commit uses, with a value of its own."""
        if self._free:
            mark = self._free.pop()
        else:
            self._made += 1
            mark = Mark(self._own + b"%d" % self._made)
        self._commits += 1
        mark.value = b"%d" % self._commits
        return mark

    async def transact(self, mark: Mark, request: Any) -> Any:
        """Return the answer to a transaction that puts `mark`, and reads it first when it does not hold.

        Raises LeaseGone or StoreError when it was not written, OutcomeUnknown when that is not known.
        """
        attempts = 0

        async def attempt(member: Member, metadata: list[tuple[str, str]], seconds: float) -> Any:
            nonlocal attempts
            attempts += 1
            return await member.kv.Txn(request, metadata=metadata, timeout=seconds)

        try:
            response = await self._members.call(attempt, writes=True)
        except BaseException as error:
            refused = isinstance(error, StoreError) and not isinstance(error, OutcomeUnknown)
            if refused and attempts <= 1 and self._members.is_open():
                self._free.append(mark)
            else:
                # Never used again: whatever is still under way must find it changed by us.
                self._unsettled.add(mark.key)
                self._all_answered = False
            if refused and attempts > 1:
                raise OutcomeUnknown(f"{error}; an attempt before that may have been written") from error
            raise
        found = response.responses[0].response_range.kvs
        mark.revision = response.header.revision if response.succeeded else (found[0].mod_revision if found else 0)
        self._free.append(mark)
        return response

    async def settle(self) -> None:
        """See to it that no commit of unknown outcome is written from now on. Raises StoreError when etcd is away."""
        for key in list(self._unsettled):
            request = rpc.PutRequest(key=key, value=b"settled")
            await self._members.ask(lambda at: at.kv.Put, request)
            self._unsettled.discard(key)

    async def sweep(self) -> None:
        """Delete marks that were left behind by processes that did not come to close their store."""
        request = rpc.RangeRequest(key=self._begin, range_end=self._begin + b"\xff", keys_only=True)
        response = await self._members.ask(lambda at: at.kv.Range, request)
        old = [kv for kv in response.kvs if kv.mod_revision < response.header.revision - OLD_REVISIONS]
        for start in range(0, len(old), SWEEP_AT_ONCE):
            some = old[start : start + SWEEP_AT_ONCE]
            deletion = rpc.TxnRequest(
                compare=[
                    rpc.Compare(
                        key=kv.key,
                        target=rpc.Compare.MOD,
                        result=rpc.Compare.EQUAL,
                        mod_revision=kv.mod_revision,
                    )
                    for kv in some
                ],
                success=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=kv.key)) for kv in some],
            )
            await self._members.ask(lambda at: at.kv.Txn, deletion)

    async def close(self) -> None:
        """Delete our marks, unless one may still be needed or etcd is away."""
        if not self._made or not self._all_answered:
            return
        request = rpc.DeleteRangeRequest(key=self._own, range_end=self._own + b"\xff")
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._members.ask(lambda at: at.kv.DeleteRange, request)
