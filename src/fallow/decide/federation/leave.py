"""What becomes of the deployments of a host when this cluster is its member no more."""

from collections.abc import Callable

import msgspec

from fallow.decide.deploy import deleted
from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot


def removed_shares(snapshot: Snapshot, now: float, new_id: Callable[[], str], actor: str) -> Plan:
    """Return what deletes every deployment of the host."""
    found = [each for each in snapshot.deployments.values() if each.origin is not None]
    steps = [deleted(deployment, now, new_id, actor).step for deployment in found]
    return Plan(steps=[step for step in steps if step is not None])


def kept_shares(snapshot: Snapshot, now: float, new_id: Callable[[], str], actor: str) -> Plan:
    """Return what makes every deployment of the host one of our own, with as many replicas as its share was.

    One of which nothing runs here is deleted.
    """
    steps = []
    for deployment in snapshot.deployments.values():
        if deployment.origin is None:
            continue
        if not deployment.share or deployment.deleting:
            own = msgspec.structs.replace(deployment, origin=None)
            step = deleted(own, now, new_id, actor).step
            steps.append(step or Step(puts=(msgspec.structs.replace(own, updated_at=now),)))
            continue
        spec = msgspec.structs.replace(deployment.spec, replicas=deployment.share)
        own = msgspec.structs.replace(deployment, origin=None, share=None, keep=0, spec=spec, updated_at=now)
        text = f"{own.path} belongs to this cluster now, with {spec.replicas} replicas"
        told = event(new_id(), now, actor, "deployment", own.id, own.path, "ShareKept", text)
        steps.append(Step(puts=(own, told)))
    return Plan(steps=steps)
