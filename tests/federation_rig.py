"""Whole control planes on loopback: store, loops, API and session listener over real TLS, with hollow nodes."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.hollow import BEAT, Agent
from fallow.control.ids import new_id
from fallow.control.plane import ControlPlane, session_context
from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.compose import Application
from fallow.decide.deploy import changes
from fallow.decide.plan import Step
from fallow.drivers.authority import Authority, write_pair
from fallow.model.clusters import HERE_ID
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, Replica
from fallow.model.frames import Frame
from fallow.model.hosts import HostRequest, HostView
from fallow.model.members import Member, MemberState, Role
from fallow.model.shares import Share, share_id
from fallow.model.tokens import TokenRequest
from fallow.model.wire import CloseLog, LogChunk, OpenLog
from fallow.store.contract import Conflict
from fallow.store.memory import MemoryStore
from fallow.store.open import open_store
from fallow.wiring.api_server import api_server
from fallow.wiring.control_plane import be_member
from testbed.ports import free_port

T = TypeVar("T")
BEAT_SECONDS = 0.1


async def until(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait until a condition gives something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.005)
    return found


class Common(MemoryStore):
    """A store that several processes use, and that outlives each of them."""

    shared = True

    async def close(self) -> None:
        """Stay."""


class Node(Agent):
    """A hollow node whose replicas print what a test says."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.printed: dict[str, list[str]] = {}
        self.followed: dict[str, str] = {}  # stream id -> replica id

    def say(self, replica_id: str, *lines: str) -> None:
        """Let a replica print."""
        self.printed.setdefault(replica_id, []).extend(lines)
        for stream_id, id_ in self.followed.items():
            if id_ == replica_id:
                self.send(LogChunk(stream_id=stream_id, lines=lines))

    def _received(self, frame: Frame) -> None:
        if isinstance(frame, OpenLog):
            found = self.printed.get(frame.replica_id, [])
            lines = tuple(found[max(0, len(found) - frame.tail) :])
            self.send(LogChunk(stream_id=frame.stream_id, lines=lines, end=not frame.follow))
            if frame.follow:
                self.followed[frame.stream_id] = frame.replica_id
        elif isinstance(frame, CloseLog):
            self.followed.pop(frame.stream_id, None)
        else:
            super()._received(frame)


class Undivided(ControlPlane):
    """A host whose shares are a test's to say."""

    def _led_controllers(self) -> Sequence[Controller]:
        return [found for found in super()._led_controllers() if found.name != "federation"]


