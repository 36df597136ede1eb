"""Takes in what agents say of their replicas; the only writer of the transitions that follow from it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from fallow.control.ids import new_id
from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.replicas import observe
from fallow.model.deployments import Observation, Replica, ReplicaState
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5
_TOLD = (ReplicaState.FAILED, ReplicaState.STOPPED)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    node_id: str
    observations: Sequence[Observation]
    stored: asyncio.Future[None]


class Observations:
    """Gathers what arrives from every session while the last commit was under way, and stores it in one go."""

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._queue: asyncio.Queue[_Batch] = asyncio.Queue()

    def submit(self, node_id: str, observations: Sequence[Observation]) -> asyncio.Future[None]:
        """Return a future that is done once `observations` of a node are stored, or were found to say nothing new.

        It is cancelled when they cannot be taken in at all.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Batch(node_id=node_id, observations=observations, stored=stored))
        return stored

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            batches = [await self._queue.get()]
            while not self._queue.empty():
                batches.append(self._queue.get_nowait())
            try:
                await self._take_in(batches)
            except Exception:  # noqa: BLE001 - one node's words must not end the loop for all; it is logged whole
                _log.exception("observations not taken in", nodes=sorted({batch.node_id for batch in batches}))
                await self._one_by_one(batches)
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_result(None)

    async def _one_by_one(self, batches: Sequence[_Batch]) -> None:
        """Take in all batches but those that fail by themselves."""
        for batch in batches:
            try:
                await self._take_in([batch])
            except Exception:  # noqa: BLE001 - as above
                batch.stored.cancel()

    async def _take_in(self, batches: Sequence[_Batch]) -> None:
        """Store until nothing is left that a conflict kept out."""
        while True:
            try:
                steps = self._steps(batches)
                if not steps or (await self._applier.apply(Plan(steps=steps))).dropped == 0:
                    return
            except StoreError as error:
                _log.warning("store refused observations; they are tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _steps(self, batches: Sequence[_Batch]) -> list[Step]:
        now = self._clock()
        changed: dict[str, Replica] = {}
        before: dict[str, ReplicaState] = {}
        for batch in batches:
            for observation in batch.observations:
                id_ = observation.replica_id
                replica = changed.get(id_) or self._cache.get("replicas", id_)
                if not isinstance(replica, Replica) or replica.node_id != batch.node_id:
                    continue  # forgotten already, or another node's: not this one's to speak of
                after = observe(replica, observation, now)
                if after is not None:
                    before.setdefault(id_, replica.state)
                    changed[id_] = after
        return [self._step(replica, before[replica.id], now) for replica in changed.values()]

    def _step(self, replica: Replica, before: ReplicaState, now: float) -> Step:
        if replica.state is before or replica.state not in _TOLD:
            return Step(puts=(replica,))
        text = f"{replica.id} {replica.state}" + (f": {replica.reason.text}" if replica.reason else "")
        told = event(
            new_id(), now, f"node:{replica.node_id}", "replica", replica.id, replica.id,
            f"Replica{replica.state.title()}", text, "warning" if replica.state is ReplicaState.FAILED else "info",
        )  # fmt: skip
        return Step(puts=(replica, told))
