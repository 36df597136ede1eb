"""Watching: typed, gapless and without doubles, whatever the connection does."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.client import watching
from fallow.client.api import Client
from fallow.client.errors import ApiError, BadAnswer, ClientError, Unreachable, WatchLost
from fallow.client.streams import ServerEvent, server_events, split_lines
from fallow.client.watching import Change
from fallow.model.events import Event
from fallow.model.members import Lease, Member, Role

BOOKMARK = b"event: bookmark\nid: %d\ndata: {}\n\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_SECONDS", 0.0)


def _event(id_: str, revision: int) -> Event:
    return Event(
        id=id_,
        created_at=1,
        updated_at=1,
        revision=revision,
        actor="a",
        subject_kind="k",
        subject_id="s",
        subject="n",
        reason="R",
        message="m",
    )


def _change(id_: str, revision: int, record: object = "event", kind: str = "events") -> bytes:
    shown = _event(id_, revision) if record == "event" else record
    data = msgspec.json.encode({"kind": kind, "id": id_, "revision": revision, "record": shown})
    return b"event: change\nid: %d\ndata: %s\n\n" % (revision, data)


class Server:
    """Answers each connection with the next of some bodies; an exception in one breaks it."""

    def __init__(self, *connections: object) -> None:
        self._connections = iter(connections)
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        found: Any = next(self._connections)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, int):
            return httpx.Response(found, json={"type": "urn:x", "title": "no", "status": found})
        return httpx.Response(200, content=self._body(found))

    def _body(self, pieces: list[Any]) -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def _watch(server: Server, after: int = 0, patience_seconds: float | None = None) -> tuple[list[Change], ClientError]:
    """Return all changes until the watch fails, and how it failed."""
    found = list[Change]()
    with Client("http://localhost:1", inner=httpx.MockTransport(server)) as client:
        try:
            found.extend(client.watch(("events", "members"), after, patience_seconds=patience_seconds))
        except ClientError as error:
            return found, error
    raise AssertionError("a watch does not end")


def test_changes_are_typed() -> None:
    member = Member(
        id="m",
        created_at=1,
        updated_at=1,
        revision=4,
        name="n",
        role=Role.NODE,
        key_sha256="",
        token_id="",
        certificate_expires_at=1,
        lease=Lease(address="a"),
    )
    shown = {key: value for key, value in msgspec.to_builtins(member).items() if key not in ("key_sha256", "token_id")}
    server = Server(
        [_change("e", 3), _change("m", 4, shown, "members"), _change("gone", 5, None), _change("x", 6, {}, "future")],
        403,
    )
    found, _ = _watch(server, after=2)
    assert found == [
        Change(kind="events", id="e", revision=3, record=_event("e", 3)),
        Change(kind="members", id="m", revision=4, record=member),
        Change(kind="events", id="gone", revision=5, record=None),
    ]
    assert server.asked[0] == {"kinds": "events,members", "after": "2"}


def test_after_a_break_it_goes_on_from_the_last_whole_commit() -> None:
    """Both changes of revision 5 belong to one commit; the connection breaks between them."""
    broken = httpx.ReadError("reset")
    server = Server(
        [_change("a", 4), _change("b", 5), broken],
        httpx.ConnectError("refused"),
        503,
        [_change("b", 5), _change("c", 5), BOOKMARK % 9],
        [_change("d", 10)],
        403,
    )
    found, error = _watch(server)
    assert [(change.id, change.revision) for change in found] == [("a", 4), ("b", 5), ("c", 5), ("d", 10)]
    assert [int(asked["after"]) for asked in server.asked] == [0, 4, 4, 4, 9, 9]
    assert isinstance(error, ApiError)


@given(
    sizes=st.lists(st.integers(1, 3), max_size=8),
    cuts=st.lists(st.integers(0, 6), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_any_breaks_lose_and_double_nothing(sizes: list[int], cuts: list[int]) -> None:
    commits = [(revision, f"{revision}-{part}") for revision, size in enumerate(sizes, 1) for part in range(size)]
    left = iter(cuts)

    def handle(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        cut = next(left, None)
        pieces = [_change(id_, revision) for revision, id_ in commits if revision > after]
        if cut is None:
            return httpx.Response(200, content=b"".join([*pieces, b"event: compacted\n\n"]))
        return httpx.Response(200, content=b"".join(pieces[:cut]) + b"event: change\nda")

    found = list[str]()
    with (
        Client("http://localhost:1", inner=httpx.MockTransport(handle)) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(watching, "FIRST_PAUSE_SECONDS", 0.0)
        with pytest.raises(WatchLost):
            found.extend(change.id for change in client.watch(("events",), 0))
    assert found == [id_ for _, id_ in commits]


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), 401, 503])
def test_the_first_connection_must_succeed(failure: object) -> None:
    found, error = _watch(Server(failure))
    assert found == []
    assert isinstance(error, Unreachable | ApiError)


def test_it_gives_up_when_patience_ends() -> None:
    server = Server([BOOKMARK % 1], *itertools.repeat(httpx.ConnectError("refused"), 3))
    _, error = _watch(server, patience_seconds=0)
    assert isinstance(error, Unreachable)


@pytest.mark.parametrize("connections", [(410,), ([b"event: compacted\ndata: {}\n\n"],), ([BOOKMARK % 7], 410)])
def test_changes_no_longer_kept(connections: tuple[object, ...]) -> None:
    _, error = _watch(Server(*connections), after=7)
    assert isinstance(error, WatchLost)
    assert error.revision == 7


@pytest.mark.parametrize("data", [b"hello", b"{}", b'{"kind":"events","id":"e","revision":1,"record":{}}'])
def test_changes_that_cannot_be_read(data: bytes) -> None:
    _, error = _watch(Server([b"event: change\ndata: " + data + b"\n\n"]))
    assert isinstance(error, BadAnswer)


def test_server_sent_events() -> None:
    text = b": hi\n\nevent:a\nid: 1\ndata: x\ndata:y\n\ndata\n\nretry: 5\n\ndata: [1]\r\n\r\nevent: cut\ndata: 1\n"
    assert list(server_events([text])) == [
        ServerEvent("a", "1", "x\ny"),
        ServerEvent("message", "", ""),
        ServerEvent("message", "", "[1]"),
    ]


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), max_size=40), st.data())
def test_lines_do_not_depend_on_how_they_arrive(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    pieces = [raw[start:end] for start, end in itertools.pairwise([0, *cuts, len(raw)])]
    expected = text.split("\n")
    assert list(split_lines(pieces)) == (expected[:-1] if expected[-1] == "" else expected)


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fallow.client.streams.MAX_LINE_BYTES", 4)
    assert list(split_lines([b"abc", b"def", b"g\n\xff"])) == ["abcdef", "g", "\ufffd"]
    assert json.dumps(list(split_lines([]))) == "[]"
