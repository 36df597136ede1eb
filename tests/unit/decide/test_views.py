"""Deployments in one word, and members and replicas with names for ids."""

import msgspec
import pytest

from fallow.decide.snapshot import Snapshot
from fallow.decide.views import deployment_view, member_view, replica_view
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import Activity, Deployment, DeploymentSpec, Health, Observation, Replica, Template
from fallow.model.deployments import ReplicaState as S
from fallow.model.members import Lease, Member, Role
from fallow.model.meta import Reason
from fallow.model.wire import Usage

CONTAINER = ContainerSpec(image="web:1", resources=Resources(cpus=0.5, memory_bytes=100))


def deployment(wanted: int = 2, generation: int = 2, deleting: bool = False) -> Deployment:
    return Deployment(
        id="d",
        created_at=1,
        updated_at=1,
        project="p",
        name="web",
        spec=DeploymentSpec(replicas=wanted, container=CONTAINER),
        generation=generation,
        deleting=deleting,
    )


def replica(state: S, healthy: bool = False, generation: int = 2, **more: object) -> Replica:
    replica.made += 1  # type: ignore[attr-defined]
    made = Replica(
        id=f"r-{replica.made}",  # type: ignore[attr-defined]
        created_at=1,
        updated_at=1,
        deployment_id="d",
        project="p",
        deployment="web",
        slot=0,
        generation=generation,
        template_id=f"d.{generation}",
        node_id="" if state is S.PENDING else "n-1",
        state=state,
        healthy_since=1.0 if healthy else 0.0,
    )
    return msgspec.structs.replace(made, **more)


replica.made = 0  # type: ignore[attr-defined]


def seen(activity: Activity, health: Health, message: str = "") -> Observation:
    return Observation(replica_id="r", serial=1, activity=activity, health=health, message=message, restarts=3)


def snapshot(*replicas: Replica) -> Snapshot:
    member = Member(
        id="n-1",
        created_at=1,
        updated_at=1,
        name="box",
        role=Role.NODE,
        key_sha256="",
        token_id="",
        certificate_expires_at=0,
        lease=Lease(address="10.0.0.1"),
    )
    templates = [
        Template(
            id=f"d.{number}", created_at=1, updated_at=1, deployment_id="d", generation=number, container=CONTAINER
        )
        for number in (1, 2)
    ]
    return Snapshot(
        members={"n-1": member},
        replicas={found.id: found for found in replicas},
        templates={found.id: found for found in templates},
    )


HEALTHY = {"state": S.RUNNING, "healthy": True}
UNWELL = {"state": S.RUNNING, "observed": seen(Activity.RUNNING, Health.UNHEALTHY, "503")}
LOOPING = {"state": S.RUNNING, "observed": seen(Activity.BACKING_OFF, Health.UNKNOWN, "exit code 1")}
STARTING = {"state": S.RUNNING, "observed": seen(Activity.RUNNING, Health.STARTING)}
NOROOM = {"state": S.PENDING, "reason": Reason(code="NoRoom", text="no node has room")}
BROKEN = {"state": S.FAILED, "reason": Reason(code="Failed", text="no such image")}


@pytest.mark.parametrize(
    ("replicas", "state", "reason"),
    [
        ([], "waiting", "0 of 2 replicas are healthy"),
        ([NOROOM, NOROOM], "waiting", "no node has room"),
        ([{"state": S.PLACED}, HEALTHY], "waiting", "its node has not started it yet"),
        ([STARTING, HEALTHY], "waiting", "running, starting"),
        ([HEALTHY, HEALTHY], "serving", ""),
        ([HEALTHY, HEALTHY, {"state": S.STOPPING}, {"state": S.LOST}], "serving", ""),
        ([HEALTHY, HEALTHY, {**HEALTHY, "generation": 1}], "updating", "2 of 2 replicas are of generation 2"),
        ([STARTING, {**HEALTHY, "generation": 1}, {**HEALTHY, "generation": 1}], "updating", "0 of 2"),
        ([HEALTHY, UNWELL], "degraded", "1 of 2 replicas are not well: running, unhealthy: 503"),
        ([LOOPING, {**HEALTHY, "generation": 1}], "degraded", "exit code 1"),
        ([HEALTHY, BROKEN], "degraded", "no such image"),
        ([HEALTHY, HEALTHY, {**BROKEN, "generation": 1}], "serving", ""),
    ],
)
def test_deployment_in_a_word(replicas: list[dict[str, object]], state: str, reason: str) -> None:
    found = snapshot(*(replica(**one) for one in replicas))  # type: ignore[arg-type]
    view = deployment_view(found, deployment())
    assert view.state == state
    assert reason in view.reason
    assert bool(view.reason) == (state != "serving")


def test_deployment_nobody_wants() -> None:
    found = snapshot(replica(S.LEAVING))
    assert deployment_view(found, deployment(wanted=0)).state == "stopped"
    view = deployment_view(found, deployment(deleting=True))
    assert (view.state, view.reason, view.counts.wanted) == ("deleting", "1 replicas have not stopped yet", 0)


def test_deployment_counts() -> None:
    states = [S.PENDING, S.PLACED, S.RUNNING, S.LEAVING, S.STOPPING, S.STOPPED, S.FAILED, S.LOST]
    found = snapshot(*(replica(state) for state in states), replica(**HEALTHY), replica(S.FAILED, generation=1))
    counts = deployment_view(found, deployment()).counts
    assert msgspec.structs.astuple(counts) == (2, 1, 2, 1, 1, 2, 1)


def test_member_and_replica_views() -> None:
    one = replica(S.RUNNING, observed=seen(Activity.RUNNING, Health.HEALTHY, "fine"), address="10.0.0.1")
    found = snapshot(one, replica(S.STOPPING), replica(S.STOPPED), replica(S.RUNNING, template_id="gone"))
    view = member_view(found, found.members["n-1"], True, 7.0, Usage(cpus=0.25, memory_bytes=9))
    assert (view.replicas, view.reserved_cpus, view.reserved_memory_bytes) == (3, 1.0, 200)
    assert (view.used_cpus, view.used_memory_bytes, view.connected, view.last_seen_at) == (0.25, 9, True, 7.0)
    shown = replica_view(found, one)
    assert (shown.node, shown.image, shown.activity, shown.health, shown.restarts) == (
        "box",
        "web:1",
        "running",
        "healthy",
        3,
    )
    orphan = replica_view(found, msgspec.structs.replace(one, node_id="n-gone", template_id="gone", observed=None))
    assert (orphan.node, orphan.image, orphan.activity) == ("n-gone", "", "")
