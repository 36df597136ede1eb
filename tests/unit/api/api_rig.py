"""The API over real parts: memory store, cache, applier, CA, tokens, admission and hub."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from litestar import Litestar
from prometheus_client import CollectorRegistry
from records import peer
from registry_rig import registry_parts

from fallow.api.app import build_app
from fallow.api.limits import Limits
from fallow.api.metrics import ClusterCollector
from fallow.api.services import Services
from fallow.api.telemetry import Telemetry
from fallow.control.admission import Admission
from fallow.control.archives import Archives
from fallow.control.audit import witness
from fallow.control.hosts import Hosts
from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.image_requests import ImageRequests
from fallow.control.leader import Leadership
from fallow.control.names import NamesLoop
from fallow.control.registrations import Registrations, registrations_controller
from fallow.control.runner import LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.control.tokens import Tokens
from fallow.control.vault import Vault
from fallow.decide.harvest.heard import HeardServer
from fallow.decide.plan import Step
from fallow.drivers.authority import Authority
from fallow.drivers.packages import Packages
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Replica, ReplicaState
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.meta import Record
from fallow.model.tokens import ApiRole, TokenRequest
from fallow.model.wire import LogChunk, OpenLog, ToMember
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Check, Store
from fallow.store.open import open_store

NOW = 1_800_000_000.0
SOURCE = "10.0.0.5"


@dataclass
class Clock:
    """UTC seconds that move only when told to."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeLink:
    """A session whose member answers logs from a script: lines, then an error or the end."""

    member_id: str
    hub: Hub
    instance: str = ""
    agent_version: str = ""
    protocol: int = 2
    lines: tuple[str, ...] = ()
    error: str = ""
    ends: bool = True
    key_sha256: str = ""
    closed: list[tuple[str, bool]] = field(default_factory=list)
    sent: list[ToMember] = field(default_factory=list)

    def send(self, frame: ToMember) -> None:
        self.sent.append(frame)
        if isinstance(frame, OpenLog):
            lines = tuple(f"{line} of {frame.replica_id}" for line in self.lines)
            done = self.ends and not self.error
            self.hub.log_chunk(self.member_id, LogChunk(stream_id=frame.stream_id, lines=lines, end=done))
            if self.error:
                self.hub.log_chunk(self.member_id, LogChunk(stream_id=frame.stream_id, end=True, error=self.error))

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        self.closed.append((reason, final))


@dataclass
class Rig:
    """A running API, and credentials for each role."""

    store: Store
    services: Services
    app: Litestar
    clock: Clock
    authority: Authority
    credentials: dict[str, str]
    steady: Clock  # by which reports of servers grow old

    def client(self, role: str | None = "admin", source: str = SOURCE) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.credentials[role]}"} if role is not None else {}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(source, 4242))
        return httpx.AsyncClient(transport=transport, base_url="https://api", headers=headers)

    async def call(self, method: str, path: str, role: str | None = "admin", **more: Any) -> httpx.Response:
        async with self.client(role) as client:
            return await client.request(method, path, **more)

    async def put(self, *records: Record) -> None:
        await self.services.applier.commit(Step(puts=records))

    def hear(self, server_id: str, said: HeardServer) -> None:
        """Let a server have said something a while ago."""
        self.steady.now -= said.age_seconds
        self.services.hub.server_reported(server_id, said.report)
        self.steady.now += said.age_seconds

    def link(self, member_id: str, **more: Any) -> FakeLink:
        link = FakeLink(member_id, self.services.hub, **more)
        self.services.hub.open(link)
        return link


class _Present:
    """Stands for the services of the test that runs now."""

    def __init__(self) -> None:
        self.services: Services | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.services, name)


_present = _Present()
_shared: Litestar | None = None
_handler: Any = None


