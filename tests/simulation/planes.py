"""The control plane as it is, over a store that outlives it; killed before or after any of its commits."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

from fallow.control.callers import SessionRefused
from fallow.control.peers import CONNECT_SECONDS, Peers
from fallow.control.plane import ControlPlane
from fallow.control.runner import LoopMetrics
from fallow.control.sessions import Sessions
from fallow.control.settings import Settings
from fallow.drivers.authority import Issued
from fallow.drivers.registry import RegistryError
from fallow.drivers.registry.fake import FakeRegistry
from fallow.model.images import ResolvedImage
from fallow.model.members import Member
from fallow.model.peers import PEER_ROLE, ControlAddress
from fallow.store.contract import Batch, Check, Item, OutcomeUnknown, StoreError, Write
from fallow.store.memory import MemoryStore
from simulation.clock import NOBODY, Process, forever
from simulation.network import Network
from simulation.story import Story

CA_SHA256 = "c" * 64
NOWHERE = Path("/nonexistent")


class StoredTruth(MemoryStore):
    """The store itself; `committed` is told of every commit, in the instant it takes effect."""

    def __init__(self, committed: Callable[[int, Sequence[Write]], None]) -> None:
        super().__init__(later=_in_any_case)
        self._committed = committed

    def _write(self, writes: Sequence[Write]) -> int:
        revision = super()._write(writes)
        self._committed(revision, writes)
        return revision


def _in_any_case(seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    """Leases end by the store's clock, whatever becomes of those who hold them."""
    return asyncio.get_running_loop().call_later(seconds, call, context=NOBODY)


