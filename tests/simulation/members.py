"""Agents of nodes and gateways as they are, on simulated machines, with what would reach outside replaced."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from fallow.agent.gateway import GatewayAgent
from fallow.agent.images import Images
from fallow.agent.journal import JournalWriter
from fallow.agent.node import NodeAgent
from fallow.agent.outbox import Outbox
from fallow.agent.session import CONNECT_SECONDS, Session
from fallow.agent.shell import Shell
from fallow.client.tasks import first_to_end
from fallow.decide.agent import messages as m
from fallow.drivers.engine.contract import EngineInfo
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.fake import FakeDisk, FakeProxy
from fallow.model.members import Facts
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.wire import Usage, Welcome
from simulation.clock import Process
from simulation.machines import Engine, Machine, Prober
from simulation.network import Network

NOWHERE = Path("/nonexistent")
NEVER = 1e12


class Paper:
    """A file; nothing is in it before it is written."""

    data: bytes | None = None

    def write(self, data: bytes) -> None:
        self.data = data

    def read_bytes(self) -> bytes:
        if self.data is None:
            raise FileNotFoundError
        return self.data


class Folder(defaultdict[str, Paper]):
    """A folder of a member; it outlives the agent."""

    def __init__(self) -> None:
        super().__init__(Paper)

    def __truediv__(self, name: str) -> Paper:
        return self[name]


class Identity:
    """An identity without keys; it never has to be renewed."""

    refusal = ""

    def __init__(self, member_id: str, joined_at: str, folder: Folder) -> None:
        self.member_id = member_id
        self.saved = SimpleNamespace(url=f"https://{joined_at}:8443")
        self._joined_at = joined_at
        self.folder = folder

    def session_address(self) -> tuple[str, int]:
        return self._joined_at, 8444

    def renew_at(self, chance: float) -> float:
        return NEVER

    def expires_at(self) -> float:
        return NEVER

    def clear_refusal(self) -> None:
        self.refusal = ""

    def note_refusal(self, reason: str) -> None:
        self.refusal = reason

    def forget(self) -> None:
        self.clear_refusal()

    def clock_skew(self) -> float:
        return 0.0


class MemorySession(Session):
    """A session over the simulated network."""

    network: Network
    identity: Identity

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Welcome:
        self._unanswered = 0  # it is the network's doing, never that of a certificate: here they need no renewal
        return await super()._greet(reader, writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_SECONDS):
            id_ = self.identity.member_id
            return await self.network.dial(id_, f"member/{id_}", self._control.current.session_host)


class Vitals:
    """A machine's facts, always the same."""

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus

    def boot_id(self) -> str:
        return "boot"

    def facts(self, engine: str, info: EngineInfo | None = None) -> Facts:
        return Facts(hostname="sim", architecture="amd64", engine=engine, cpus=self._cpus, memory_bytes=8 * 2**30)

    def usage(self, containers: int = 0) -> Usage:
        return Usage(containers=containers)


def _session(identity: Identity, agent: Any, outbox: Outbox, network: Network, chance: Random, clock: Any) -> Session:
    session = MemorySession(identity, agent, outbox, clock=clock, chance=chance.random)  # type: ignore[arg-type]
    session.network, session.identity = network, identity
    return session


class Node(NodeAgent):
    """One run of a node's agent."""

    def __init__(
        self, machine: Machine, process: Process, identity: Identity, network: Network, chance: Random
    ) -> None:
        engine = Engine(machine, process, chance)
        super().__init__(engine, NOWHERE, identity, clock=machine.clock)  # type: ignore[arg-type]
        self.engine = engine
        self._machine_below = machine
        self._outbox = Outbox()
        self._journal = JournalWriter(NOWHERE, machine.disk.write)
        self._images = Images(engine, NOWHERE, self._send, self._machine.needed_images, clock=machine.clock)
        self._images.notes = self._images.inventory._notes = machine.disk.notes()
        self._shell = Shell(engine, self._machine, self._journal, self._outbox.put, self._images, clock=machine.clock)
        self._shell._prober = Prober(machine)  # type: ignore[assignment]
        self._session = _session(identity, self, self._outbox, network, chance, machine.clock)
        self._vitals = Vitals(machine.info.cpus)  # type: ignore[assignment]

    async def run(self, stop: asyncio.Event) -> None:
        known = self._machine_below.disk.journal()
        if known is not None:
            self._shell.feed(m.JournalLoaded(assignments=known.assignments, failed=known.failed, serial=known.serial))
        await first_to_end(self._shell.run(), self._images.run(), self._hold_session(stop))

    def check(self) -> None:
        """Raise AssertionError when the state machine is in a state that must never be."""
        self._machine.check_invariants()


