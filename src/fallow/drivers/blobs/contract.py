"""Where blobs come from: another member, a mirror, a registry."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from fallow.model.images import ImageErrorKind


class BlobError(Exception):
    """A blob could not be had; `kind` sorts it, the text is for people and holds no credential.

    `void`: what came before is to be thrown away, since its sender says that it was wrong. `retry_after_seconds` is
    what a registry asked for, 0 when it did not.
    """

    def __init__(
        self, kind: ImageErrorKind, text: str, *, void: bool = False, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(text)
        self.kind: ImageErrorKind = kind
        self.void = void
        self.retry_after_seconds = retry_after_seconds


@dataclass(kw_only=True, slots=True)
class Opened:
    """A blob that is being sent. `chunks` begin at `offset`, which may be less than was asked for.

    An empty chunk says that the sender is alive and waits for bytes itself; `upstream`, the members that the blob comes
    through, the sender first, is then told anew.
    """

    offset: int
    chunks: AsyncIterator[bytes]
    upstream: tuple[str, ...] = ()


class Way(Protocol):
    """One place that may have a blob."""

    @property
    def id(self) -> str:
        """Return what it is known by; of a member, its id."""

    @property
    def is_last(self) -> bool:
        """Say whether nobody stands in for it when it fails."""

    @property
    def silence_seconds(self) -> float:
        """Return after how long without a chunk it is given up."""

    def open(self, digest: str, size_bytes: int, offset: int) -> AbstractAsyncContextManager[Opened]:
        """Have a blob sent, from a byte on. Raises BlobError, at once or while it is read; it checks no digest."""
