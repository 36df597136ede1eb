"""What servers that lend say on their sessions: reports of themselves, requests for tokens, and that they shut down."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.hub import Hub, Link
from fallow.control.ids import new_id
from fallow.control.lending import Lendings
from fallow.control.refusals import Refused
from fallow.control.vm_tokens import VmTokens
from fallow.decide.harvest.leaving import leaving_step
from fallow.decide.plan import Step
from fallow.model.server_frames import ServerLeaving, ServerReported, VmTokenAsked, VmTokenGranted
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm, VmUse
from fallow.store.applier import Applier
from fallow.store.cache import Cache

MAX_ASKED = 16  # tokens that one server waits for

_log = structlog.get_logger("fallow.servers")


class Servers:
    """Takes in what servers say, and tells them what to do. One for each process. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, applier: Applier, hub: Hub, tokens: VmTokens, clock: Callable[[], float]) -> None:
        self.lendings = Lendings(cache)
        self._cache = cache
        self._applier = applier
        self._hub = hub
        self._tokens = tokens
        self._clock = clock
        self._answering: dict[Link, set[asyncio.Task[None]]] = {}

    def greet(self, link: Link) -> None:
        """Tell the server whose session has just been opened what to do."""
        self.lendings.greet(link)

    def ended(self, link: Link) -> None:
        """Forget a session that has ended."""
        self.lendings.closed(link)
        for task in self._answering.pop(link, ()):
            task.cancel()

    async def heard(self, link: Link, frame: ServerReported | VmTokenAsked | ServerLeaving) -> None:
        """Take in what a server says. Raises StoreError."""
        if isinstance(frame, ServerReported):
            self._hub.server_reported(link.member_id, self._own(link.member_id, frame.report))
        elif isinstance(frame, VmTokenAsked):
            self._answer(link, frame.vm_id)
        else:
            await self._leaves(link, frame.reason)

    async def run(self) -> None:
        """Tell servers what changes until cancelled."""
        await self.lendings.run()

    def _own(self, server_id: str, report: ServerReport) -> ServerReport:
        """Return the report without virtual machines that are not this server's, each once."""
        if not report.vms:
            return report
        own: dict[str, VmUse] = {}
        for use in report.vms:
            vm = self._cache.get("vms", use.vm_id)
            if isinstance(vm, Vm) and vm.server_id == server_id:
                own.setdefault(use.vm_id, use)
        if len(own) == len(report.vms):
            return report
        return msgspec.structs.replace(report, vms=tuple(own.values()))

    def _answer(self, link: Link, vm_id: str) -> None:
        """Answer without holding up what else is said on the session."""
        tasks = self._answering.setdefault(link, set())
        if len(tasks) >= MAX_ASKED:
            link.send(VmTokenGranted(vm_id=vm_id, problem="this server asks for too many tokens at once"))
            return

        async def answer() -> None:
            link.send(await self._tokens.grant(link.member_id, vm_id))

        task = asyncio.create_task(answer(), name=f"vm token {vm_id}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _leaves(self, link: Link, reason: str) -> None:
        """Store that a server shuts down, so that whichever process leads moves away what it has lent."""

        def decide() -> tuple[Step | None, None]:
            snapshot = self._cache.snapshot()
            return leaving_step(snapshot, link.member_id, link.instance, reason, self._clock(), new_id), None

        try:
            await commit_again(self._applier, decide)
        except Refused as refused:
            _log.warning("a server that shuts down is not on record", member=link.member_id, reason=str(refused))
