"""The agent of a gateway: a session for the wanted proxy state, and a proxy that is made to do it."""

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from fallow.agent.folder import lock
from fallow.agent.identity import IdentityStore
from fallow.agent.names import NameService
from fallow.agent.network import Networking
from fallow.agent.outbox import Outbox
from fallow.agent.session import Session, SessionRefused
from fallow.agent.versions import Upgrader
from fallow.agent.vitals import Vitals
from fallow.client.tasks import first_to_end
from fallow.drivers.proxy.contract import Proxy, ProxyError
from fallow.model.labels import Variable
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    ChangePeers,
    Hello,
    NamesReported,
    ProxyReported,
    SetNames,
    SetNetwork,
    SetProxy,
    ToMember,
    Usage,
    Welcome,
)
from fallow.version import VERSION

_log = structlog.get_logger("fallow.agent.gateway")

BUSY_SECONDS = 0.25  # between reports while something drains, waits or changes
QUIET_SECONDS = 2.0
RETRY_SECONDS = 1.0
PROXY_WAIT_SECONDS = 5.0  # so long the first hello waits for the proxy


class GatewayAgent:
    """Makes one proxy do what the control plane renders. `clock` gives UTC seconds.

    The proxy serves its last known state before the first session, and goes on when the session or this agent ends;
    who owns it may stop it. Without `network` it takes no part in an overlay.
    """

    def __init__(
        self,
        proxy: Proxy,
        folder: Path,
        identity: IdentityStore,
        *,
        variables: tuple[Variable, ...] = (),
        network: Networking | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._proxy = proxy
        self._folder = folder
        self._identity = identity
        self._instance = secrets.token_hex(8)
        self._names: NameService | None = None
        self._variables = variables
        self._network = network
        self._vitals = Vitals(folder=folder)
        self._session = Session(identity, self, Outbox(), clock=clock)
        self._wanted: ProxyState | None = None
        self._started = asyncio.Event()
        self._news = asyncio.Event()  # a state has arrived that is not yet applied
        self._report_now = asyncio.Event()
        self._trouble = ""
        self._version = ""

    @property
    def connected(self) -> bool:
        """Say whether a session is open."""
        return self._session.connected

    def serves(self, names: NameService) -> None:
        """Answer for names as well, as the control plane tells them."""
        self._names = names
        self._variables = (*self._variables, *names.variables)

    def upgraded_by(self, upgrader: Upgrader | None) -> None:
        """Let `upgrader` carry out orders to become another version; without one they are refused."""
        self._session.upgrader = upgrader

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises SessionRefused, IdentityError, and FolderError when another agent is at work."""
        with lock(self._folder):
            if self._network is not None:
                await self._network.start()
            try:
                await first_to_end(self._work(), self._keep_network(), self._hold_session(stop))
            except SessionRefused:
                if self._network is not None:
                    await self._network.forget()
                raise

    async def _keep_network(self) -> None:
        if self._network is not None:
            await self._network.run(self._session.send)
        await asyncio.Event().wait()

    async def _hold_session(self, stop: asyncio.Event) -> None:
        await first_to_end(self._started.wait(), stop.wait(), timeout_seconds=PROXY_WAIT_SECONDS)
        try:
            await self._session.run(stop)
        except SessionRefused as refused:
            if refused.clean:
                self._identity.forget()
            raise

    async def _work(self) -> None:
        await self._start()
        self._started.set()
        await first_to_end(self._apply_newest(), self._tell(), *([self._names.keep()] if self._names else []))

    async def _start(self) -> None:
        """Start the proxy, however long it takes."""
        while True:
            try:
                await self._proxy.start(None)
                self._version = await self._proxy.version()
            except ProxyError as error:
                self._complain("proxy does not start; trying again", str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._trouble = ""
                _log.info("proxy started", proxy=self._version)
                return

    def _complain(self, what: str, reason: str) -> None:
        if reason != self._trouble:
            _log.error(what, reason=reason)
        self._trouble = reason

    async def _apply_newest(self) -> None:
        """Apply the newest state; those that came meanwhile but one are skipped, and a failed one is tried again."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._wanted is None:
                await self._revive()
                continue
            try:
                await self._proxy.apply(self._wanted)
            except ProxyError as error:
                self._complain("proxy does not take its state; trying again", str(error))
                self._report_now.set()
                await first_to_end(self._news.wait(), asyncio.sleep(RETRY_SECONDS))
                await self._revive()
                self._news.set()
            else:
                self._trouble = ""
                self._report_now.set()

    async def _revive(self) -> None:
        """Start the proxy anew if it does not even answer."""
        try:
            await self._proxy.report()
        except ProxyError:
            await self._start()

    async def _tell(self) -> None:
        """Report after every change, and now and then."""
        while True:
            self._report_now.clear()
            pause = await self._tell_once()
            await first_to_end(self._report_now.wait(), asyncio.sleep(pause))

    async def _tell_once(self) -> float:
        """Report, and return after how many seconds to report again."""
        try:
            report = await self._proxy.report()
        except ProxyError as error:
            self._complain("proxy does not answer", str(error))
            self._news.set()  # applying the state again finds out what it takes to bring it back
            report = ProxyReport(applied_revision=0)
        if report.refused:
            self._news.set()  # the same state again probes what was refused
        try:
            await self._session.send(ProxyReported(report=_with_trouble(report, self._trouble)))
            if self._names is not None and self._names.told:
                await self._session.send(NamesReported(report=self._names.report()))
        except OSError as error:
            _log.debug("report not sent", reason=str(error))
        return BUSY_SECONDS if report.draining or report.refused or self._trouble else QUIET_SECONDS

    # what the session asks of its member

    def hello(self) -> Hello:
        """Return the first frame."""
        return Hello(
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL,
            instance=self._instance,
            agent_version=VERSION,
            boot_id=self._vitals.boot_id(),
            facts=self._vitals.facts(self._version),
            variables=self._variables,
            wireguard_key=self._network.key if self._network is not None else "",
        )

    def usage(self) -> Usage:
        """Return one sample."""
        return self._vitals.usage()

    def opened(self, welcome: Welcome) -> None:
        """Report at once: what is applied now decides what the control plane may stop."""
        self._report_now.set()
        if self._network is not None:
            self._network.opened(welcome)

    def received(self, frame: ToMember) -> None:
        """Take in a state; only the newest counts."""
        if isinstance(frame, SetProxy):
            self._wanted = frame.state
            self._news.set()
        elif isinstance(frame, SetNames) and self._names is not None:
            self._names.take(frame.change)
            self._report_now.set()
        elif isinstance(frame, SetNetwork | ChangePeers) and self._network is not None:
            self._network.received(frame)
        else:
            _log.warning("frame not for a gateway", frame=type(frame).__name__)

    def closed(self) -> None:
        """Go on with what was last known; names are not reported to who has not sent any."""
        if self._names is not None:
            self._names.told = False


def _with_trouble(report: ProxyReport, trouble: str) -> ProxyReport:
    """Return the report with what keeps the proxy from doing more, if anything does."""
    if not trouble:
        return report
    return ProxyReport(
        applied_revision=report.applied_revision,
        draining=report.draining,
        refused=report.refused,
        backends=report.backends,
        message=trouble[:500],
    )
