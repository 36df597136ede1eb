"""What an agent's word about a replica changes in its record."""

import msgspec

from fallow.model.deployments import Activity, Health, Observation, Replica, ReplicaState
from fallow.model.lifecycle import may_replica_move
from fallow.model.meta import Reason

CALM_SECONDS = 30.0  # who was healthy for so long is unwell anew, and not still

_WANTED = (ReplicaState.PLACED, ReplicaState.RUNNING)
_UNWANTED = (ReplicaState.LEAVING, ReplicaState.STOPPING)


def observe(replica: Replica, observation: Observation, now: float) -> Replica | None:
    """Return the replica with `observation` taken in, or None when it says nothing new.

    An observation older than the last one, or of a replica that has ended or was never placed, is nothing new.
    """
    before = replica.observed
    if replica.ended or not replica.node_id or (before is not None and observation.serial <= before.serial):
        return None
    if before is not None and _same(before, observation):
        return None
    state, reason = _next_state(replica, observation)
    healthy = observation.health is Health.HEALTHY and observation.activity is Activity.RUNNING
    return msgspec.structs.replace(
        replica,
        state=state,
        state_since=now if state is not replica.state else replica.state_since,
        reason=reason if state is not replica.state else replica.reason,
        observed=observation,
        healthy_since=(replica.healthy_since or now) if healthy else 0.0,
        unwell_since=_unwell_since(replica, observation, now),
        updated_at=now,
    )


def _same(before: Observation, after: Observation) -> bool:
    return msgspec.structs.replace(after, serial=before.serial, at=before.at) == before


def _unwell_since(replica: Replica, seen: Observation, now: float) -> float:
    """Return since when it restarts or fails its probes; a moment of health in between does not count.

    What kept it from its first start (no image, no engine, a taken port) says nothing of how it is once it runs.
    """
    first_start = replica.state is ReplicaState.PLACED and seen.started
    since = 0.0 if first_start else replica.unwell_since
    if seen.health is not Health.UNHEALTHY and seen.activity is not Activity.BACKING_OFF:
        return since
    calm = replica.healthy_since > 0 and now - replica.healthy_since >= CALM_SECONDS
    return now if calm or not since else since


def _next_state(replica: Replica, seen: Observation) -> tuple[ReplicaState, Reason | None]:
    """Return the state this observation leads to; the same one where it leads nowhere."""
    after, reason = replica.state, None
    if replica.state in _WANTED and seen.activity is Activity.FAILED:
        after, reason = ReplicaState.FAILED, Reason(code="Failed", text=seen.message or "it failed")
    elif replica.state in _WANTED and seen.activity is Activity.STOPPED:
        text = f"it ended by itself with exit code {seen.exit_code}; its restart policy does not start it again"
        after, reason = ReplicaState.FAILED, Reason(code="Completed", text=text)
    elif replica.state in _UNWANTED and seen.activity in (Activity.STOPPED, Activity.FAILED):
        after = ReplicaState.STOPPED  # however it ended: it was let go, so that its slot has not failed
    elif replica.state is ReplicaState.PLACED and seen.started:
        after = ReplicaState.RUNNING
    if after is not replica.state and not may_replica_move(replica.state, after, "observations"):
        return replica.state, None
    return after, reason
