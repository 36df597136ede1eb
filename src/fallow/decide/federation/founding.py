"""How a control plane becomes a host, and stops being one: the member record of its own nodes, and what runs on them.

With the first cluster that joins, its own nodes become a cluster among others, and every deployment that is there stays
on them whole, until something gives cause to move it. With the last cluster that goes, all is as it was.
"""

from collections.abc import Callable, Iterator

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.shares import Share, share_id


def alone(snapshot: Snapshot) -> bool:
    """Say whether there is no cluster but this one."""
    return not (snapshot.clusters.keys() - {HERE_ID})


def keyless(id_: str, name: str, now: float) -> Member:
    """Return the record of a cluster that did not join: nobody has its key, so no session can be opened as it."""
    return Member(
        id=id_, created_at=now, updated_at=now, name=name, role=Role.CLUSTER, key_sha256="", token_id="",
        certificate_expires_at=0.0, lease=Lease(address=""), state=MemberState.READY, state_since=now,
    )  # fmt: skip


def founded(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Step:
    """Return what makes this control plane's own nodes a cluster."""
    taken = {member.name for member in snapshot.members.values()}
    name = HERE_ID if HERE_ID not in taken else f"{HERE_ID}-{new_id()}"
    here = msgspec.structs.replace(keyless(HERE_ID, name, now), state_reason="it is this cluster itself")
    told = event(
        new_id(), now, "loop:federation", "member", HERE_ID, name, "ClusterFounded",
        f"this control plane is a host now: its own nodes are the cluster {name} among others",
    )  # fmt: skip
    return Step(puts=(here, told))


def adopted(snapshot: Snapshot, deployment: Deployment, policy: str, now: float) -> Step:
    """Return what makes a deployment that runs here whole a divided one, all here; `policy` is its fingerprint."""
    count = deployment.spec.replicas
    id_ = share_id(deployment.id, HERE_ID)
    before = snapshot.shares.get(id_)  # of an earlier time as a host
    share = Share(
        id=id_, created_at=now, updated_at=now, revision=before.revision if before is not None else 0,
        deployment_id=deployment.id, cluster_id=HERE_ID, replicas=count, since=now, order=snapshot.revision + 1,
        least=count, highest=count,
    )  # fmt: skip
    past = snapshot.divisions.get(deployment.id)
    division = Division(
        id=deployment.id, created_at=now, updated_at=now, revision=past.revision if past is not None else 0,
        deployment_id=deployment.id, policy=policy, total=count, shares={HERE_ID: count},
        rules={HERE_ID: "it was here before other clusters joined"},
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(deployment, share=count, updated_at=now), share, division))


def dissolved(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Return what takes back all that there is of a host, its member record last."""
    left = False
    for deployment in snapshot.deployments.values():
        if deployment.share is not None and deployment.origin is None:
            left = True
            yield Step(puts=(msgspec.structs.replace(deployment, share=None, keep=0, updated_at=now),))
    for kind in (snapshot.shares, snapshot.divisions, snapshot.rooms):
        for record in kind.values():
            left = True
            yield Step(deletes=(record,))
    here = snapshot.clusters.get(HERE_ID)
    if here is not None and not left:
        told = event(
            new_id(), now, "loop:federation", "member", HERE_ID, here.name, "ClusterDissolved",
            "no other cluster is left: deployments run here whole again",
        )  # fmt: skip
        yield Step(puts=(told,), deletes=(here,))