@contextmanager
def serving(services: Services) -> Iterator[Litestar]:
    """Give the API over these services: one application for all tests, since making it takes longer than most of them.

    It holds nothing between requests but what it is given here; two at a time have one each.
    """
    global _shared, _handler  # noqa: PLW0603
    if _present.services is not None:
        yield build_app(services)
        return
    _present.services = services
    try:
        if _shared is None:
            _shared = build_app(cast(Services, _present))
            _handler = _shared.asgi_handler._app  # type: ignore[attr-defined]
        else:
            services.registry.register(ClusterCollector(services))
            _shared.asgi_handler = Telemetry(_handler, services.registry)
        yield _shared
    finally:
        _present.services = None


async def _never(_fence: Check) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def running(
    folder: Path, limits: Limits | None = None, ready: Callable[[], str | None] | None = None
) -> AsyncIterator[Rig]:
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    clock, settings = Clock(), Settings(session_host="control.example", session_port=8444)
    steady = Clock(1000.0)
    authority, hub = Authority.create_or_load(folder, NOW), Hub(clock, steady)
    applier = Applier(store, cache, witness=witness(clock, new_id))
    registry = CollectorRegistry()
    tokens = Tokens(cache, applier, authority, settings, clock)
    parts = registry_parts(cache, applier, folder, clock)
    services = Services(
        store=store,
        cache=cache,
        applier=applier,
        admission=Admission(cache, applier, authority, settings, clock),
        registrations=Registrations(cache, applier, clock),
        tokens=tokens,
        hub=hub,
        names=NamesLoop(hub, settings.domain, registry),
        leadership=Leadership(store, cache, peer("p-1"), _never),
        packages=Packages(folder / "packages"),
        registries=parts.registries,
        resolver=parts.resolver,
        image_requests=ImageRequests(cache, applier, hub, clock, new_id),
        hosts=Hosts(cache, applier, Vault(cache, folder / "cluster.key"), authority.ca_sha256, clock),
        archives=Archives(folder / "archives", clock),
        settings=settings,
        ca_pem=authority.ca_pem,
        clock=clock,
        new_id=new_id,
        registry=registry,
        ready=ready or (lambda: None),
        limits=limits or Limits(),
    )
    credentials = {}
    for role in ApiRole:
        view = await tokens.create(TokenRequest(role=role, name=f"a-{role}"), "test")
        credentials[str(role)] = view.secret or ""
    leader = Applier(store, cache)
    runner = Runner(cache, leader, [registrations_controller(store, settings)], clock, LoopMetrics(CollectorRegistry()))
    deciding = asyncio.create_task(runner.run())
    try:
        with serving(services) as app:
            yield Rig(store, services, app, clock, authority, credentials, steady)
    finally:
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
        await cache.stop()
        await store.close()


def machine_request(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Return a certificate signing request of a new machine, or of the one that holds `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def node(name: str = "web-1", id_: str = "n-1", state: MemberState = MemberState.READY, **more: Any) -> Member:
    return Member(
        id=id_,
        created_at=NOW,
        updated_at=NOW,
        name=name,
        role=more.pop("role", Role.NODE),
        key_sha256=more.pop("key_sha256", "k" * 64),
        token_id="t",
        certificate_expires_at=NOW + 86400,
        lease=Lease(address="10.0.0.9"),
        state=state,
        **more,
    )


def deployment(project: str, name: str, replicas: int = 2, image: str = "shop:1") -> Deployment:
    spec = DeploymentSpec(replicas=replicas, container=ContainerSpec(image=image))
    return Deployment(id=f"{name}-id", created_at=NOW, updated_at=NOW, project=project, name=name, spec=spec)


def replica(id_: str, of: Deployment, node_id: str = "n-1", **more: Any) -> Replica:
    return Replica(
        id=id_,
        created_at=NOW,
        updated_at=NOW,
        deployment_id=of.id,
        project=of.project,
        deployment=of.name,
        slot=more.pop("slot", 0),
        generation=1,
        template_id=f"{of.id}.1",
        node_id=node_id,
        state=more.pop("state", ReplicaState.RUNNING),
        **more,
    )


def problem(answer: httpx.Response, status: int, code: str) -> Mapping[str, Any]:
    """Check that an answer is a problem document, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Mapping[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"] == f"urn:fallow:{code}", body
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body
