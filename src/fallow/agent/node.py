"""The agent of a node: a session for wishes and reports, a shell for containers, and logs on request."""

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from fallow.agent import journal
from fallow.agent.blobs import Blobs
from fallow.agent.folder import lock
from fallow.agent.identity import IdentityStore
from fallow.agent.images import Images
from fallow.agent.logs import LogStreams, engine_lines
from fallow.agent.network import Networking
from fallow.agent.outbox import Outbox
from fallow.agent.reserve import Reserve
from fallow.agent.session import Session, SessionRefused
from fallow.agent.shell import Shell
from fallow.agent.versions import Upgrader
from fallow.agent.vitals import Vitals
from fallow.client.tasks import first_to_end
from fallow.decide.agent import AgentMachine
from fallow.decide.agent import messages as m
from fallow.drivers.engine.contract import Engine
from fallow.model.frames import Frame
from fallow.model.image_frames import ImageTasksStored, PullGranted, SetImageTasks
from fallow.model.labels import Variable
from fallow.model.watermarks import Watermarks
from fallow.model.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    Assign,
    ChangePeers,
    CloseLog,
    Hello,
    OpenLog,
    SetNetwork,
    ToMember,
    Usage,
    Welcome,
)
from fallow.version import VERSION

_log = structlog.get_logger("fallow.agent.node")

CLEAN_POLL_SECONDS = 0.05
ENGINE_WAIT_SECONDS = 5.0  # so long the first hello waits for what the engine can say of itself


class NodeAgent:
    """Runs what the control plane assigns, on one engine. `clock` gives UTC seconds.

    Without `network` it takes the machine's network as it is, and no part in an overlay.

    Stopping it, or killing it, leaves every container running; the next one adopts them.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        identity: IdentityStore,
        *,
        variables: tuple[Variable, ...] = (),
        network: Networking | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._blobs: Blobs | None = None
        self._folder = folder
        self._identity = identity
        self._instance = secrets.token_hex(8)
        self._variables = variables
        self._machine = AgentMachine()
        self._outbox = Outbox()
        self._journal = journal.JournalWriter(folder)
        self._network = network
        self._images = Images(engine, folder, self._send, self._machine.needed_images, clock=clock)
        self._shell = Shell(engine, self._machine, self._journal, self._outbox.put, self._images, clock=clock)
        self._shell.reserve = Reserve(folder)
        self._shell.publishes_at(self._bind_address)
        if network is not None:
            self._shell.resolving = network.resolving
        self._session = Session(identity, self, self._outbox, clock=clock)
        self._logs = LogStreams(engine_lines(engine, self._machine.container_id), self._session.send)
        self._vitals = Vitals(folder=folder)

    @property
    def connected(self) -> bool:
        """Say whether a session is open."""
        return self._session.connected

    def upgraded_by(self, upgrader: Upgrader | None) -> None:
        """Let `upgrader` carry out orders to become another version; without one they are refused."""
        self._session.upgrader = upgrader

    def keeps(self, blobs: Blobs) -> None:
        """Let it keep blobs of images, for its engine and for other nodes."""
        self._blobs = blobs
        self._images.fetches_with(blobs, blobs.fetched)

    def cleans_at(self, watermarks: Watermarks | None) -> None:
        """Say how full the disk of its images has to be before it makes room by itself; None: it never does."""
        self._images.watermarks = watermarks

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises SessionRefused, IdentityError, and FolderError when another agent is at work."""
        with lock(self._folder):
            if self._network is not None:
                await self._network.start()
            known = journal.load(self._folder)
            if known is not None:
                self._shell.feed(
                    m.JournalLoaded(assignments=known.assignments, failed=known.failed, serial=known.serial)
                )
            try:
                await first_to_end(
                    self._shell.run(),
                    self._images.run(),
                    self._keep_network(),
                    self._keep_blobs(),
                    self._hold_session(stop),
                )
            except SessionRefused:
                if self._network is not None:
                    await self._network.forget()
                raise

    async def _send(self, frame: Frame) -> None:
        await self._session.send(frame)

    def _bind_address(self) -> str:
        return self._network.bind_address if self._network is not None else ""

    async def _keep_network(self) -> None:
        if self._network is not None:
            await self._network.run(self._session.send)
        await asyncio.Event().wait()

    async def _keep_blobs(self) -> None:
        if self._blobs is not None:
            await self._blobs.run(self._session.send)
        await asyncio.Event().wait()

    async def _hold_session(self, stop: asyncio.Event) -> None:
        await first_to_end(self._shell.met.wait(), stop.wait(), timeout_seconds=ENGINE_WAIT_SECONDS)
        if not self._shell.met.is_set():
            _log.warning("no engine yet; connecting without it")
        try:
            await self._session.run(stop)
        except SessionRefused as refused:
            if refused.clean:
                await self._clean(stop)
            raise

    async def _clean(self, stop: asyncio.Event) -> None:
        """Stop and remove every container of ours, however long the engine takes, then forget who we were."""
        _log.warning("this member was removed; its containers are stopped and removed")
        self._shell.feed(m.Assigned(full=True, assignments=(), removed=(), serials={}))
        while not self._machine.empty:
            await first_to_end(stop.wait(), asyncio.sleep(CLEAN_POLL_SECONDS))
            if stop.is_set():
                return  # the next start does the rest: it is turned away again
        self._identity.forget()
        _log.warning("nothing of this member is left here", folder=str(self._folder))

    # what the session asks of its member

    def hello(self) -> Hello:
        """Return the first frame: what this machine is, and everything it knows of its replicas."""
        info = self._shell.info
        return Hello(
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL,
            instance=self._instance,
            agent_version=VERSION,
            boot_id=self._vitals.boot_id(),
            facts=self._vitals.facts(f"{info.name} {info.version}" if info else "", info),
            variables=self._variables,
            observations=self._machine.observations(),
            wireguard_key=self._network.key if self._network is not None else "",
        )

    def usage(self) -> Usage:
        """Return one sample."""
        return self._vitals.usage(self._machine.running)

    def opened(self, welcome: Welcome) -> None:
        """Take in the lease; assignments follow by themselves."""
        if self._blobs is not None:
            self._blobs.opened(welcome.protocol)
        if self._network is not None:
            self._network.opened(welcome)
        self._images.opened(welcome)

    def received(self, frame: ToMember) -> None:
        """Take in assignments, the network and requests for logs."""
        if isinstance(frame, PullGranted) and self._blobs is not None:
            self._blobs.granted(frame.grant)
        match frame:
            case SetNetwork() | ChangePeers() if self._network is not None:
                self._network.received(frame)
            case Assign():
                self._shell.feed(
                    m.Assigned(
                        full=frame.full, assignments=frame.assignments, removed=frame.removed, serials=frame.serials
                    )
                )
            case SetImageTasks() | ImageTasksStored() | PullGranted():
                self._images.received(frame)
            case OpenLog():
                self._logs.open(frame)
            case CloseLog(stream_id=stream_id):
                self._logs.close(stream_id)
            case _:
                _log.warning("frame not for a node", frame=type(frame).__name__)

    def closed(self) -> None:
        """End what belonged to the session; containers are none of it."""
        self._logs.close_all()
        self._images.closed()
