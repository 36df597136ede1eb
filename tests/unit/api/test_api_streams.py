"""Watches and logs over a real server: nothing is lost or doubled, and everything is released again."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from api_rig import NOW, Rig, deployment, node, problem, replica

from fallow.api.limits import Limits
from fallow.decide.plan import Step
from fallow.model.deployments import ReplicaState
from fallow.model.tokens import ApiRole, ApiToken
from fallow.model.wire import OpenLog

DEADLINE = 20


@dataclass
class Event:
    """One server-sent event."""

    name: str
    id: int | None
    data: dict[str, Any]


@asynccontextmanager
async def serving(rig: Rig, role: str = "viewer") -> AsyncIterator[httpx.AsyncClient]:
    """Serve the API on a real socket."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(rig.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve([listener]))
    headers = {"Authorization": f"Bearer {rig.credentials[role]}"}
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE) as client:
            yield client
    finally:
        server.should_exit = True
        await task
        listener.close()


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            given = fields.get("id")
            yield Event(fields["event"], int(given) if given else None, json.loads(fields["data"]))
            fields = {}


def api_token(id_: str) -> ApiToken:
    return ApiToken(id=id_, created_at=NOW, updated_at=NOW, name="n", secret_sha256="0", role=ApiRole.VIEWER)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_watch_misses_nothing_while_others_write(rig: Rig) -> None:
    await rig.put(*(node(f"m-{number}", f"n-{number}") for number in range(5)))
    listed = await rig.call("GET", "/v1/members")
    begin = listed.json()["revision"]

    async def write(number: int) -> None:
        for turn in range(20):
            change = {"labels": {"turn": str(turn)}}
            assert (await rig.call("PATCH", f"/v1/members/n-{number}", json=change)).status_code == 200

    async with serving(rig) as client:
        writers = asyncio.gather(*(write(number) for number in range(5)))
        seen: list[Event] = []
        after, cuts = begin, 0
        while len(seen) < 100:
            headers = {"Last-Event-ID": str(after)} if cuts else {}
            async with client.stream("GET", f"/v1/watch?kinds=members&after={begin}", headers=headers) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                received = 0
                async for event in events_of(answer):
                    if event.name == "change":
                        seen.append(event)
                        received += 1
                    after = event.id if event.id is not None else after
                    if len(seen) == 100 or (event.id is not None and received >= 17):
                        break  # cut off; go on from the last id
                cuts += 1
        await writers
    assert cuts > 3
    for number in range(5):
        turns = [one.data["record"]["labels"]["turn"] for one in seen if one.data["id"] == f"n-{number}"]
        assert turns == [str(turn) for turn in range(20)]
    revisions = [one.data["revision"] for one in seen]
    assert revisions == sorted(revisions)
    assert "key_sha256" not in seen[0].data["record"]
    await until(lambda: rig.services.limits.streams == 0)


async def test_watch_sends_the_id_once_a_commit(rig: Rig) -> None:
    begin = rig.services.cache.revision
    await rig.put(node("a", "n-1"), node("b", "n-2"), deployment("p", "x"))
    await rig.services.applier.commit(Step(deletes=(rig.services.cache.snapshot().members["n-1"],)))
    async with serving(rig) as client, client.stream("GET", f"/v1/watch?kinds=members,events&after={begin}") as answer:
        stream = events_of(answer)
        first, one, two, gone = [await anext(stream) for _ in range(4)]
    assert (first.name, first.id, first.data) == ("bookmark", begin, {"revision": begin})
    assert [one.id, two.id] == [None, begin + 1]
    assert {one.data["id"], two.data["id"]} == {"n-1", "n-2"}
    assert gone.data == {"kind": "members", "id": "n-1", "revision": begin + 2, "record": None}


async def test_watch_from_now_on_with_bookmarks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fallow.api.routes.watch.BOOKMARK_SECONDS", 0.02)
    await rig.put(node())
    async with serving(rig) as client, client.stream("GET", "/v1/watch") as answer:
        stream = events_of(answer)
        assert (await anext(stream)).id == rig.services.cache.revision
        await rig.services.tokens.revoke(rig.credentials["operator"].split(".")[1], "t")
        while (told := await anext(stream)).name == "bookmark":
            assert told.id == rig.services.cache.revision - 1
        assert (told.data["kind"], told.id) == ("events", rig.services.cache.revision)  # never the token itself
        await rig.put(api_token("other"))
        async for event in stream:
            assert event.name == "bookmark"
            if event.id == rig.services.cache.revision:
                break  # what may not be told moves the bookmark on all the same


async def test_watch_refusals(rig: Rig) -> None:
    await rig.put(node())
    await rig.put(node("b", "n-2"))
    await rig.store.compact(rig.services.cache.revision)
    problem(await rig.call("GET", "/v1/watch?after=1"), 410, "compacted")
    answer = await rig.call("GET", "/v1/watch?kinds=members,api-tokens,dogs")
    assert "api-tokens, dogs" in problem(answer, 400, "bad-request")["detail"]
    for bad in ("-1", "x", "\uff19", "9" * 30):
        headers = {"Last-Event-ID": bad.encode()}
        problem(await rig.call("GET", "/v1/watch", headers=headers), 400, "bad-request")


