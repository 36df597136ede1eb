"""Watching records change, across broken connections."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fallow.client.errors import ApiError, BadAnswer, ClientError, Unreachable, WatchLost
from fallow.client.streams import ServerEvent, server_events
from fallow.client.transport import Transport
from fallow.model.kinds import KINDS
from fallow.model.members import Member
from fallow.model.meta import Record

SILENCE_SECONDS = 60.0  # bookmarks come more often than this, so a longer silence is a dead connection
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
# What the control plane keeps to itself of a record, although the record needs it.
_HIDDEN: dict[type[Record], dict[str, Any]] = {Member: {"key_sha256": "", "token_id": ""}}

PASSING = frozenset({429, 500, 502, 503, 504})  # refusals that may be over in a moment


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One record is new, different, or gone (`record` is None)."""

    kind: str
    id: str
    revision: int
    record: Record | None


class _Change(msgspec.Struct):
    kind: str
    id: str
    revision: int
    record: msgspec.Raw = msgspec.Raw(b"null")


class Watching:
    """One watch and how far it has come."""

    def __init__(
        self, transport: Transport, kinds: Sequence[str], after: int, patience_seconds: float | None = None
    ) -> None:
        self._transport = transport
        self._kinds = tuple(kinds)
        self._patience_seconds = patience_seconds
        self._connected = False
        self._newest = after  # of the changes seen; more of the same revision may follow
        self._seen: set[tuple[str, str]] = set()  # at that newest revision
        self.revision = after  # everything up to here has been seen

    def changes(self) -> Iterator[Change]:
        """Yield changes, see `Client.watch`."""
        pause, lost_at = FIRST_PAUSE_SECONDS, None
        while True:
            before = self._newest
            try:
                yield from self._connection()
                failure: ClientError = Unreachable(self._transport.url, "it closed the connection")
            except Unreachable as error:
                failure = error
            except ApiError as error:
                if error.problem.status == 410:
                    raise WatchLost(self.revision) from error
                if error.problem.status not in PASSING:
                    raise
                failure = error
            if not self._connected:
                raise failure
            if self._newest > before:
                pause, lost_at = FIRST_PAUSE_SECONDS, None
            lost_at = time.monotonic() if lost_at is None else lost_at
            if self._patience_seconds is not None and time.monotonic() - lost_at >= self._patience_seconds:
                raise failure
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _connection(self) -> Iterator[Change]:
        query = {"kinds": ",".join(self._kinds), "after": str(self.revision)}
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        with self._transport.stream(
            "/v1/watch", query=query, headers=headers, silence_seconds=SILENCE_SECONDS
        ) as pieces:
            self._connected = True
            for event in server_events(pieces):
                if event.name == "compacted":
                    raise WatchLost(self.revision)
                if event.name == "change":
                    change = self._read(event)
                    if self._is_new(change) and change.kind in KINDS:
                        yield change
                elif event.name == "bookmark" and event.id.isdigit():
                    self.revision = max(self.revision, int(event.id))

    def _is_new(self, change: Change) -> bool:
        """Note a change. A commit's changes share a revision, so only a newer one tells that all of it was seen."""
        if change.revision > self._newest:
            self.revision = max(self.revision, self._newest)
            self._newest = change.revision
            self._seen.clear()
        elif change.revision < self._newest or (change.kind, change.id) in self._seen:
            return False
        self._seen.add((change.kind, change.id))
        return True

    def _read(self, event: ServerEvent) -> Change:
        try:
            raw = msgspec.json.decode(event.data, type=_Change)
            fields = msgspec.json.decode(raw.record, type=dict[str, Any] | None)
            kind = KINDS.get(raw.kind, Record)
            record = None if fields is None else msgspec.convert(_HIDDEN.get(kind, {}) | fields, kind)
        except msgspec.DecodeError as error:  # ValidationError is one
            raise BadAnswer(self._transport.url, str(error)) from error
        return Change(kind=raw.kind, id=raw.id, revision=raw.revision, record=record)
