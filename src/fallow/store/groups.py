"""Group commit: writes that wait at the same time share one transaction, and so one sync of the disk.

One thread owns the writing connection. It takes all that is queued, runs each in a savepoint of its own, and answers
nobody before the transaction around them is durable.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fallow.store.contract import Batch, StoreError
from fallow.store.ledger import Ledger

MAX_GROUP = 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[Ledger], Any]
    future: asyncio.Future[Any]


_Outcome = tuple[Any, StoreError | None]


class GroupWriter:
    """Runs jobs on the ledger; hands commits to `publish` in the event loop before their callers are answered."""

    def __init__(self, ledger: Ledger, publish: Callable[[Sequence[Batch], int], None]) -> None:
        self._ledger = ledger
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="fallow-store-writer", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[Ledger], _T]) -> _T:
        """Run `job` on the writer's thread and return what it returned, once that is durable. Raises StoreError.

        A caller that stops waiting does not stop the job.
        """
        future: asyncio.Future[_T] = self._loop.create_future()
        self._jobs.put(_Job(job, future))
        return await future

    async def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        running = True
        while running:
            group: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                group.append(job)
                if len(group) == MAX_GROUP:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            running = job is not None
            if group:
                outcomes, batches = self._commit(group)
                self._loop.call_soon_threadsafe(self._settle, group, outcomes, batches, self._ledger.compacted)

    def _commit(self, group: Sequence[_Job]) -> tuple[list[_Outcome], list[Batch]]:
        try:
            with self._ledger.transaction() as batches:
                outcomes = [self._attempt(job) for job in group]
        except Exception as error:  # noqa: BLE001 - the thread must live on, or every later caller would wait for ever
            return [(None, _failure(error)) for _ in group], []
        return outcomes, batches

    def _attempt(self, job: _Job) -> _Outcome:
        try:
            with self._ledger.savepoint():
                return job.run(self._ledger), None
        except StoreError as error:
            return None, error
        except sqlite3.DataError as error:  # this value is too large; others may not be
            return None, _failure(error)

    def _settle(
        self, group: Sequence[_Job], outcomes: Sequence[_Outcome], batches: Sequence[Batch], compacted: int
    ) -> None:
        self._publish(batches, compacted)
        for job, (result, error) in zip(group, outcomes, strict=True):
            if job.future.done():
                continue
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)


def _failure(error: Exception) -> StoreError:
    failure = StoreError(f"the database could not write: {error}")
    failure.__cause__ = error
    return failure
