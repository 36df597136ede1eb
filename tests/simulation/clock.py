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
from heapq import heapify, heappush
from random import Random
from typing import Any
from unittest import mock

DISK_SECONDS = 0.003  # what runs in a thread in the product is disk writes

_owner: ContextVar["Process | None"] = ContextVar("owner", default=None)
NOBODY = Context()  # for what goes on whatever becomes of the process that began it, such as bytes on their way


class Stuck(RuntimeError):  # noqa: N818
    """Nothing is ready and no timer is set: the simulated world has ended."""


class _Jump(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.now += max(0.0, timeout)
        return []


class _Task(asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: Any, **options: Any) -> None:
        self.number = loop.next_number()  # first, since asyncio keeps every task in a set
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future):  # type: ignore[type-arg]
    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `time()` begins at 0 and is in seconds."""

    def __init__(self) -> None:
        self._jump = _Jump()
        self._made = 0
        self._frozen: dict[Process, list[asyncio.Handle]] = {}  # what each would do, were it not frozen
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        super().__init__(self._jump)
        self._clock_resolution = 1e-9
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._jump.now

    def next_number(self) -> int:
        self._made += 1
        return self._made

    def freeze(self, process: "Process") -> None:
        """Let a process take no step until it is thawed, as one that is stopped by a signal; others go on."""
        held = self._frozen.setdefault(process, [])
        for place, handle in enumerate(self._ready):
            if _owner_of(handle) is process:
                held.append(handle)
                self._ready[place] = asyncio.Handle(_nothing, (), self)  # asyncio counts them
        timers = [timer for timer in self._scheduled if _owner_of(timer) is process and not timer.cancelled()]
        for timer in timers:
            timer._scheduled = False  # type: ignore[attr-defined]
        held.extend(sorted(timers))
        self._scheduled[:] = [timer for timer in self._scheduled if timer not in timers]
        heapify(self._scheduled)
        self.call_soon = self._call_soon_unless_frozen  # type: ignore[method-assign]

    def thaw(self, process: "Process") -> None:
        """Let a frozen process go on; what is overdue happens now."""
        held = self._frozen.pop(process, [])
        if not self._frozen:
            self.__dict__.pop("call_soon", None)
        for handle in held:
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle):
                handle._scheduled = True  # type: ignore[attr-defined]
                heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

    def thaw_all(self) -> None:
        for process in list(self._frozen):
            self.thaw(process)

    def frozen(self, process: "Process") -> bool:
        return process in self._frozen

    def _call_soon_unless_frozen(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        context = copy_context() if context is None else context
        held = self._frozen.get(context.get(_owner))  # type: ignore[arg-type]
        if held is None:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        held.append(handle)
        return handle

    def create_future(self) -> Any:
        future: Any = _Future(loop=self)
        future.number = self.next_number()
        return future

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
