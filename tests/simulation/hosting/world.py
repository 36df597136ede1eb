"""The world of one cluster with servers that lend; their virtual machines boot, join, and are nodes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from unittest import mock

import msgspec

import fallow.agent.lending
import fallow.agent.machines
import fallow.decide.agent.vms
from fallow.agent.lending import Lending
from fallow.agent.machines import Machines
from fallow.agent.outbox import Outbox
from fallow.agent.server import Parts, ServerAgent
from fallow.client.tasks import first_to_end
from fallow.control.refusals import Refused
from fallow.model.frames import Frame
from fallow.model.members import Facts, JoinRequest, Role
from fallow.model.registrations import JoinWaiting, SignedBundle
from fallow.model.servers import ServerReport
from fallow.store.contract import StoreError
from simulation.clock import Process
from simulation.hosting.servers import Driver, Foretelling, Guest, Reading, Server, Told
from simulation.hosting.watch import HostingWatch
from simulation.members import Folder, Identity, Paper, Vitals, _session
from simulation.story import Story
from simulation.world import EPOCH, Running, World

BOOT_SECONDS = (1.0, 5.0)
JOIN_AGAIN_SECONDS = 2.0
ANSWER_SECONDS = 20.0
# Waits of the product that are long beside a run of two minutes.
JOIN_SECONDS, HALT_SECONDS = 60.0, 40.0


class Sheet(Paper):
    """A file on a disk that may be full."""

    def __init__(self, folder: "Disk") -> None:
        self._folder = folder

    def write(self, data: bytes) -> None:
        """Replace what is in it. Raises OSError."""
        if self._folder.full:
            raise OSError(28, "No space left on device")
        super().write(data)

    @property
    def parent(self) -> "Disk":
        """Return the folder."""
        return self._folder


class Disk(Folder):
    """A server's folder; it outlives the agent."""

    def __init__(self) -> None:
        super().__init__()
        self.default_factory = lambda: Sheet(self)
        self.full = False


@dataclass
class ServerRunning(Running):
    """A server's agent just now, and the machine it is on."""

    folder: Disk = field(default_factory=Disk)
    server: Server | None = None
    stop: asyncio.Event | None = None  # ends its agent in good order


