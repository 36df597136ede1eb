"""The audit record as it is written: beside every change that a request makes, and for attempts that were refused."""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import structlog

from fallow.decide.audit import Call, entries, refused
from fallow.decide.plan import Step
from fallow.model.meta import Record
from fallow.store.applier import Applier
from fallow.store.contract import StoreError

WINDOW_SECONDS = 60.0
MAX_WINDOWS = 256  # of those who are being counted at once; all others share one

_log = structlog.get_logger("fallow.control")

# The request that the present task serves; control loops serve none.
CALLING: ContextVar[Call | None] = ContextVar("fallow_call", default=None)


def witness(clock: Callable[[], float], new_id: Callable[[], str]) -> Callable[[Step, Mapping[str, Record]], Step]:
    """Return what an `Applier` asks before it commits a single step: it adds the audit record of the present request.

    So no handler can forget it, and change and record are stored together or not at all.
    """

    def witnessed(step: Step, before: Mapping[str, Record]) -> Step:
        call = CALLING.get()
        if call is None:
            return step
        return replace(step, puts=(*step.puts, *entries(call, step, before, clock(), new_id())))

    return witnessed


@dataclass(slots=True)
class _Window:
    """Attempts alike since `began`, of which the first is stored and `more` are not yet."""

    call: Call
    outcome: str
    summary: str
    more: int = 0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class Attempts:
    """Records attempts that were refused: the first of its kind at once, those of the next minute as one entry.

    Whoever guesses tokens must not be able to fill the store. `clock` gives UTC seconds.
    """

    def __init__(self, applier: Applier, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._applier = applier
        self._clock = clock
        self._new_id = new_id
        self._windows: dict[tuple[str, ...], _Window] = {}

    async def note(self, call: Call, key: tuple[str, ...], outcome: str, summary: str) -> None:
        """Record one attempt; `key` says which are alike. Raises nothing: the refusal stands whatever happens here."""
        if key not in self._windows and len(self._windows) >= MAX_WINDOWS:
            key, call = ("others",), Call(request_id=call.request_id, operation=call.operation)
            summary = "attempts from more addresses than are counted apart"
        window = self._windows.get(key)
        if window is not None:
            window.more += 1
            return
        window = self._windows[key] = _Window(replace(call), outcome, summary)
        window.timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._end, key)
        await self._store(window, 1)

    async def flush(self) -> None:
        """Record what was counted and not yet stored; called before the end."""
        windows = list(self._windows.values())
        self._windows.clear()
        for window in windows:
            if window.timer is not None:
                window.timer.cancel()
            if window.more:
                await self._store(window, window.more)

    def _end(self, key: tuple[str, ...]) -> None:
        window = self._windows.pop(key, None)
        if window is not None and window.more:
            task = asyncio.ensure_future(self._store(window, window.more))
            _running.add(task)
            task.add_done_callback(_running.discard)

    async def _store(self, window: _Window, times: int) -> None:
        entry = refused(window.call, self._clock(), self._new_id(), window.outcome, window.summary, times)
        # Not as part of the request: it changes nothing that would have to be witnessed again.
        token = CALLING.set(None)
        try:
            await self._applier.commit(Step(puts=(entry,)))
        except StoreError as error:
            _log.error("a refused attempt is not in the audit record", who=entry.who, error=str(error))
        finally:
            CALLING.reset(token)


_running: set[asyncio.Future[None]] = set()  # the event loop itself keeps only weak references