class StoreFaults:
    """What goes wrong between control planes and the store, and when the next control plane is killed or frozen."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.error_share = 0.0
        self.slow_seconds = 0.0
        self.lag: dict[Process, float] = {}  # processes that hear of each commit so many seconds later
        self.kill_in = 0  # kill at this commit from now on; 0: not
        self.freeze_in = 0  # freeze whoever is about to make this commit from now on; 0: not
        self.freeze: Callable[[Process], None] = lambda process: None
        self.kill_after = False  # once it has taken effect, not before
        self.kill: Callable[[Process], None] = lambda process: None
        self.heard_of: Callable[[str, int], None] = lambda name, revision: None  # a process has, of that commit

    def due(self) -> bool:
        if self.kill_in > 0:
            self.kill_in -= 1
            return self.kill_in == 0
        return False

    def freezes(self) -> bool:
        if self.freeze_in > 0:
            self.freeze_in -= 1
            return self.freeze_in == 0
        return False

    def errs(self) -> bool:
        return self.error_share > 0 and self._chance.random() < self.error_share

    def delay(self) -> float:
        return 0.0005 + self._chance.random() * (0.003 + self.slow_seconds)


class StoreHandle:
    """The store as one control plane reaches it."""

    def __init__(self, truth: StoredTruth, faults: StoreFaults, process: Process, shared: bool) -> None:
        self.shared = shared
        self.max_operations, self.max_bytes = truth.max_operations, truth.max_bytes
        self._truth = truth
        self._faults = faults
        self._process = process

    async def _pass(self) -> None:
        await asyncio.sleep(self._faults.delay())
        if not self._process.alive:
            await forever()

    async def get(self, key: str) -> Item | None:
        await self._pass()
        return await self._truth.get(key)

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        await self._pass()
        return await self._truth.list(prefix)

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        await self._pass()
        if self._faults.errs():
            raise StoreError("the store does not answer")
        if writes and self._faults.freezes():
            self._faults.freeze(self._process)
            await asyncio.sleep(0)  # until it is thawed
        due = bool(writes) and self._faults.due()
        if due and not self._faults.kill_after:
            self._faults.kill(self._process)
            await forever()
        revision = await self._truth.commit(checks, writes)
        if due:
            self._faults.kill(self._process)
            await forever()
        await self._pass()
        if self._faults.errs():
            raise OutcomeUnknown("the store's answer was lost")
        return revision

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        async with aclosing(self._truth.watch(prefix, after)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await self._pass()
                await asyncio.sleep(self._faults.lag.get(self._process, 0.0))
                if self._faults.errs():
                    raise StoreError("the watch broke")
                self._faults.heard_of(self._process.name, batch.revision)
                yield batch

    async def grant(self, ttl_seconds: float) -> str:
        await self._pass()
        return await self._truth.grant(ttl_seconds)

    async def keep_alive(self, lease: str) -> None:
        await self._pass()
        await self._truth.keep_alive(lease)

    async def revoke(self, lease: str) -> None:
        await self._pass()
        await self._truth.revoke(lease)

    async def compact(self, revision: int) -> None:
        await self._truth.compact(revision)

    async def close(self) -> None:
        """The truth outlives its users."""


class PaperAuthority:
    """A CA without keys: its certificates are never looked at here."""

    ca_sha256 = CA_SHA256
    ca_pem = "ca"

    def issue_member(self, csr_pem: str, role: str, member_id: str, now: float, ttl_seconds: float) -> Issued:
        return Issued(certificate_pem="paper", key_sha256=key_of_paper(csr_pem), expires_at=now + ttl_seconds)

    def issue_for_key(self, key: str, role: str, member_id: str, now: float, expires_at: float) -> Issued:
        return Issued(certificate_pem="paper", key_sha256=key_of_paper(key), expires_at=expires_at)


def key_of_paper(csr_pem: str) -> str:
    """Stand in for reading a real signing request."""
    return hashlib.sha256(csr_pem.encode()).hexdigest()


def key_of_paper_bundle(csr_pem: str, text: str, signature: str) -> str:
    """Stand in for a key that has signed what a machine says."""
    return csr_pem


def named_by_paper(certificate: bytes) -> tuple[str, str]:
    """Stand in for reading a real certificate: return the role and the id it names."""
    role, _, id_ = certificate.decode().partition("/")
    return role, id_


class MemorySessions(Sessions):
    """Sessions whose members are known by the connection they came on."""

    async def _member(self, role: str, member_id: str, certificate: bytes) -> Member:
        member = await self.cache.latest("members", member_id)
        if not isinstance(member, Member):
            raise SessionRefused("this member was removed; join again with a new token", final=True)
        return member


class NoRegistry(FakeRegistry):
    """No registry answers in the simulated network."""

    async def resolve(self, *_: object, **__: object) -> ResolvedImage:
        raise RegistryError("unreachable", "there are no registries here")


class MemoryPeers(Peers):
    """Links to other processes over the simulated network."""

    network: Network
    host: str

    async def _dial(self, address: ControlAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_SECONDS):
            name = f"{PEER_ROLE}/{self._leadership.peer.id}"
            return await self.network.dial(self.host, name, address.session_host)


class NoMetrics(LoopMetrics):
    """Counts nothing: in virtual time every run of a loop takes none."""

    def spent(self, loop: str, seconds: float) -> None:
        """Count nothing."""

    def ran_through(self, loop: str, now: float) -> None:
        """Note nothing."""


class Plane(ControlPlane):
    """One run of a control plane."""

    peers_type = MemoryPeers
    sessions_type = MemorySessions
    registry_type = NoRegistry

    def __init__(
        self, store: StoreHandle, settings: Settings, clock: Callable[[], float], process: Process, network: Network
    ) -> None:
        steady = asyncio.get_running_loop().time
        super().__init__(store, PaperAuthority(), settings, clock, NOWHERE, steady)  # type: ignore[arg-type]
        self._metrics = NoMetrics(CollectorRegistry())
        self.process = process
        self.host = settings.session_host
        self.running = False
        assert isinstance(self.peers, MemoryPeers)
        self.peers.network, self.peers.host = network, self.host

    async def load(self, story: Story) -> None:
        """Start the loops."""
        while True:
            try:
                await self.start()
                break
            except StoreError as error:
                story.tell("control", f"does not start: {error}")
                await asyncio.sleep(0.5)
        self.running = True
        story.tell("control", f"{self.process.name} works from revision {self.cache.revision} on")

    async def work(self, story: Story) -> None:
        """Work until killed."""
        await self.ended()
        if self.process.alive:
            story.broke("control loops never end", "they ended by themselves")

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take in a connection."""
        self.process.spawn(self.sessions._serve(reader, writer))