class Agent(ServerAgent):
    """One run of a server's agent."""

    def __init__(self, world: "HostingWorld", running: ServerRunning, process: Process) -> None:
        server, folder, chance = running.server, running.folder, world.chance["agents"]
        assert server is not None
        self.server = server
        clock = lambda: EPOCH + world.now() + running.skew  # noqa: E731
        identity = Identity(running.member_id, running.joined_at, folder)
        driver = Driver(server, process, world.told, chance)
        watch = world.watch

        class Kept(Machines):
            def stop_lowest(self) -> str:
                """Tell that memory is so scarce that a machine stops with all it holds."""
                watch.emergency(server)
                return super().stop_lowest()

        parts = Parts(
            measuring=Reading(server),
            limits=server.limits,
            machines=lambda _: Kept({"vm": driver}, folder, self._send, clock),  # type: ignore[arg-type]
            peaks=Foretelling(),
            stopping=lambda: server.shuts_down,
        )
        super().__init__(parts, folder, identity, clock=clock)  # type: ignore[arg-type]
        self._lending.__class__ = Hanging
        self._lending.server = server  # type: ignore[attr-defined]
        self._session = _session(identity, self, Outbox(), world.network, chance, clock)
        self._vitals = Vitals(server.cpus)  # type: ignore[assignment]

    async def _send(self, frame: Frame) -> None:
        await self._session.send(frame)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; the folder is not one that could be locked."""
        await first_to_end(self._lending.run(), self._machines.run(), self._tell(), self._hold_session(stop))


class Hanging(Lending):
    """What is lent, held by an agent whose reading of the machine may hang."""

    server: Server

    async def _measure(self) -> None:
        while self.server.blind == "hangs":
            await asyncio.sleep(0.1)
        await super()._measure()


class HostingWorld(World):
    """Control planes, nodes and gateways as ever, and servers by member id."""

    watch_type = HostingWatch
    watch: HostingWatch

    def __init__(self, seed: int, story: Story) -> None:
        super().__init__(seed, story)
        self.wide = False  # deployments are such as work
        self.servers: dict[str, ServerRunning] = {}
        self.told = Told(boots=self._boots, ends=self._ends)
        self.watch.world = self

    def start_plane(self, host: str) -> None:
        """Start a control plane, and see what servers tell it."""
        before = self.planes.get(host)
        super().start_plane(host)
        plane = self.planes[host]
        if plane is before:
            return
        noted = plane.hub.server_reported

        def heard(member_id: str, report: ServerReport) -> None:
            self.watch.reported(member_id, report)
            noted(member_id, report)

        plane.hub.server_reported = heard  # type: ignore[method-assign]

    # servers

    def add_server(self, member_id: str, name: str, cpus: float, joined_at: str) -> ServerRunning:
        """Let there be a server that has joined."""
        server = Server(member_id, name, cpus, self.chance["engines"], self.now)
        running = ServerRunning(member_id=member_id, name=name, joined_at=joined_at, server=server)
        self.members[member_id] = self.servers[member_id] = running
        self.watch.servers[member_id] = server
        return running

    def start_agent(self, running: Running) -> None:
        """Start an agent; that of a node in a virtual machine only while this runs."""
        if not isinstance(running, ServerRunning):
            guest = self.guest_of(running.member_id)
            if guest is None or guest.process is not None:
                super().start_agent(running)
            return
        server = running.server
        assert server is not None
        if running.process is not None or running.refused or not server.powered:
            return
        server.shuts_down = False
        running.leaves = False
        running.stop = asyncio.Event()
        process = running.process = Process(running.name)
        running.agent = Agent(self, running, process)
        self.watch.agent_started(server)
        process.spawn(self._run_agent(running, running.agent, running.stop))

    def power_cut(self, running: Running) -> None:
        """Cut the power: of a server with all its machines; of a node in a machine, its machine ends."""
        if isinstance(running, ServerRunning):
            self.kill_agent(running, "loses power")
            assert running.server is not None
            self._power_off(running.server)
            return
        guest = self.guest_of(running.member_id)
        if guest is None:
            super().power_cut(running)
        elif guest.process is not None:
            server = self.server_of(guest)
            server.machines.end(guest.vm_id)
            self._ends(server, guest, "crashed")

    def _power_off(self, server: Server) -> None:
        server.powered = False
        server.work.kill()
        for guest in server.running():
            server.machines.end(guest.vm_id)
            self._ends(server, guest, "crashed")

    def power_on(self, running: ServerRunning) -> None:
        """Give a server power again: its limits are gone with its kernel, its disks are not."""
        server = running.server
        assert server is not None
        running.leaves = False
        if not server.powered:
            server.powered = True
            server.limits.__init__()  # type: ignore[misc]
            server.work = Process(f"{server.name} hardware")
        self.start_agent(running)

    # virtual machines

    def guest_of(self, member_id: str) -> Guest | None:
        """Return the machine that a node is in; None: it is a machine of its own, or its disk is gone."""
        return self.watch.guest_of(member_id)

    def server_of(self, guest: Guest) -> Server:
        """Return the server of a machine."""
        return next(found for found in self.watch.servers.values() if found.guests.get(guest.vm_id) is guest)

    def _boots(self, server: Server, guest: Guest) -> None:
        if guest.process is not None:  # it was paused
            if guest.member_id:
                self.network.heal(guest.member_id)
            return
        process = guest.process = Process(f"{server.name} {guest.vm_id}")
        self.watch.vm_boots(server, guest)
        process.spawn(self._boot(server, guest, process))

    def _ends(self, server: Server, guest: Guest, how: str) -> None:
        self.watch.vm_ends(server, guest, how)
        process, guest.process = guest.process, None
        running = self.members.get(guest.member_id)
        if running is not None:
            self.network.heal(guest.member_id)
            self.kill_agent(running, f"ends as {guest.vm_id} is {how}")
        if guest.machine is not None and guest.machine.powered:
            guest.machine.power_cut()
        if process is not None:
            process.alive = False
            process.kill()

    async def _boot(self, server: Server, guest: Guest, process: Process) -> None:
        await asyncio.sleep(self.chance["engines"].uniform(*BOOT_SECONDS))
        if server.boots_fail > 0:
            server.boots_fail -= 1
            server.machines.end(guest.vm_id)
            self._ends(server, guest, "crashed as it booted")
            return
        if not guest.member_id and not await self._join(server, guest):
            return
        running = self.members[guest.member_id]
        assert guest.machine is not None
        spec = server.machines.machines[guest.vm_id].spec
        guest.machine.info = replace(guest.machine.info, cpus=spec.cpus, memory_bytes=spec.memory_bytes)
        self.start_agent(running)

    async def _join(self, server: Server, guest: Guest) -> bool:
        """Join with the token on the seed, as a first boot does; say whether that came true."""
        seed = guest.seed
        if seed is None or not seed.token:
            return False
        address = f"10.1.0.{guest.number}"
        while True:
            for plane in list(self.planes.values()):
                if not plane.running:
                    continue
                asked = plane.process.spawn(plane.admission.join(_signed(guest, seed.token, plane.clock()), address))
                done, _ = await asyncio.wait([asked], timeout=ANSWER_SECONDS)
                if not done:
                    asked.cancel()
                if not done or asked.cancelled():
                    continue
                error = asked.exception()
                if isinstance(error, Refused) and error.problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.story.tell(guest.vm_id, f"does not join: {error.problem.title}")
                    return False
                if error is None and not isinstance(asked.result(), JoinWaiting):
                    self._joined(guest, asked.result(), address, plane.host)
                    return True
                if error is not None and not isinstance(error, Refused | StoreError):
                    raise error
            await asyncio.sleep(JOIN_AGAIN_SECONDS)

    def _joined(self, guest: Guest, identity: Any, address: str, joined_at: str) -> None:
        guest.member_id = identity.member_id
        running = self.add_node(identity.member_id, identity.name, address, joined_at)
        guest.machine = running.machine
        self.story.tell(guest.vm_id, f"joined as {identity.name}, {identity.member_id}")


def _write(sheet: Sheet, data: bytes) -> None:
    sheet.write(data)


def _signed(guest: Guest, token: str, now: float) -> SignedBundle:
    facts = Facts(hostname=guest.vm_id, architecture="amd64", cpus=4.0, memory_bytes=8 * 2**30)
    request = JoinRequest(
        token=token, csr_pem=f"disk {guest.number}", role=Role.NODE, facts=facts, sent_at=now
    )  # fmt: skip
    return SignedBundle(bundle=msgspec.json.encode(request).decode(), signature="paper")


@contextmanager
def hosting_replaced() -> Iterator[None]:
    """Replace what a server's agent reaches outside with, and shorten its longest waits."""
    with (
        mock.patch.object(fallow.agent.lending, "write_private", _write),
        mock.patch.object(fallow.agent.machines, "write_private", _write),
        mock.patch.object(fallow.decide.agent.vms, "JOIN_SECONDS", JOIN_SECONDS),
        mock.patch.object(fallow.decide.agent.vms, "HALT_SECONDS", HALT_SECONDS),
    ):
        yield
