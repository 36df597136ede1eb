"""What a store must give: get, list, an atomic compare-and-set commit, a watch without a gap, leases, compaction.

Revisions are whole numbers that grow with every commit, and may leave some out; all writes of a commit share its
revision. Back-ends live beside this file and pass `tests/contract/test_store.py`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fallow.model.control import StoreMember


@dataclass(frozen=True, slots=True)
class Item:
    """A key's value, and the revisions of its creation and of its last change."""

    key: str
    value: bytes
    revision: int
    created_revision: int
    lease: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The key's last change must be at `revision`; 0: it must not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key; with a `lease` it is deleted when the lease ends."""

    key: str
    value: bytes
    lease: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key; no error when it is absent."""

    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Change:
    """One key changed; `item` is None when it was deleted."""

    key: str
    item: Item | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All that one commit changed below the watched prefix."""

    revision: int
    changes: tuple[Change, ...]


class StoreError(Exception):
    """The store could not do it. A commit that raises it has written nothing, unless it is an OutcomeUnknown."""


class TooLarge(StoreError):  # noqa: N818
    """What is to be written together is more than the store takes in one commit; nothing was written."""


class Conflict(StoreError):  # noqa: N818 - the field's word, and no error of ours
    """A check did not hold; nothing was written. `keys` are those that differ."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"changed meanwhile: {', '.join(keys) or 'the store was away'}")
        self.keys = tuple(keys)


class OutcomeUnknown(StoreError):  # noqa: N818
    """The store went away during a commit: it may have been written, and may be for as long as the store is away.

    As soon as another commit of the same `Store` has returned this is settled: what it wrote can be read, and what it
    has not written by then it never will. Every other error of a commit means that nothing was written.
    """


class Compacted(StoreError):  # noqa: N818
    """The revision asked for is no longer kept: list again, then watch from there."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"changes before revision {oldest} are no longer kept")
        self.oldest = oldest


class Fenced(StoreError):  # noqa: N818
    """What should have been committed was decided by somebody who may no longer decide; nothing was written."""


class LeaseGone(StoreError):  # noqa: N818
    """The lease has ended."""


class Store(Protocol):
    """A back-end. Once `commit` has returned, its writes survive a kill -9 of this process and of the machine.

    One commit has at most `max_operations` checks and as many writes, and at most `max_bytes` of keys and values.
    `shared`: several processes may use it at once; otherwise whoever opens it has it alone.
    """

    @property
    def shared(self) -> bool:
        """Say whether several processes may use it at once."""

    @property
    def max_operations(self) -> int:
        """Return how many checks, and how many writes, one commit may have."""

    @property
    def max_bytes(self) -> int:
        """Return how many bytes the keys and values one commit puts may have together."""

    async def get(self, key: str) -> Item | None:
        """Return the key's newest value."""

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        """Return everything below `prefix`, sorted by key, and the revision at which this was true."""

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        """Do all `writes` if all `checks` hold, and return the commit's revision.

        A commit without writes returns the current revision. One that only deletes what is not there may use up a
        revision that no watch tells of. Raises Conflict, LeaseGone or OutcomeUnknown; a key written twice in one
        commit is a ValueError.
        """

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Yield every later commit that touches `prefix`, in order, each once, from `after` (not included) on.

        Raises Compacted at the first step when changes after `after` are no longer kept. Ends only by being closed.
        """

    async def grant(self, ttl_seconds: float) -> str:
        """Return a new lease; it ends, with its keys, `ttl_seconds` after it was granted or last kept alive.

        A back-end may round the time up to whole seconds, and let a lease last longer, but never end it earlier.
        """

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises LeaseGone."""

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys; no error when it is gone."""

    async def members(self) -> Sequence[StoreMember]:
        """Return the machines that keep the store together, as they answer just now; none when it is a file.

        Takes a second where one does not answer.
        """

    async def compact(self, revision: int) -> None:
        """Forget changes up to `revision`, or up to the newest; current values stay."""

    async def close(self) -> None:
        """Release everything; running watches end."""
