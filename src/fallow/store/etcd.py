"""The store for several control planes: an etcd cluster."""

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from aetcd import rpc

from fallow.model.control import StoreMember
from fallow.store.contract import (
    Batch,
    Check,
    Compacted,
    Conflict,
    Delete,
    Item,
    LeaseGone,
    Put,
    StoreError,
    TooLarge,
    Write,
)
from fallow.store.etcd_marks import Mark, Marks
from fallow.store.etcd_members import Member, Members
from fallow.store.etcd_url import EtcdUrl
from fallow.store.etcd_watch import follow
from fallow.store.writes import refuse_malformed, refuse_ttl

MAX_REQUEST_BYTES = 1536 * 1024  # etcd's own default
PAGE_ITEMS = 2000
LIST_ATTEMPTS = 5

_Metadata = list[tuple[str, str]]


class EtcdStore:
    """A `Store` in etcd. Make it with `EtcdStore.open`, in the event loop that will use it.

    Keys lie below `<prefix>data/`; `<prefix>commits/` holds the marks that tell whether a commit was written.
    """

    shared = True
    # Leaves room for the names of the keys that are checked.
    max_bytes = MAX_REQUEST_BYTES - 256 * 1024

    def __init__(self, url: EtcdUrl) -> None:
        self.max_operations = url.max_txn_ops - 1  # one of each is the mark's
        self._url = url
        self._members = Members(url)
        self._begin = f"{url.prefix}data/".encode()
        self._marks = Marks(self._members, f"{url.prefix}commits/".encode())

    @classmethod
    async def open(cls, url: EtcdUrl) -> "EtcdStore":
        """Reach the cluster and log in. Raises StoreError when it cannot be reached or refuses us."""
        store = cls(url)
        try:
            await store._marks.sweep()
        except BaseException:
            await store._members.close()
            raise
        return store

    async def get(self, key: str) -> Item | None:
        """Return the key's newest value, as most of the members know it."""
        request = rpc.RangeRequest(key=self._key(key))
        response = await self._members.ask(lambda at: at.kv.Range, request)
        return self._item(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        """Return everything below `prefix`, sorted by key, and the revision at which this was true."""
        for _ in range(LIST_ATTEMPTS):
            try:
                kvs, revision = await _read_all(self._members, self._begin + prefix.encode())
                return [self._item(kv) for kv in kvs], revision
            except Compacted:  # the revision that we were reading; begin again at a newer one
                continue
        raise StoreError("etcd forgets revisions while they are read: let its compaction keep at least minutes")

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        """Do all `writes` if all `checks` hold; see `Store.commit`."""
        self._members.require_open()
        refuse_malformed(checks, writes)
        self._refuse_too_large(checks, writes)
        if not writes:
            return await self._compare(checks)
        await self._marks.settle()
        while True:
            mark = self._marks.take()
            request = self._transaction(checks, writes, mark)
            response = await self._marks.transact(mark, request)
            if response.succeeded:
                return int(response.header.revision)
            found = response.responses[0].response_range.kvs
            if found and found[0].value == mark.value:
                return int(found[0].mod_revision)  # an attempt whose answer was lost had written it
            if differ := _differ(checks, response.responses[1:]):
                raise Conflict(differ)
            # The mark alone was in the way: somebody swept it. Take another.

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Yield every later commit that touches `prefix`; see `Store.watch`."""
        return follow(self._members, self._begin + prefix.encode(), after, self._item)

    async def grant(self, ttl_seconds: float) -> str:
        """Return a new lease of `ttl_seconds`, rounded up to whole seconds."""
        self._members.require_open()
        refuse_ttl(ttl_seconds)
        id_ = secrets.randbits(62) + 1
        request = rpc.LeaseGrantRequest(ID=id_, TTL=math.ceil(ttl_seconds))

        async def attempt(member: Member, metadata: _Metadata, seconds: float) -> None:
            try:
                await member.lease.LeaseGrant(request, metadata=metadata, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                if "lease already exists" not in (error.details() or ""):
                    raise  # else it was granted by an attempt whose answer was lost

        await self._members.call(attempt)
        return f"{id_:x}"

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises LeaseGone."""
        request = rpc.LeaseKeepAliveRequest(ID=_lease_id(lease))

        async def attempt(member: Member, metadata: _Metadata, seconds: float) -> Any:
            call = member.lease.LeaseKeepAlive(metadata=metadata, timeout=seconds)
            try:
                await call.write(request)
                response = await call.read()
                if response is grpc.aio.EOF:
                    raise StoreError(f"etcd did not answer for lease {lease!r}")
                return response
            finally:
                call.cancel()

        if (await self._members.call(attempt)).TTL <= 0:
            raise LeaseGone(f"lease {lease!r} has ended")

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys."""
        try:
            request = rpc.LeaseRevokeRequest(ID=_lease_id(lease))
        except LeaseGone:
            return

        async def attempt(member: Member, metadata: _Metadata, seconds: float) -> None:
            try:
                await member.lease.LeaseRevoke(request, metadata=metadata, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

        await self._members.call(attempt)

    async def members(self) -> Sequence[StoreMember]:
        """Return its members, each asked for what most of them know."""
        request = rpc.RangeRequest(key=self._begin, count_only=True)
        answers = await self._members.ask_all(lambda at: at.kv.Range, request)
        places = self._url.places or (("", ""),) * len(answers)
        return tuple(
            StoreMember(address=address, region=region, zone=zone, answers=answered)
            for address, (region, zone), answered in zip(self._url.endpoints, places, answers, strict=True)
        )

    async def compact(self, revision: int) -> None:
        """Forget changes up to `revision`, in the whole cluster: etcd has one history for all that use it."""
        newest = await self._compare(())
        request = rpc.CompactionRequest(revision=min(revision, newest), physical=True)
        try:
            await self._members.ask(lambda at: at.kv.Compact, request)
        except Compacted:
            return  # somebody forgot more already

    async def close(self) -> None:
        """End the watches and hang up."""
        if self._members.is_open():
            await self._marks.close()
            await self._members.close()

    def _refuse_too_large(self, checks: Sequence[Check], writes: Sequence[Write]) -> None:
        most = max(len(checks), len(writes))
        if most > self.max_operations:
            raise TooLarge(f"a commit in etcd has at most {self.max_operations} checks and writes, not {most}")
        size = sum(len(write.key.encode()) + len(write.value) for write in writes if isinstance(write, Put))
        if size > self.max_bytes:
            raise TooLarge(f"a commit in etcd has at most {self.max_bytes} bytes, not {size}")

    def _transaction(self, checks: Sequence[Check], writes: Sequence[Write], mark: Mark) -> Any:
        return rpc.TxnRequest(
            compare=[_unchanged(mark.key, mark.revision), *self._compares(checks)],
            success=[
                rpc.RequestOp(request_put=rpc.PutRequest(key=mark.key, value=mark.value)),
                *(self._write(write) for write in writes),
            ],
            failure=[_read(mark.key, keys_only=False), *(_read(self._key(check.key)) for check in checks)],
        )

    async def _compare(self, checks: Sequence[Check]) -> int:
        """Return the current revision. Raises Conflict."""
        # With no read in it etcd would answer from what this one member knows.
        request = rpc.TxnRequest(
            compare=self._compares(checks),
            success=[_read(self._begin)],
            failure=[_read(self._begin), *(_read(self._key(check.key)) for check in checks)],
        )
        response = await self._members.ask(lambda at: at.kv.Txn, request)
        if not response.succeeded:
            raise Conflict(_differ(checks, response.responses[1:]))
        return int(response.header.revision)

    def _compares(self, checks: Sequence[Check]) -> Sequence[Any]:
        return [_unchanged(self._key(check.key), check.revision) for check in checks]

    def _write(self, write: Write) -> Any:
        key = self._key(write.key)
        if isinstance(write, Delete):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        lease = _lease_id(write.lease) if write.lease else 0
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=write.value, lease=lease))

    def _key(self, key: str) -> bytes:
        return self._begin + key.encode()

    def _item(self, kv: Any) -> Item:
        return Item(
            kv.key[len(self._begin) :].decode(),
            kv.value,
            kv.mod_revision,
            kv.create_revision,
            f"{kv.lease:x}" if kv.lease else "",
        )


async def _read_all(members: Members, begin: bytes) -> tuple[list[Any], int]:
    """Return everything below `begin`, read in pages at one revision, and that revision. Raises Compacted."""
    start, end, revision = begin, begin + b"\xff", 0
    kvs: list[Any] = []
    while True:
        request = rpc.RangeRequest(key=start, range_end=end, limit=PAGE_ITEMS, revision=revision)
        page = await members.ask(lambda at: at.kv.Range, request)
        kvs.extend(page.kvs)
        revision = revision or int(page.header.revision)
        if not page.more:
            return kvs, revision
        start = page.kvs[-1].key + b"\x00"


def _unchanged(key: bytes, revision: int) -> Any:
    return rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision)


def _read(key: bytes, *, keys_only: bool = True) -> Any:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, keys_only=keys_only))


def _differ(checks: Sequence[Check], responses: Sequence[Any]) -> list[str]:
    """Return the keys whose revision, as read in the transaction itself, is not the one checked for."""
    differ: dict[str, None] = {}
    for check, response in zip(checks, responses, strict=True):
        kvs = response.response_range.kvs
        if (kvs[0].mod_revision if kvs else 0) != check.revision:
            differ[check.key] = None
    return list(differ)


def _lease_id(lease: str) -> int:
    try:
        return int(lease, 16)
    except ValueError:
        raise LeaseGone(f"lease {lease!r} has ended") from None
