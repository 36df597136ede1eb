"""Mistakes made on purpose. Each must break an invariant in some run, or the invariants are worth nothing."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any
from unittest import mock

import msgspec

import fallow.control.deployments
import fallow.control.leader
import fallow.control.members
import fallow.control.observations
import fallow.control.placement
import fallow.control.plane
import fallow.control.routes
import fallow.decide.deployments
import fallow.decide.slots
import fallow.decide.updates
import fallow.store.applier
from fallow.agent.journal import JournalWriter
from fallow.decide.members import judge
from fallow.decide.placement.ports import PortBook
from fallow.decide.plan import Plan, Step
from fallow.decide.replicas import observe
from fallow.decide.routes import render, withdrawn
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.meta import Reason
from fallow.model.routes import ProxyState
from fallow.store.applier import Applier
from simulation.promises import WIDE_FROM, is_shared


@dataclass(frozen=True)
class Mutation:
    """A mistake: `patches` puts it in; `within` is how many seeds may pass before one finds it."""

    name: str
    patches: Callable[[], list[Any]]
    within: int = 20
    shared: bool = False  # only several processes can make it
    breaks: str = ""  # the promise that it must break; empty: any

    def seeds(self) -> list[int]:
        """Return the seeds that are tried."""
        fitting = (seed for seed in count(WIDE_FROM if self.shared else 0) if is_shared(seed) or not self.shared)
        return list(islice(fitting, self.within))

    @contextmanager
    def made(self) -> Iterator[None]:
        patches = self.patches()
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()


def _taken_ports_ignored() -> list[Any]:
    return [
        mock.patch.object(PortBook, "occupy", lambda self, row, host_ports: None),
        mock.patch.object(fallow.control.placement, "fits", lambda snapshot, binding: None),
    ]


def _retired_before_healthy() -> list[Any]:
    def settle(view: Any) -> Iterator[Step]:
        for replicas in view.slots.values():
            for old in replicas[:-1]:
                yield view.retire(old, Reason(code="Replaced", text="mutated"))

    return [mock.patch.object(fallow.decide.deployments, "_settle_moves", settle)]


def _reports_ignored() -> list[Any]:
    def at_once(snapshot: Any, reports: Any, now: float, waited: Any, drain_seconds: float) -> Plan:
        return withdrawn(snapshot, reports, now, waited, 0.0)

    return [mock.patch.object(fallow.control.routes, "withdrawn", at_once)]


def _draining_ignored() -> list[Any]:
    def without(snapshot: Any, reports: Any, now: float, waited: Any, drain_seconds: float) -> Plan:
        deaf = {id_: msgspec.structs.replace(report, draining=()) for id_, report in reports.items()}
        return withdrawn(snapshot, deaf, now, waited, drain_seconds)

    return [mock.patch.object(fallow.control.routes, "withdrawn", without)]


def _leaving_stays_routed() -> list[Any]:
    def everything(snapshot: Any) -> ProxyState:
        as_if_running = {
            id_: msgspec.structs.replace(found, state=ReplicaState.RUNNING, healthy_since=found.state_since)
            if found.state in (ReplicaState.LEAVING, ReplicaState.STOPPING)
            else found
            for id_, found in snapshot.replicas.items()
        }
        return render(replace(snapshot, replicas=as_if_running))

    return [mock.patch.object(fallow.control.routes, "render", everything)]


def _grace_is_forgotten() -> list[Any]:
    def in_haste(snapshot: Any, last_seen: Any, now: float, rules: Any, new_id: Any) -> Plan:
        eager = replace(rules, dead_after_seconds=0.0, outage_at=-1e12, grace_factor=0.0, watching_since=-1e12)
        return judge(snapshot, last_seen, now, eager, new_id)

    return [mock.patch.object(fallow.control.members, "judge", in_haste)]


def _old_observations_count() -> list[Any]:
    def any_serial(replica: Replica, observation: Any, now: float) -> Replica | None:
        return observe(msgspec.structs.replace(replica, observed=None), observation, now)

    return [mock.patch.object(fallow.control.observations, "observe", any_serial)]


def _nothing_journalled() -> list[Any]:
    async def flushed(self: Any) -> None:
        return None

    return [mock.patch.object(JournalWriter, "flush", flushed)]


def _checks_skipped() -> list[Any]:
    async def blindly(self: Any, batch: Any) -> int:
        writes = [write for encoded in batch for write in encoded.writes]
        revision = await self._store.commit([], writes)
        await self._cache.wait(revision)
        return int(revision)

    return [mock.patch.object(Applier, "_commit", blindly)]


def _surge_unbounded() -> list[Any]:
    return [
        mock.patch.object(fallow.decide.updates, "portion", lambda deployment: deployment.spec.replicas),
        mock.patch.object(fallow.decide.updates, "unproven", lambda slots: 0),
    ]


def _acknowledged_too_early() -> list[Any]:
    async def promised(self: Any, step: Step) -> int:
        asyncio.get_running_loop().create_task(self._commit([fallow.store.applier._encode(step)]))
        return 0

    return [mock.patch.object(Applier, "commit", promised)]


def _fence_ignored() -> list[Any]:
    class Unfenced(Applier):
        def __init__(
            self, store: Any, cache: Any, check: Any = None, concerns: Any = None, fence: Any = None, **more: Any
        ):
            super().__init__(store, cache, check, concerns, **more)

    return [mock.patch.object(fallow.control.plane, "Applier", Unfenced)]


MUTATIONS = (
    Mutation("placement ignores taken ports", _taken_ports_ignored),
    Mutation("a replica is retired before its replacement is healthy", _retired_before_healthy),
    Mutation("what gateways report is ignored", _reports_ignored),
    Mutation("unfinished requests are ignored", _draining_ignored),
    Mutation("routes keep what is leaving", _leaving_stays_routed),
    Mutation("the dead are declared dead at once, without grace", _grace_is_forgotten),
    Mutation("an old observation counts", _old_observations_count),
    Mutation("containers start without a journal", _nothing_journalled),
    Mutation("the applier checks nothing", _checks_skipped),
    Mutation("an update renews everything at once", _surge_unbounded),
    Mutation("writes are acknowledged before they are stored", _acknowledged_too_early),
    Mutation("the fence is ignored", _fence_ignored, within=40, shared=True, breaks="only who leads decides"),
)
