"""What people are told when they ask why."""

from typing import Any

import msgspec
from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.explain import explain
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import (
    Activity,
    DeploymentSpec,
    Explanation,
    Health,
    Observation,
    PlacementPolicy,
    ReplicaState,
)
from fallow.model.members import MemberState, Role, Scheduling
from fallow.model.meta import Reason

A, B = member("a", labels={"role": "web"}), member("b", labels={"role": "db"})
LATER = NOW + 90


def web(replicas: int = 1, cpus: float = 1.0, selector: str = "role=web", **changes: Any) -> Any:
    container = ContainerSpec(image="shop:1", resources=Resources(cpus=cpus, memory_bytes=2**30))
    policy = PlacementPolicy(selector=parse_selector(selector))
    return deployment(spec=DeploymentSpec(replicas=replicas, container=container, placement=policy), **changes)


def seen(activity: Activity, **changes: Any) -> Observation:
    return Observation(replica_id="web-0", serial=1, activity=activity, at=NOW + 60, **changes)


def told(before: Snapshot, subject: str) -> Explanation:
    found = explain(before, subject, LATER)
    assert found is not None
    assert all(line and len(line) < 200 and "\n" not in line for line in found.lines)
    return found


def test_a_running_replica_where_it_is_and_why_there() -> None:
    of = web()
    running = replica(
        of, host_ports={"80/tcp": 20000}, address="10.0.0.1",
        observed=seen(Activity.RUNNING, health=Health.HEALTHY, started=True, restarts=1),
    )  # fmt: skip
    found = told(snapshot(A, B, of, template(of), running), "web-0")
    assert (found.subject, found.state) == ("web-0", "running")
    assert found.lines == (
        "is on a at 10.0.0.1, 80/tcp on host port 20000",
        "its node says: running, health healthy, 1 restart (30s ago)",
        "placed by spread; 1 of 2 nodes could hold it now",
        "the others: 1 of 2 nodes: role is not web",
        "running for 1m30s, generation 1",
    )


def test_a_replicas_own_room_counts_as_free_when_asking_where_it_could_be() -> None:
    of = web(cpus=4.0)
    found = told(snapshot(A, of, template(of), replica(of)), "web-0")
    assert "placed by spread; 1 of 1 node could hold it now" in found.lines


def test_a_pending_replica_is_refused_or_waits_for_its_turn() -> None:
    of = web(cpus=5.0)
    pending = replica(of, 0, ReplicaState.PENDING)
    found = told(snapshot(A, B, of, template(of), pending), "web-0")
    assert found.lines[0] == "pending: 1 of 2 nodes: not enough CPU (need 5, best has 4 free); 1 of 2: role is not web"
    small = web()
    found = told(snapshot(A, small, template(small), pending), "web-0")
    assert found.lines[0] == "waits to be given to a, which has room"


def test_an_ended_replica_why_it_ended_and_what_was_seen_last() -> None:
    of = web()
    failed = replica(
        of, 0, ReplicaState.FAILED, reason=Reason(code="Failed", text="no such image"), node_id="n-gone",
        observed=seen(Activity.FAILED, exit_code=125, message="manifest unknown"), replaces="web-9",
    )  # fmt: skip
    found = told(snapshot(A, of, template(of), failed), "web-0")
    assert found.lines[:3] == (
        "failed because no such image",
        "was on n-gone (removed)",
        "its node says: failed, last exit code 125 - manifest unknown (30s ago)",
    )
    assert "takes over from web-9 once it is healthy" not in found.lines


def test_a_deployment_says_what_is_pending_failed_unwell_and_leaving() -> None:
    of = web(7, cpus=3.0)
    reason = Reason(code="NodeLost", text="its node is dead")
    records = [
        replica(of, 0, observed=seen(Activity.RUNNING, health=Health.HEALTHY)),
        replica(of, 1, ReplicaState.PENDING),
        replica(of, 2, ReplicaState.PENDING),
        replica(of, 3, ReplicaState.LOST, reason=reason),
        replica(of, 4, ReplicaState.LOST, reason=reason),
        replica(
            of, 5, healthy_since=0.0, node_id="n-b",
            observed=seen(Activity.BACKING_OFF, restarts=4, exit_code=1, message="out of luck"),
        ),
        replica(of, 6, ReplicaState.LEAVING, reason=Reason(code="ScaledDown", text="fewer replicas are wanted")),
        replica(of, 7, ReplicaState.PLACED, node_id="n-b"),
    ]  # fmt: skip
    found = told(snapshot(A, B, of, template(of), *records), "shop/web")
    assert (found.subject, found.state) == ("shop/web", "degraded")
    assert found.lines[1:] == (
        "7 wanted: 1 healthy, 2 running, 1 placed, 2 pending, 1 leaving, 0 failed",
        "2 replicas pending: 1 of 2 nodes: not enough CPU (need 3, best has 0 free); 1 of 2: role is not web",
        "2 replicas lost: its node is dead",
        "web-5 backing-off, 4 restarts, last exit code 1 on b - out of luck",
        "web-7 not started yet on b",
        "web-6 leaving: fewer replicas are wanted",
        "on a (2), b (2)",
        "generation 1 of shop:1",
    )


