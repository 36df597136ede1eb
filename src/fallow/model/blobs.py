"""What members say to each other when one fetches a blob from another; every blob is a connection of its own.

Who wants a blob sends BlobAsked, and gets BlobAnswered, both as frames (see `wire`). Unless that has an `error`, chunks
follow: a 4-byte big-endian length and that many bytes, until the blob is whole. A length of 0 says that the sender is
alive and waits for bytes itself; BlobAwaited follows it. VOID says that what was sent turned out to be wrong, and
ends it.
"""

from typing import Annotated, TypeVar

import msgspec

from fallow.model.images import BlobDigest, Bytes

CHUNK_BYTES = 256 * 1024  # the largest that is sent at once
VOID = 0xFFFF_FFFF
MAX_UPSTREAM = 64


class BlobAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Send me this blob, from this byte on."""

    digest: BlobDigest
    offset: Bytes = 0


class BlobAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """What comes, or why nothing does (`error`).

    `upstream` are the ids of members that the sender fetches it from, and those from whom they do: who finds itself in
    there must not fetch it here, or nobody would have it from anybody.
    """

    size_bytes: Bytes = 0
    upstream: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_UPSTREAM)] = ()
    error: Annotated[str, msgspec.Meta(max_length=512)] = ""


class BlobAwaited(msgspec.Struct, frozen=True, kw_only=True):
    """No bytes yet. `upstream` is as in BlobAnswered, and may be another by now."""

    upstream: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_UPSTREAM)] = ()


T = TypeVar("T", BlobAsked, BlobAnswered, BlobAwaited)


def encode(message: BlobAsked | BlobAnswered | BlobAwaited) -> bytes:
    """Return a message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes, shape: type[T]) -> T:
    """Read a message's body. Raises msgspec.DecodeError."""
    try:
        return msgspec.msgpack.decode(body, type=shape)
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None
