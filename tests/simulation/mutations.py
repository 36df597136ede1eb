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
import fallow.decide.updates
import fallow.store.applier
from fallow.agent.control_addresses import ControlAddresses
from fallow.agent.journal import JournalWriter
from fallow.control.intake import Unstored
from fallow.decide.members import judge
from fallow.decide.placement.ports import PortBook
from fallow.decide.plan import Plan, Step
from fallow.decide.replicas import observe
from fallow.decide.routes import Rendered, render_all, withdrawn
from fallow.decide.slots import Slots
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.members import MemberState
from fallow.model.meta import Reason
from fallow.model.updates import UpdateConfig
from fallow.store.applier import Applier
from simulation.promises import WIDE_FROM, is_shared


@dataclass(frozen=True)
class Mutation:
    """A mistake: `patches` puts it in; it must break the promise `breaks`, not just any, within so many seeds."""

    name: str
    breaks: str
    patches: Callable[[], list[Any]]
    first: int = 0  # the first seed that is tried: near one that is known to find it, to be quick
    within: int = 20
    shared: bool = False  # only several processes can make it

    def seeds(self) -> list[int]:
        """Return the seeds that are tried."""
        fitting = (seed for seed in count(self.first) if is_shared(seed) or not self.shared)
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
        mock.patch.object(fallow.control.placement, "fits", lambda *_: None),
    ]


def _retired_before_healthy() -> list[Any]:
    def settle(view: Any) -> Iterator[Step]:
        for replicas in view.slots.values():
            for old in replicas[:-1]:
                yield view.retire(old, Reason(code="Replaced", text="mutated"))

    return [mock.patch.object(fallow.decide.deployments, "_settle_moves", settle)]


def _reports_ignored() -> list[Any]:
    def at_once(snapshot: Any, reports: Any, now: float, waited: Any, *_: Any) -> Plan:
        return withdrawn(snapshot, reports, now, waited, 0.0)

    return [mock.patch.object(fallow.control.routes, "withdrawn", at_once)]


def _draining_ignored() -> list[Any]:
    def without(snapshot: Any, reports: Any, *rest: Any) -> Plan:
        deaf = {id_: msgspec.structs.replace(report, draining=()) for id_, report in reports.items()}
        return withdrawn(snapshot, deaf, *rest)

    return [mock.patch.object(fallow.control.routes, "withdrawn", without)]


def _leaving_stays_routed() -> list[Any]:
    def everything(snapshot: Any, *rest: Any) -> Rendered:
        as_if_running = {
            id_: msgspec.structs.replace(found, state=ReplicaState.RUNNING, healthy_since=found.state_since)
            if found.state in (ReplicaState.LEAVING, ReplicaState.STOPPING)
            else found
            for id_, found in snapshot.replicas.items()
        }
        return render_all(replace(snapshot, replicas=as_if_running), *rest)

    return [mock.patch.object(fallow.control.routes, "render_all", everything)]


def _grace_is_forgotten() -> list[Any]:
    def in_haste(snapshot: Any, last_seen: Any, now: float, rules: Any, new_id: Any) -> Plan:
        eager = replace(
            rules, dead_after_seconds=0.0, outage_at=-1e12, held_up_at=-1e12, grace_factor=0.0, watching_since=-1e12
        )
        return judge(snapshot, last_seen, now, eager, new_id)

    return [mock.patch.object(fallow.control.members, "judge", in_haste)]


def _old_observations_count() -> list[Any]:
    def any_serial(replica: Replica, observation: Any, now: float) -> Replica | None:
        return observe(msgspec.structs.replace(replica, observed=None), observation, now)

    take_in = Unstored.take_in

    async def once_more(self: Any, *batch: Any) -> None:
        self._stored = 0  # or a session keeps out what arrives again, and only what agents say again would count
        await take_in(self, *batch)

    return [
        mock.patch.object(fallow.control.observations, "observe", any_serial),
        mock.patch.object(Unstored, "take_in", once_more),
    ]


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


def _nodes_count_as_ready() -> list[Any]:
    return [mock.patch.object(Slots, "node_ready_since", lambda slots, replica: 0.0)]


