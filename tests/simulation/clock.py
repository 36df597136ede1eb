"""An event loop whose time is virtual: when nothing is ready it jumps to the next timer. Nothing ever sleeps.

Everything that could make two runs of one seed differ is taken out: there are no threads, and tasks and futures hash by
the order they were made in, so that sets of them (task groups, `asyncio.wait`) are walked in that order.
"""

import asyncio
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any
from unittest import mock

DISK_SECONDS = 0.003  # what runs in a thread in the product is disk writes

_owner: ContextVar["Process | None"] = ContextVar("owner", default=None)
NOBODY = Context()  # for what goes on whatever becomes of the process that began it, such as bytes on their way


class Stuck(RuntimeError):  # noqa: N818
    """Nothing is ready and no timer is set: the simulated world has ended."""


class _Task(asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: Any, **options: Any) -> None:
        self.number = loop.next_number()  # first, since asyncio keeps every task in a set
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future):  # type: ignore[type-arg]
    number = 0  # few are ever asked for their hash: it is made then

    def __hash__(self) -> int:
        if not self.number:
            self.number = self.get_loop().next_number()  # type: ignore[attr-defined]
        return self.number


class _Handle(asyncio.Handle):
    """A handle without what serves debugging: millions of them are made."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., Any], args: Any, loop: Any, context: Context | None = None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """The same for a moment to come. It is on no list of its loop that would have to be told that it is cancelled."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Callable[..., Any], args: Any, loop: Any, context: Context | None = None
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `time()` begins at 0 and is in seconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._made = 0
        self._frozen: dict[Process | None, list[asyncio.Handle]] = {}  # what each would do, were it not frozen
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[tuple[float, int, asyncio.TimerHandle]]  # those of one instant in the order they were set
        super().__init__(selectors.SelectSelector())
        self.set_task_factory(_make_task)
        self.get_debug = bool  # type: ignore[method-assign]  # False, said by C: every future and task asks

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        if not self._frozen or (held := self._frozen.get(_owner_of(handle))) is None:
            self._ready.append(handle)
        else:
            held.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        self._made += 1
        heappush(self._scheduled, (when, self._made, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(self._now + delay, callback, args, self, context)
        self._made += 1
        heappush(self._scheduled, (timer._when, self._made, timer))
        return timer

    def _run_once(self) -> None:
        """Do what the loop of asyncio does, until it is stopped: there are no descriptors to look at."""
        ready, scheduled = self._ready, self._scheduled
        while not self._stopping:
            while scheduled and scheduled[0][2]._cancelled:
                heappop(scheduled)
            if not ready:
                if not scheduled:
                    raise Stuck("nothing is ready and no timer is set")
                self._now = max(self._now, scheduled[0][0])
            while scheduled and scheduled[0][0] <= self._now:
                ready.append(heappop(scheduled)[2])
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - told as asyncio tells it
                    self.call_exception_handler({"message": "a callback failed", "exception": error, "handle": handle})

    def next_number(self) -> int:
        self._made += 1
        return self._made

    def freeze(self, process: "Process") -> None:
        """Let a process take no step until it is thawed, as one that is stopped by a signal; others go on."""
        held = self._frozen.setdefault(process, [])
        for place, handle in enumerate(self._ready):
            if _owner_of(handle) is process:
                held.append(handle)
                self._ready[place] = asyncio.Handle(_nothing, (), self)  # they are counted
        timers = sorted(entry for entry in self._scheduled if not entry[2].cancelled())  # a heap, too
        held.extend(timer for _, _, timer in timers if _owner_of(timer) is process)
        self._scheduled[:] = [entry for entry in timers if _owner_of(entry[2]) is not process]

    def thaw(self, process: "Process") -> None:
        """Let a frozen process go on; what is overdue happens now."""
        for handle in self._frozen.pop(process, []):
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle):
                heappush(self._scheduled, (handle.when(), self.next_number(), handle))
            else:
                self._ready.append(handle)

    def thaw_all(self) -> None:
        for process in list(self._frozen):
            self.thaw(process)

    def frozen(self, process: "Process") -> bool:
        return process in self._frozen

    def create_future(self) -> Any:
        return _Future(loop=self)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Do after a moment what a thread would do; a process that was killed meanwhile does it no more."""
        future, owner = self.create_future(), _owner.get()

        def work() -> None:
            if owner is not None and not owner.alive:
                future.cancel()
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits, as a thread pool does
                future.set_exception(error)

        self.call_later(DISK_SECONDS, work)
        return future


def _owner_of(handle: asyncio.Handle) -> "Process | None":
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(_owner)


def _nothing() -> None:
    pass


def _make_task(loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
    task = _Task(coro, loop=loop, **options)
    context = options.get("context")
    owner = context.get(_owner) if context is not None else _owner.get()
    if owner is not None:
        owner.adopt(task)
    return task


class Process:
    """All the tasks that one simulated process has begun, so that it can be killed between any two of its steps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self._tasks: dict[Any, None] = {}

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work`, and all that it begins, as part of this process."""
        context = copy_context()
        context.run(_owner.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def adopt(self, task: Any) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: Any) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever needs it has asked; the rest is not worth a word when it is collected

    def kill(self) -> None:
        """End it at once. What its tasks do while they unwind no longer reaches anything."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()


def acting() -> str:
    """Return the name of the process whose turn it is; empty outside of any."""
    owner = _owner.get()
    return owner.name if owner is not None else ""


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()


@contextmanager
def steady_clocks(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let every steady clock be the loop's: what rests as long as its work took would tell how busy the machine is."""
    with mock.patch.object(time, "monotonic", loop.time), mock.patch.object(time, "perf_counter", loop.time):
        yield


class SeededSecrets:
    """What stands in for the module `secrets` where ids are made."""

    def __init__(self, chance: Random) -> None:
        self.randbelow = chance.randrange
        self.token_hex: Callable[[int], str] = lambda size: chance.randbytes(size).hex()