async def test_watch_of_the_future_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fallow.api.routes.watch.CATCH_UP_SECONDS", 0.01)
    problem(await rig.call("GET", "/v1/watch?after=99999"), 410, "compacted")


async def test_watch_from_what_another_process_has_seen_asks_the_store(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fallow.api.routes.watch.CATCH_UP_SECONDS", 0.05)
    monkeypatch.setattr(rig.store, "shared", True)
    ahead = rig.services.cache.revision + 1  # no commit comes after it, and so nobody tells of it here
    async with serving(rig) as client, client.stream("GET", f"/v1/watch?after={ahead}") as answer:
        assert answer.status_code == 200
        first = await anext(events_of(answer))
    assert (first.name, first.id) == ("bookmark", ahead)
    problem(await rig.call("GET", "/v1/watch?after=99999"), 410, "compacted")
    monkeypatch.setattr(rig.services.applier, "catch_up", lambda: asyncio.Event().wait())
    problem(await rig.call("GET", "/v1/watch?after=99999"), 503, "store")


async def test_streams_are_bounded(make_rig: Callable[..., Any]) -> None:
    async with make_rig(limits=Limits(max_streams=1)) as rig, serving(rig) as client:
        async with client.stream("GET", "/v1/watch") as answer:
            events = events_of(answer)  # kept: an iterator that is dropped closes the answer
            await anext(events)
            problem(await rig.call("GET", "/v1/watch"), 503, "too-many-streams")
        await until(lambda: rig.services.limits.streams == 0)


async def test_watch_ends_with_the_store(rig: Rig) -> None:
    async with serving(rig) as client, client.stream("GET", "/v1/watch") as answer:
        stream = events_of(answer)
        await anext(stream)
        await rig.store.close()
        assert [event async for event in stream] == []


async def test_replica_logs(rig: Rig) -> None:
    web = deployment("p", "web")
    pending = replica("r-p", web, "", state=ReplicaState.PENDING)
    await rig.put(node(), web, replica("r-0", web), pending)
    problem(await rig.call("GET", "/v1/replicas/r-0/logs"), 409, "not-connected")
    problem(await rig.call("GET", "/v1/replicas/r-p/logs"), 409, "not-placed")
    problem(await rig.call("GET", "/v1/replicas/nobody/logs"), 404, "not-found")
    problem(await rig.call("GET", "/v1/replicas/r-0/logs?tail=x"), 400, "bad-request")
    link = rig.link("n-1", lines=("one", "two"))
    answer = await rig.call("GET", "/v1/replicas/r-0/logs?tail=7&follow=true", role="operator")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "one of r-0\ntwo of r-0\n"
    (asked,) = [frame for frame in link.sent if isinstance(frame, OpenLog)]
    assert (asked.replica_id, asked.follow, asked.tail) == ("r-0", True, 7)


async def test_replica_log_that_breaks(rig: Rig) -> None:
    web = deployment("p", "web")
    await rig.put(node(), web, replica("r-0", web))
    rig.link("n-1", error="no such container")
    body = problem(await rig.call("GET", "/v1/replicas/r-0/logs"), 409, "not-connected")
    assert body["detail"] == "no such container"
    rig.link("n-1", lines=("one",), error="disk gone")
    text = (await rig.call("GET", "/v1/replicas/r-0/logs")).text
    assert text == "one of r-0\n(the log breaks off here: disk gone)\n"


async def test_deployment_logs_are_merged(rig: Rig) -> None:
    web = deployment("p", "web")
    ended = replica("r-3", web, state=ReplicaState.STOPPED)
    await rig.put(
        node(),
        node("web-2", "n-2"),
        web,
        replica("r-0", web),
        replica("r-1", web, "n-2"),
        replica("r-2", web, "n-9"),
        ended,
    )
    path = "/v1/deployments/p/web/logs"
    problem(await rig.call("GET", path), 409, "not-connected")
    rig.link("n-1", lines=("a", "b"))
    rig.link("n-2", lines=("c",), error="gone")
    lines = (await rig.call("GET", path)).text.splitlines()
    assert [line for line in lines if "r-0" in line] == ["r-0 | a of r-0", "r-0 | b of r-0"]
    assert [line for line in lines if "r-1" in line] == ["r-1 | c of r-1", "r-1 | (the log breaks off here: gone)"]
    assert len(lines) == 4


async def test_followed_log_is_closed_when_the_reader_leaves(rig: Rig) -> None:
    web = deployment("p", "web")
    await rig.put(node(), web, replica("r-0", web), replica("r-1", web, slot=1))
    link = rig.link("n-1", lines=("a",), ends=False)
    for path in ("/v1/replicas/r-0/logs", "/v1/deployments/p/web/logs"):
        async with serving(rig, "operator") as client, client.stream("GET", f"{path}?follow=true") as answer:
            assert "a of r-" in await anext(answer.aiter_lines())
        await until(lambda: not rig.services.hub._logs and rig.services.limits.streams == 0)
    assert rig.clock() == NOW
    assert link.sent