@dataclass
class Site:
    """One control plane of one cluster; started and stopped as often as a test likes, on the same store and ports."""

    folder: Path
    store: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    numbers: int = 0  # of its first hollow node: each calls from an address of its own
    kind: type[ControlPlane] = ControlPlane
    common: "Common | None" = None  # with another site: two processes of one control plane

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port, self.session_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.nodes: list[Node] = []
        self.plane: ControlPlane
        self._tasks: list[asyncio.Task[Any]] = []
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        authority = Authority.create_or_load(self.folder / "ca")
        values: dict[str, Any] = {
            "session_host": "127.0.0.1", "session_port": self.session_port, "public_url": self.url,
            "heartbeat_seconds": 0.2, "suspect_after_seconds": 1.0, "dead_after_seconds": 2.0, "drain_seconds": 1.0,
        }  # fmt: skip
        settings = Settings(**(values | self.settings))
        store = self.common or await open_store(self.store or f"sqlite:{self.folder / 'fallow.db'}")
        self.plane = plane = self.kind(store, authority, settings, time.time, self.folder)
        be_member(plane, self.folder)
        await plane.start()
        pair = write_pair(self.folder / "server.pem", *authority.issue_server(["127.0.0.1"], time.time()))
        await plane.listen("127.0.0.1", self.session_port, session_context(pair, authority.ca_pem))
        self._api = api_server(plane, authority.ca_pem, pair)
        door = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._tasks = [asyncio.create_task(self._api.serve(sockets=[door]))]
        await until(lambda: self._api.started)

    async def stop(self) -> None:
        """End the control plane; its nodes lose their sessions."""
        self._api.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plane.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()
        for agent in self.nodes:
            await self._open(agent)

    async def token(self, role: str, **more: Any) -> str:
        return (await self.plane.tokens.create(TokenRequest(role=role, **more), "test")).secret or ""

    async def add_nodes(self, count: int) -> None:
        """Let hollow nodes join and open their sessions."""
        token = await self.token("node", uses=count)
        for _ in range(count):
            agent = Node(self.numbers + len(self.nodes), self.url, lambda _id, _run: None)
            await agent.join(token)
            self.nodes.append(agent)
            await self._open(agent)
        await until(lambda: len(self._ready()) == len(self.nodes))

    async def _open(self, agent: Node) -> None:
        agent.welcomed = asyncio.get_running_loop().create_future()
        await agent.open(self.folder)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            for agent in self.nodes:
                if agent.transport is not None and agent.welcomed.done():
                    agent.transport.write(BEAT)
            await asyncio.sleep(BEAT_SECONDS)

    def _ready(self) -> list[Member]:
        return [found for found in self.snapshot.nodes.values() if found.state is MemberState.READY]

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        for agent in self.nodes:
            if agent.transport is not None:
                agent.transport.abort()
        await self.stop()

    @property
    def snapshot(self) -> Any:
        return self.plane.cache.snapshot()

    # a host

    async def deploy(self, name: str = "web", replicas: int = 2, **spec: Any) -> Deployment:
        """Deploy as the API does."""
        container = spec.pop("container", None) or ContainerSpec(
            image="shop:1", ports=(PortSpec(container=80),), resources=Resources(cpus=1.0)
        )
        wished = DeploymentSpec(replicas=replicas, container=container, **spec)
        done = changes(
            self.snapshot, Application(project="shop", deployments=((name, wished),)), time.time(), new_id, actor="test"
        )
        if done.step is not None:
            await self.plane.applier.commit(done.step)
        return self.named(name)

    def named(self, name: str) -> Deployment:
        found = self.snapshot.deployment_named("shop", name)
        assert isinstance(found, Deployment)
        return found

    async def tell(self, deployment: Deployment, cluster_id: str, replicas: int) -> None:
        """Tell a cluster how many replicas to run, as the host's loop does."""
        now, id_ = time.time(), share_id(deployment.id, cluster_id)
        before = self.snapshot.shares.get(id_) or Share(
            id=id_, created_at=now, updated_at=now, deployment_id=deployment.id, cluster_id=cluster_id, replicas=0
        )
        while True:
            share = self.snapshot.shares.get(id_, before)
            after = msgspec.structs.replace(share, replicas=replicas, since=now, order=self.snapshot.revision + 1)
            with contextlib.suppress(Conflict):
                await self.plane.applier.commit(Step(puts=(after,)))
                return

    def share(self, deployment: Deployment, cluster_id: str) -> Share | None:
        found = self.snapshot.shares.get(share_id(deployment.id, cluster_id))
        return found if isinstance(found, Share) else None

    def reported(self, deployment: Deployment, cluster_id: str) -> Any:
        share = self.share(deployment, cluster_id)
        return share.reported if share is not None else None

    # a member

    async def join(self, host: "Site", **more: Any) -> HostView:
        token = await host.token("cluster", **more)
        return await self.plane.hosts.join(HostRequest(url=host.url, token=token), "test")

    def replicas(self, name: str = "web") -> list[Replica]:
        return [found for found in self.snapshot.replicas.values() if found.deployment == name and not found.ended]

    def events(self) -> list[str]:
        return [found.reason for found in self.plane.cache.records("events").values()]  # type: ignore[attr-defined]


def cluster_of(host: Site) -> Member:
    clusters = (member for member in host.snapshot.members.values() if member.role is Role.CLUSTER)
    (found,) = (member for member in clusters if member.id != HERE_ID)
    assert isinstance(found, Member)
    return found


@contextlib.asynccontextmanager
async def federation(
    folder: Path,
    nodes: int = 2,
    store: str = "memory:",
    divides: bool = False,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[Site, Site]]:
    """Give a host, and a member cluster with hollow nodes that has joined it and is connected.

    With `store` empty both keep what they hold when they are restarted. The host `divides` by itself, or tells its
    clusters what the test says.
    """
    host = Site(folder / "host", store, settings or {}, kind=ControlPlane if divides else Undivided)
    member = Site(folder / "member", store, settings or {}, numbers=1000)
    await host.start()
    try:
        await member.start()
        try:
            await member.add_nodes(nodes)
            await member.join(host, labels={"region": "west"})
            await until(lambda: cluster_of(host).state is MemberState.READY)
            yield host, member
        finally:
            await member.close()
    finally:
        await host.close()
