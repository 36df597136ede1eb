"""A control plane made of canned answers, behind a real socket."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Counts, DeploymentSpec, DeploymentView, ReplicaState, ReplicaView, RouteSpec
from fallow.model.events import Event
from fallow.model.members import Facts, MemberState, MemberView, Role, Scheduling
from fallow.model.names import DnsStatus
from fallow.model.problems import Problem
from fallow.model.routes import RouteView
from fallow.model.tokens import TokenView

TOKEN = "fallow-api.tok1.s3cr3t"


NAMES = DnsStatus(domain="fallow.internal", revision=7, age_seconds=3.0, hosts=0, services=0, endpoints=0)


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


Answer = Callable[[Asked], object]


@dataclass
class FakeApi:
    """`answers` maps `METHOD /path` to a value, or to a function of the request; an iterator is streamed."""

    answers: dict[str, object] = field(default_factory=lambda: {"GET /v1/dns": NAMES})
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def on(self, what: str, answer: object) -> None:
        self.answers[what] = answer

    def refuse(self, what: str, status: int, title: str, **more: Any) -> None:
        self.on(what, problem(status, title, **more))

    def bodies(self, what: str) -> list[Any]:
        return [asked.body for asked in self.asked if f"{asked.method} {asked.path}" == what]

    def answer(self, asked: Asked) -> object:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}")
        if found is None:
            return problem(404, f"There is nothing at {asked.path}")
        return found(asked) if callable(found) else found


def problem(status: int, title: str, **more: Any) -> Problem:
    return Problem(type="urn:fallow:test", title=title, status=status, **more)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        asked = Asked(
            method=self.command,
            path=parts.path,
            query={key: values[0] for key, values in parse_qs(parts.query).items()},
            headers=dict(self.headers),
            body=json.loads(raw) if raw else None,
        )
        self._send(self.api.answer(asked))

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - as the standard library calls them

    def _send(self, answer: object) -> None:
        if isinstance(answer, Problem):
            self._whole(answer.status, msgspec.json.encode(answer), "application/problem+json")
        elif isinstance(answer, Iterator):
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for piece in answer:
                self.wfile.write(piece)
                self.wfile.flush()
        elif isinstance(answer, str):
            self._whole(200, answer.encode(), "text/plain")
        else:
            self._whole(200, msgspec.json.encode(answer), "application/json")

    def _whole(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


def serve() -> Iterator[FakeApi]:
    api = FakeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    yield api
    server.shutdown()
    server.server_close()
    thread.join()


def listing(*items: object, revision: int = 7) -> dict[str, object]:
    return {"revision": revision, "items": list(items)}


def member(name: str = "node-1", **more: Any) -> MemberView:
    given: dict[str, Any] = {
        "id": f"n-{name}",
        "name": name,
        "role": Role.NODE,
        "revision": 3,
        "created_at": 1000.0,
        "labels": {"zone": "west"},
        "scheduling": Scheduling.ACTIVE,
        "address": "10.0.0.1",
        "state": MemberState.READY,
        "state_since": 1000.0,
        "state_reason": "",
        "function": "builds",
        "facts": Facts(hostname="host1", cpus=4, memory_bytes=8 << 30),
        "variables": (),
        "connected": True,
        "last_seen_at": 1000.0,
    }
    return MemberView(**{**given, **more})


def deployment(
    name: str = "web", project: str = "shop", *, wanted: int = 2, healthy: int = 2, state: str = "serving", **more: Any
) -> DeploymentView:
    return DeploymentView(
        id=f"d-{name}",
        project=project,
        name=name,
        revision=5,
        generation=1,
        created_at=1000.0,
        updated_at=1000.0,
        spec=DeploymentSpec(
            replicas=wanted, container=ContainerSpec(image="web:1"), routes=(RouteSpec(host="shop.example", port=80),)
        ),
        counts=Counts(wanted=wanted, healthy=healthy, running=healthy, pending=wanted - healthy),
        state=state,
        **more,
    )


def replica(id_: str = "r-1", **more: Any) -> ReplicaView:
    given: dict[str, Any] = {
        "id": id_,
        "project": "shop",
        "deployment": "web",
        "slot": 0,
        "generation": 1,
        "image": "web:1",
        "node": "node-1",
        "address": "10.0.0.1",
        "host_ports": {"80/tcp": 20001},
        "state": ReplicaState.RUNNING,
        "state_since": 1000.0,
        "health": "healthy",
    }
    return ReplicaView(**{**given, **more})


def route(**more: Any) -> RouteView:
    given: dict[str, Any] = {
        "kind": "http",
        "address": "http://shop.example",
        "project": "shop",
        "deployment": "web",
        "port": 80,
        "endpoints": 2,
    }
    return RouteView(**{**given, **more})


def event(id_: str = "e-1", **more: Any) -> Event:
    given: dict[str, Any] = {
        "id": id_,
        "created_at": 1000.0,
        "updated_at": 1000.0,
        "revision": 8,
        "actor": "loop:placement",
        "subject_kind": "deployment",
        "subject_id": "d-web",
        "subject": "shop/web",
        "reason": "ReplicaPlaced",
        "message": "replica r-1 goes to node-1",
    }
    return Event(**{**given, **more})


def token(**more: Any) -> TokenView:
    given: dict[str, Any] = {"id": "t-1", "role": "node", "created_at": 1000.0, "uses_left": 1}
    return TokenView(**{**given, **more})


def change(record: Event, revision: int) -> bytes:
    data = msgspec.json.encode({"kind": "events", "id": record.id, "revision": revision, "record": record})
    return b"event: change\nid: %d\ndata: %s\n\n" % (revision, data)
