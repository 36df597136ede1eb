"""Which start of an agent has a member: told from its sessions, on record for every process of the control plane."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused
from fallow.decide.clones import Claim, claim, current, fence_text
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.model.members import AgentRun, Member
from fallow.model.wire import Hello
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.sessions")

MAX_TEXT = 64


def run_of(hello: Hello, address: str, now: float) -> AgentRun | None:
    """Return which start of an agent a session is of; agents that do not say are told apart by the machine's boot.

    None when there is nothing to tell it by.
    """
    instance = hello.instance or (f"boot:{hello.boot_id}" if hello.boot_id else "")
    if not instance:
        return None
    return AgentRun(
        instance=instance[:MAX_TEXT],
        boot_id=hello.boot_id[:MAX_TEXT],
        address=address,
        agent_version=hello.agent_version[:MAX_TEXT],
        at=now,
    )


class Claims:
    """Takes note of sessions that have proved to be alive, and fences members that turn out to be two machines.

    `clock` gives UTC seconds.
    """

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def current(self, member_id: str) -> str:
        """Return the instance that has the member now, as far as is known here."""
        member = self._cache.get("members", member_id)
        return current(member.runs) if isinstance(member, Member) else ""

    def made(self, member_id: str, opened_after: str, run: AgentRun, end: Callable[[str], None]) -> None:
        """A session of `run` is alive: write it down, and `end` the session, with the reason, if it must not go on."""
        if self.current(member_id) == run.instance:
            return
        task = asyncio.create_task(self._make(member_id, opened_after, run, end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Write no more; the next session says it again."""
        for task in self._tasks:
            task.cancel()

    async def _make(self, member_id: str, opened_after: str, run: AgentRun, end: Callable[[str], None]) -> None:
        def decide() -> tuple[Step | None, Claim | None]:
            member = self._cache.get("members", member_id)
            if not isinstance(member, Member):
                return None, None
            found = claim(member.runs, opened_after, run)
            return self._step(member, run, found), found

        try:
            found = await commit_again(self._applier, decide)
        except (StoreError, Refused) as error:
            _log.warning("session not on record; it has to be opened again", member=member_id, error=str(error))
            end("the store does not answer; try again")
            return
        if found is not None and found.outcome == "stale":
            end("a newer session took its place")
        elif found is not None and found.outcome == "clones":
            end("another machine uses the same key")

    def _step(self, member: Member, run: AgentRun, found: Claim) -> Step | None:
        if found.outcome in ("known", "stale"):
            return None
        now = self._clock()
        changed = msgspec.structs.replace(member, runs=found.runs, updated_at=now)
        if found.other is None or member.fence:
            return Step(puts=(changed,))
        text = fence_text(member.name, found.other, run, member.role)
        told = event(
            new_id(), now, "sessions", "member", member.id, member.name, f"{member.role.title()}Fenced", text, "warning"
        )
        return Step(puts=(msgspec.structs.replace(changed, fence=text), told))