def test_a_deployment_with_room_says_that_its_turn_comes() -> None:
    of = web(2)
    pending = [replica(of, slot, ReplicaState.PENDING) for slot in range(2)]
    found = told(snapshot(A, of, template(of), *pending), "shop/web")
    assert "2 replicas pending: there is room, placed at the next turn" in found.lines


def test_a_thousand_different_troubles_are_not_a_thousand_lines() -> None:
    of = web(100)
    many = [
        replica(of, slot, healthy_since=0.0, observed=seen(Activity.BACKING_OFF, message=f"trouble {slot}"))
        for slot in range(100)
    ]
    found = told(snapshot(A, of, template(of), *many), "shop/web")
    assert len(found.lines) < 30
    assert "and 80 replicas more" in found.lines


def test_what_an_engine_says_at_length_is_kept_to_a_line() -> None:
    of = web()
    wordy = replica(of, healthy_since=0.0, observed=seen(Activity.BACKING_OFF, message="line\n" * 400))
    for subject in ("web-0", "shop/web"):
        found = explain(snapshot(A, of, template(of), wordy), subject, LATER)
        assert found is not None
        assert all("\n" not in line and len(line) <= 400 for line in found.lines)


def test_a_bare_name_is_a_deployment_of_the_default_project_before_it_is_a_member() -> None:
    of = web(project="default", name="a")
    assert told(snapshot(A, of, template(of)), "a").subject == "default/a"
    assert told(snapshot(A), "a").subject == "a"
    assert told(snapshot(A), "n-a").subject == "a"
    other = web()
    assert explain(snapshot(A, other), "web", LATER) is None
    assert explain(snapshot(A, other), "", LATER) is None
    assert explain(snapshot(A, other), "shop/", LATER) is None


def test_a_member_how_it_is_what_it_holds_and_what_is_free() -> None:
    of = web()
    found = told(snapshot(A, of, template(of), replica(of), replica(of, 1)), "a")
    assert (found.subject, found.state) == ("a", "ready")
    assert found.lines == (
        "ready for 1m30s",
        "it may get new replicas",
        "free: 2 of 4 CPUs, 6 GiB of 8 GiB memory",
        "holds 2 replicas: shop/web (2)",
        "node at 10.0.0.1, labels role=web",
    )
    suspect = member("c", state=MemberState.SUSPECT, state_reason="silent for 12s")
    assert told(snapshot(suspect), "c").lines[:2] == (
        "suspect for 1m30s: silent for 12s",
        "it gets no new replicas while it is suspect",
    )
    gateway = told(snapshot(member("g", role=Role.GATEWAY)), "g")
    assert gateway.lines == ("ready for 1m30s", "gateway at 10.0.0.1")


def test_a_member_that_is_cordoned_or_drained() -> None:
    cordoned = msgspec.structs.replace(A, scheduling=Scheduling.CORDONED)
    assert told(snapshot(cordoned), "a").lines[1].startswith("cordoned by an operator")
    draining = msgspec.structs.replace(A, scheduling=Scheduling.DRAINING)
    assert told(snapshot(draining), "a").lines[1] == "drained: nothing is left on it"


def test_what_is_still_in_the_way_of_draining() -> None:
    of = web(cpus=4.0)
    draining = msgspec.structs.replace(A, scheduling=Scheduling.DRAINING)
    old = [replica(of, slot) for slot in range(5)]
    going = msgspec.structs.replace(old[4], state=ReplicaState.LEAVING)
    new = [
        replica(of, 0, ReplicaState.PENDING, id="new-0", replaces="web-0"),
        replica(of, 1, id="new-1", replaces="web-1", node_id="n-b", healthy_since=0.0, observed=seen(Activity.PULLING)),
        replica(of, 2, id="new-2", replaces="web-2", node_id="n-b"),
    ]
    found = told(snapshot(draining, B, of, template(of), *old[:4], going, *new), "a")
    assert found.lines[1:7] == (
        "draining: 5 replicas still here",
        "web-0: its replacement new-0 pending: 1 of 2 nodes: role is not web; 1 of 2: draining",
        "web-1: its replacement new-1 is pulling on b",
        "web-2: new-2 on b takes over now",
        "web-3: has no replacement yet",
        "web-4: leaving for 1m30s",
    )
