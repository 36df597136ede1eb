"""The agent of a server: a session, what is lent held within its limit, and the virtual machines that are ordered."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from fallow.agent.folder import lock
from fallow.agent.identity import IdentityStore
from fallow.agent.lending import Hosting, Lending, Measures
from fallow.agent.network import Networking
from fallow.agent.outbox import Outbox
from fallow.agent.peaks import Peaks
from fallow.agent.session import Session, SessionRefused
from fallow.agent.versions import Upgrader
from fallow.agent.vitals import Vitals
from fallow.client.tasks import first_to_end
from fallow.drivers.limits.contract import Limits
from fallow.model.frames import Frame
from fallow.model.labels import Variable
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenGranted
from fallow.model.vms import VmOrder, VmState, VmUse
from fallow.model.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    ChangePeers,
    Hello,
    SetNetwork,
    ToMember,
    Usage,
    Welcome,
)
from fallow.version import VERSION

_log = structlog.get_logger("fallow.agent.server")

REPORT_SECONDS = 1.0
LEAVE_SECONDS = 90.0  # so long what is lent may take to move away when this machine shuts down
STOP_SECONDS = 15.0  # and so long the machines that are left may take to stop
LOOK_SECONDS = 0.5


class Machines(Hosting, Protocol):
    """What makes and keeps virtual machines, as a whole."""

    @property
    def stopped(self) -> bool:
        """Say whether no machine runs, as far as is known."""

    def granted(self, frame: VmTokenGranted) -> None:
        """Take in a token."""

    def stop_all(self) -> None:
        """Stop every machine, whatever is ordered."""

    async def run(self) -> None:
        """Work until cancelled; machines that run go on."""


class NoMachines:
    """Of a server that cannot have virtual machines: it says so of each that is ordered."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._orders: tuple[VmOrder, ...] = ()

    def ordered(self, orders: tuple[VmOrder, ...]) -> None:
        """Take in all orders."""
        self._orders = orders

    @property
    def stopped(self) -> bool:
        """Say that no machine runs."""
        return True

    def granted(self, frame: VmTokenGranted) -> None:
        """Take in a token, for nothing."""

    def stop_all(self) -> None:
        """Stop nothing."""

    def uses(self) -> tuple[VmUse, ...]:
        """Say of each that there is none."""
        return tuple(VmUse(vm_id=order.vm_id, state=VmState.FAILED, problem=self._reason) for order in self._orders)

    def hold(self, memory_limit_bytes: int) -> None:
        """Hold nothing."""

    def stop_lowest(self) -> str:
        """Stop nothing."""
        return ""

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a server's agent works with. `machines` is given what sends frames, and returns what makes machines."""

    measuring: Measures
    limits: Limits
    machines: Callable[[Callable[[Frame], Awaitable[None]]], Machines]
    peaks: Peaks
    stopping: Callable[[], bool]  # says whether the whole machine shuts down, or what is lent should leave anyway


