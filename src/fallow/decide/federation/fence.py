"""Fences: a cluster that is cut off stops by itself what its host may have replaced by then.

The host's answer to what a cluster sends proves two things at once: that the host is there, and that it has heard the
cluster. Both count from when that was sent, so the cluster's time is never over later than the host's.
"""

from collections.abc import Callable, Iterable

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState
from fallow.model.units import format_duration

NOTICED_SECONDS = 2.0  # by when a cluster has noticed that the time is over, and its nodes have been told
DRAINED_SECONDS = 30.0  # by when gateways have let go of a replica that is to stop


def stopped_after(deployment: Deployment) -> float:
    """Return how many seconds after it was cut off a cluster has stopped its replicas of a deployment; 0: it does not.

    By then that is noticed, gateways have let go of them, and they have had their time to end.
    """
    fence = deployment.spec.clusters.fence_seconds
    if fence <= 0:
        return 0.0
    return fence + NOTICED_SECONDS + DRAINED_SECONDS + deployment.spec.container.stop_grace_seconds


def fenced_off(deployment: Deployment, cluster: Member, now: float) -> bool:
    """Say whether a dead cluster has stopped all of a deployment by itself: it does not begin again when it is back."""
    stopped = stopped_after(deployment)
    return stopped > 0 and cluster.state is MemberState.DEAD and now - cluster.died_at >= stopped


def fenceable(snapshot: Snapshot) -> Iterable[Deployment]:
    """Return the deployments of the host that ask for a fence and are not fenced."""
    for deployment in snapshot.deployments.values():
        origin = deployment.origin
        if origin is not None and not origin.fenced and deployment.spec.clusters.fence_seconds > 0:
            yield deployment


def fence(snapshot: Snapshot, heard_at: float, now: float, new_id: Callable[[], str]) -> Plan:
    """Return what stops the shares whose fence has passed; `heard_at` is when what the host has answered was sent.

    Both in UTC seconds by one clock. What was deployed later counts from then on.
    """
    steps, waits = [], []
    for deployment in fenceable(snapshot):
        seconds = deployment.spec.clusters.fence_seconds
        silence = now - max(heard_at, deployment.created_at)
        if silence < seconds:
            waits.append(seconds - silence)
            continue
        assert deployment.origin is not None
        origin = msgspec.structs.replace(deployment.origin, fenced=True)
        told = event(
            new_id(), now, "cluster", "deployment", deployment.id, deployment.path, "ShareFenced",
            f"{deployment.path}: {deployment.share} replicas are stopped, for the host has answered nothing for "
            f"{format_duration(silence)} and may run them elsewhere; they come back when it is heard and says so",
            "warning",
        )  # fmt: skip
        steps.append(
            Step(puts=(msgspec.structs.replace(deployment, share=0, keep=0, origin=origin, updated_at=now), told))
        )
    return Plan(steps=steps, wake_after_seconds=min(waits, default=None))