class Reach:
    """The places that do not answer, asked one at a time: what FakeProxy takes for a set of them."""

    def __init__(self, answers: Callable[[str, int], str]) -> None:
        self._answers = answers

    def __contains__(self, place: tuple[str, int]) -> bool:
        return not self._answers(*place)


class GatewayHost:
    """A gateway's machine: the proxy and what it keeps on its disk. The proxy outlives the agent."""

    def __init__(self, member_id: str, answers: Callable[[str, int], str]) -> None:
        self.member_id = member_id
        self._answers = answers
        self._disk = FakeDisk()
        self.faults = 0  # so many of the next orders to the proxy fail
        self.proxy = self._new_proxy()

    def _new_proxy(self) -> FakeProxy:
        proxy = FakeProxy(self._disk)
        proxy.unreachable = Reach(self._answers)  # type: ignore[assignment]
        return proxy

    def reboot(self) -> None:
        self.proxy = self._new_proxy()

    @property
    def serving(self) -> bool:
        return self.proxy._running

    def sends_to(self) -> set[str]:
        """Return every replica that a new request could reach, whether it answers or not."""
        if not self.serving:
            return set()
        return {endpoint.id for pool in self.proxy._pools.values() for endpoint in pool.usable}

    def under_way(self) -> set[str]:
        """Return every replica with an unfinished request."""
        return {found.endpoint.id for found in self.proxy._under_way if found.endpoint} if self.serving else set()


class Proxy:
    """A gateway's proxy as its agent drives it: with the time it takes, and failures."""

    def __init__(self, host: GatewayHost, process: Process, chance: Random, applied: Callable[[ProxyState], None]):
        self._host = host
        self._process = process
        self._chance = chance
        self._applied = applied

    async def start(self, last_known: ProxyState | None) -> None:
        await self._work()
        if self._host.serving:
            await self._host.proxy.release()
        await self._host.proxy.start(last_known)

    async def apply(self, state: ProxyState) -> None:
        await self._work()
        await self._host.proxy.apply(state)
        self._applied(state)
        await asyncio.sleep(0.002)

    async def report(self) -> ProxyReport:
        await asyncio.sleep(0.002)
        report = await self._host.proxy.report()
        await asyncio.sleep(0.002)
        return report

    async def version(self) -> str:
        return "fake 1.0"

    async def stop(self) -> None:
        await self._host.proxy.stop()

    async def _work(self) -> None:
        await asyncio.sleep(0.005 + self._chance.random() * 0.03)
        if not self._process.alive:
            raise ProxyError("the agent is dead")
        if self._host.faults > 0:
            self._host.faults -= 1
            raise ProxyError("the proxy does not take orders")


class Gateway(GatewayAgent):
    """One run of a gateway's agent."""

    def __init__(
        self, proxy: Proxy, identity: Identity, network: Network, chance: Random, clock: Callable[[], float]
    ) -> None:
        super().__init__(proxy, NOWHERE, identity, clock=clock)  # type: ignore[arg-type]
        self._session = _session(identity, self, Outbox(), network, chance, clock)
        self._vitals = Vitals(1.0)  # type: ignore[assignment]

    async def run(self, stop: asyncio.Event) -> None:
        await first_to_end(self._work(), self._hold_session(stop))