class ServerAgent:
    """Lends what this machine does not use. `clock` gives UTC seconds.

    Limits and machines stay as they are when it ends; the next agent goes on with them.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        identity: IdentityStore,
        *,
        variables: tuple[Variable, ...] = (),
        network: Networking | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._folder = folder
        self._identity = identity
        self._instance = secrets.token_hex(8)
        self._variables = variables
        self._network = network
        self._vitals = Vitals(folder=folder)
        self._session = Session(identity, self, Outbox(), clock=clock)
        self._machines = parts.machines(self._session.send)
        self._lending = Lending(parts.measuring, parts.limits, self._machines, folder, peaks=parts.peaks, clock=clock)

    @property
    def connected(self) -> bool:
        """Say whether a session is open."""
        return self._session.connected

    @property
    def lending(self) -> Lending:
        """Return what holds what is lent."""
        return self._lending

    def upgraded_by(self, upgrader: Upgrader | None) -> None:
        """Let `upgrader` carry out orders to become another version; without one they are refused."""
        self._session.upgrader = upgrader

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises SessionRefused, IdentityError, and FolderError when another agent is at work."""
        with lock(self._folder):
            if self._network is not None:
                await self._network.start()
            try:
                await first_to_end(
                    self._lending.run(),
                    self._machines.run(),
                    self._tell(),
                    self._keep_network(),
                    self._hold_session(stop),
                )
            except SessionRefused as refused:
                if refused.clean:
                    await asyncio.to_thread(self._parts.limits.hold_classes, 1.0, 1.0)  # there are few
                if self._network is not None:
                    await self._network.forget()
                raise

    async def _keep_network(self) -> None:
        if self._network is not None:
            await self._network.run(self._session.send)
        await asyncio.Event().wait()

    async def _hold_session(self, stop: asyncio.Event) -> None:
        left = asyncio.Event()
        leaving = asyncio.create_task(self._leave(stop, left))
        try:
            await self._session.run(left)
        except SessionRefused as refused:
            if refused.clean:
                await self._clean()
            raise
        finally:
            leaving.cancel()

    async def _leave(self, stop: asyncio.Event, left: asyncio.Event) -> None:
        """Wait for `stop`; if the whole machine shuts down, first let go what is lent."""
        await stop.wait()
        upgrader = self._session.upgrader
        try:
            swaps = upgrader is not None and upgrader.swapped
            if not swaps and self._session.connected and await asyncio.to_thread(self._parts.stopping):
                _log.info("this machine shuts down; what it lends moves away", at_most_seconds=LEAVE_SECONDS)
                await self._session.send(ServerLeaving(reason="the server shuts down"))
                if not await self._emptied(LEAVE_SECONDS):
                    self._machines.stop_all()
                    await self._emptied(STOP_SECONDS)
        except (OSError, TimeoutError) as error:
            _log.warning("what is lent was not moved", reason=str(error))
        finally:
            left.set()

    async def _emptied(self, seconds: float) -> bool:
        """Wait until no machine runs any more, for at most so long; say whether that came true."""
        try:
            async with asyncio.timeout(seconds):
                while not self._machines.stopped:  # noqa: ASYNC110 - they tell of nothing
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            _log.warning("machines still run", seconds=seconds)
            return False
        return True

    async def _clean(self) -> None:
        """Take away all machines, as the control plane does not know this server any more."""
        self._machines.ordered(())
        await self._emptied(LEAVE_SECONDS)
        self._identity.forget()

    async def _tell(self) -> None:
        """Report every second, and at once when there is something to act on."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._lending.news.clear()
            if self._session.connected:
                try:
                    await self._session.send(ServerReported(report=self._lending.report()))
                except (OSError, TimeoutError) as error:
                    _log.debug("report not sent", reason=str(error))
            pause = max(0.05, REPORT_SECONDS - (loop.time() - began))
            await first_to_end(self._lending.news.wait(), asyncio.sleep(pause))

    # what the session asks of its member

    def hello(self) -> Hello:
        """Return the first frame."""
        return Hello(
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL,
            instance=self._instance,
            agent_version=VERSION,
            boot_id=self._vitals.boot_id(),
            facts=self._vitals.facts(""),
            variables=self._variables,
            wireguard_key=self._network.key if self._network is not None else "",
        )

    def usage(self) -> Usage:
        """Return one sample."""
        return self._vitals.usage()

    def opened(self, welcome: Welcome) -> None:
        """Report at once: a server that nothing is known of is taken for full."""
        self._lending.news.set()
        if self._network is not None:
            self._network.opened(welcome)

    def received(self, frame: ToMember) -> None:
        """Take in what to lend, and tokens for machines."""
        if isinstance(frame, SetLending):
            self._lending.told(frame)
        elif isinstance(frame, VmTokenGranted):
            self._machines.granted(frame)
        elif isinstance(frame, SetNetwork | ChangePeers) and self._network is not None:
            self._network.received(frame)
        else:
            _log.warning("frame not for a server", frame=type(frame).__name__)

    def closed(self) -> None:
        """Go on with what was told last."""