def _back_is_as_good() -> list[Any]:
    def since(slots: Any, replica: Replica) -> float | None:
        node = slots.members.get(replica.node_id)
        return 0.0 if node is not None and node.state is MemberState.READY else None

    return [mock.patch.object(Slots, "node_ready_since", since)]


def _rollbacks_are_rolled_back() -> list[Any]:
    give_up = fallow.decide.updates._give_up
    eager = UpdateConfig(failure_action="rollback")

    def again(slots: Any, status: Any, failed: Any) -> Any:
        with mock.patch.object(fallow.decide.updates, "config_of", lambda deployment: eager):
            return give_up(slots, msgspec.structs.replace(status, rollback=False), failed)

    return [mock.patch.object(fallow.decide.updates, "_give_up", again)]


def _stops_all_first() -> list[Any]:
    def everything(slots: Any, owners: list[Replica], size: int) -> Iterator[Step]:
        for owner in owners:
            yield slots.retire(owner, Reason(code=fallow.decide.updates.STOPPED_FIRST, text="mutated"))

    return [mock.patch.object(fallow.decide.updates, "_stop_first", everything)]


def _failures_unseen() -> list[Any]:
    return [mock.patch.object(fallow.decide.updates, "failing", lambda slots, replica: False)]


def _pause_ignored() -> list[Any]:
    return [mock.patch.object(fallow.decide.updates, "steps_allowed", lambda deployment: True)]


def _no_barrier() -> list[Any]:
    async def never(self: Any) -> bool:
        return False

    return [mock.patch.object(Applier, "catch_up", never)]


def _nobody_follows() -> list[Any]:
    return [mock.patch.object(fallow.control.leader, "LEASE_SECONDS", 12.0)]


def _members_stay() -> list[Any]:
    return [mock.patch.object(ControlAddresses, "move_on", lambda self: None)]


MINIMUM = "never below the promised minimum by our own doing"
ACKNOWLEDGED = "an acknowledged write is kept"
OWN_FAULT = "a generation fails by its own fault"

MUTATIONS = (
    Mutation("placement ignores taken ports", "a host port has one owner", _taken_ports_ignored),
    Mutation("a replica is retired before its replacement is healthy", MINIMUM, _retired_before_healthy),
    Mutation("what gateways report is ignored", "withdrawn before it is stopped", _reports_ignored),
    Mutation("unfinished requests are ignored", "drained before it is stopped", _draining_ignored, 2),
    Mutation("routes keep what is leaving", "withdrawn before it is stopped", _leaving_stays_routed),
    Mutation("the dead are declared dead without grace", "nobody is given up too early", _grace_is_forgotten),
    Mutation("an old observation counts", "observations only grow newer", _old_observations_count, 7),
    Mutation("containers start without a journal", "the journal knows", _nothing_journalled),
    Mutation("the applier checks nothing", "states only advance", _checks_skipped),
    Mutation("an update renews everything at once", "never more than the surge", _surge_unbounded),
    Mutation("writes are acknowledged before they are stored", ACKNOWLEDGED, _acknowledged_too_early),
    # updates
    Mutation("a node that is away makes its replicas fail", OWN_FAULT, _nodes_count_as_ready, WIDE_FROM + 21, 60),
    Mutation("a node that is back makes its replicas fail", OWN_FAULT, _back_is_as_good, WIDE_FROM + 348, 60),
    Mutation("failed rollbacks go back", "a rollback is not rolled back", _rollbacks_are_rolled_back, WIDE_FROM + 10),
    Mutation("an update stops everything first", MINIMUM, _stops_all_first, WIDE_FROM + 3),
    Mutation("bad versions go unnoticed", "it comes to rest", _failures_unseen, WIDE_FROM + 10),
    Mutation("a pause is ignored", "a paused update takes no step", _pause_ignored, WIDE_FROM),
    # several processes
    Mutation("the fence is ignored", "only who leads decides", _fence_ignored, WIDE_FROM, 40, shared=True),
    Mutation("nobody looks what others have stored", ACKNOWLEDGED, _no_barrier, WIDE_FROM, 60, shared=True),
    Mutation("a leader that died is followed late", "a leader is followed", _nobody_follows, WIDE_FROM, shared=True),
    Mutation("members do not turn to another process", "it comes to rest", _members_stay, WIDE_FROM, shared=True),
)  # fmt: skip
