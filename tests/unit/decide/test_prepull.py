"""Images pulled ahead of an update: on which nodes, what waits for it, and what never does."""

import msgspec
import pytest
from image_world import World
from lent_fleet import heard, node, server, vm
from records import NOW, deployment, member, replica, template

from fallow.decide.deployments import reconcile
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.prepull import DEADLINE_SECONDS, LOOK_SECONDS, job_id, pulled_ahead, told_ahead
from fallow.decide.selectors import parse_selector
from fallow.decide.views import deployment_view
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy
from fallow.model.image_jobs import JobState, TaskState
from fallow.model.images import NodeImage, NodeImages
from fallow.model.members import MemberState
from fallow.model.updates import PulledAhead, UpdateConfig, UpdateState, UpdateStatus


def updating(**more: object) -> Deployment:
    """Return a deployment of three replicas that becomes generation 2, all at once."""
    status = UpdateStatus(generation=2, from_generation=1, started_at=NOW, changed_at=NOW)
    status = msgspec.structs.replace(status, **more)
    return deployment(
        generation=2, good_generation=1, update=status,
        spec=DeploymentSpec(
            replicas=3, container=ContainerSpec(image="shop:2"), update=UpdateConfig(parallelism=0),
        ),
    )  # fmt: skip


AHEAD = job_id(updating())  # what pulls ahead for it


def has(name: str, *references: str) -> NodeImages:
    images = tuple(NodeImage(id=f"sha256:{n}", references=(each,)) for n, each in enumerate(references))
    return NodeImages(id=f"n-{name}", created_at=NOW, updated_at=NOW, images=images)


def world(web: Deployment, *inventories: NodeImages) -> World:
    members = [member(name) for name in "abc"]
    replicas = [
        replica(web, slot, generation=1, template_id="d-web.1", node_id=f"n-{name}") for slot, name in enumerate("abc")
    ]
    old = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, container=ContainerSpec(image="shop:1")))
    return World(web, template(old, 1), template(web, 2), *members, *replicas, *inventories)


def decide(found: World, servers: HeardServers | None = None) -> float | None:
    """Run the loop of deployments once; return when it wants to be run again."""
    plan = reconcile(found.snapshot, found.now, found.new_id, servers=servers)
    for step in plan.steps:
        found.put(*(put for put in step.puts if type(put).__name__ != "Event"))
    return plan.wake_after_seconds


def renewed(found: World) -> set[str]:
    """Return the nodes whose replica has a replacement."""
    every = found.snapshot.replicas
    return {every[one.replaces].node_id for one in every.values() if one.replaces}


ALL = {"n-a", "n-b", "n-c"}


def test_a_replica_is_replaced_once_its_node_has_the_image() -> None:
    found = world(updating(), *(has(name, "docker.io/library/shop:1") for name in "abc"))
    wake = decide(found)
    job = found.job(AHEAD)
    assert (set(job.target.names), job.reference, job.deployment_id) == (ALL, "docker.io/library/shop:2", "d-web")
    assert renewed(found) == set()
    found.run()
    assert len(found.working) == 3
    wake = decide(found)
    assert wake is not None
    assert wake <= LOOK_SECONDS
    assert renewed(found) == set()
    first, second, third = found.tasks(TaskState.WORKING)
    found.now += 3
    found.finish([first], fetched_bytes=3 << 20)
    decide(found)
    assert renewed(found) == {first.member_id}
    # A node that cannot pull is not waited for: it goes on as it would have.
    found.finish([second], "failed", kind="not-found", text="no such tag")
    found.finish([third])
    found.run()
    assert found.job(AHEAD).state is JobState.COMPLETED
    told = told_ahead(found.snapshot, found.job(AHEAD), found.now, found.new_id)
    assert told is not None
    assert told.message.startswith("shop/web: images were pulled ahead on 2 nodes in 3.0 s, 3 MiB; ")


def test_the_time_that_was_saved_is_told() -> None:
    web = updating()
    found = world(web, *(has(name) for name in "abc"))
    assert pulled_ahead(found.snapshot, web, 1) is None
    decide(found)
    found.run()
    assert pulled_ahead(found.snapshot, web, 1) == PulledAhead(pending=3)
    first, second, third = found.tasks(TaskState.WORKING)
    found.now += 2
    found.finish([first], fetched_bytes=1 << 20)
    found.now += 3
    found.finish([second], fetched_bytes=1 << 20)
    found.finish([third], unchanged=True)
    found.run()
    told = PulledAhead(nodes=2, seconds=5.0, longest_seconds=5.0, saved_seconds=2.0, fetched_bytes=2 << 20)
    assert pulled_ahead(found.snapshot, web, 1) == told, "5 s and 2 s one after the other, 5 s side by side"
    assert pulled_ahead(found.snapshot, web, 2) == msgspec.structs.replace(told, saved_seconds=0.0)
    assert deployment_view(found.snapshot, web).pulled_ahead == msgspec.structs.replace(told, saved_seconds=0.0)
    after = msgspec.structs.replace(web, generation=3)
    assert pulled_ahead(found.snapshot, after, 1) is None


def test_all_go_on_once_the_deadline_has_passed() -> None:
    found = world(updating(), *(has(name) for name in "abc"))
    decide(found)
    found.run()
    found.now += DEADLINE_SECONDS
    decide(found)
    assert renewed(found) == ALL


def test_a_node_that_goes_away_is_not_waited_for() -> None:
    found = world(updating(), has("a"), has("b"), has("c"))
    decide(found)
    found.run()
    found.put(member("a", state=MemberState.SUSPECT))
    decide(found)
    assert renewed(found) == {"n-a"}


@pytest.mark.parametrize(
    "inventories",
    [(), tuple(has(name, "docker.io/library/shop:2") for name in "abc")],
    ids=["nodes that tell nothing", "nodes that have it"],
)
def test_where_there_is_nothing_to_pull_nothing_waits(inventories: tuple[NodeImages, ...]) -> None:
    found = world(updating(), *inventories)
    decide(found)
    assert renewed(found) == ALL
    assert not found.snapshot.image_jobs


def test_a_rollback_never_waits() -> None:
    found = world(updating(rollback=True, state=UpdateState.ROLLING_BACK), has("a"), has("b"), has("c"))
    decide(found)
    assert renewed(found) == {"n-a"}, "the first portion of a rollback"
    assert not found.snapshot.image_jobs


def test_a_generation_that_begins_again_after_a_restore_pulls_by_another_job() -> None:
    """Nodes remember how the tasks of the first one ended, of which the store that was restored knows nothing."""
    before = updating()
    assert before.update is not None
    again = updating(started_at=before.update.started_at + 0.001)
    assert job_id(again) != job_id(before)


def test_a_newer_generation_takes_back_what_was_begun_for_the_one_before() -> None:
    found = world(updating(), has("a"), has("b"), has("c"))
    decide(found)
    found.run()
    newer = msgspec.structs.replace(
        found.snapshot.deployments["d-web"], generation=3,
        update=UpdateStatus(generation=3, from_generation=1, started_at=NOW, changed_at=NOW),
    )  # fmt: skip
    found.put(newer, template(newer, 3))
    decide(found)
    found.run()
    assert found.job(AHEAD).state is JobState.CANCELLED
    assert all(task.ended for task in found.tasks(job_id=AHEAD))
    assert len(found.tasks(TaskState.WORKING, job_id(newer))) == 3


@pytest.mark.parametrize(
    ("said", "pulled"),
    [({}, {"n-d"}), ({"offer_cpus": 0.0}, set()), ({"primary_cpus": 7.0}, set()), ({"age_seconds": 9.0}, set())],
)
def test_on_lent_capacity_it_is_pulled_where_both_conditions_are_met(said: dict[str, float], pulled: set[str]) -> None:
    """Only nodes on lent capacity are wanted; one server has room for it, or none."""
    lent = PlacementPolicy(selector=parse_selector("lent=yes"))
    web = updating()
    web = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, placement=lent))
    found = world(web, *(has(name, "docker.io/library/shop:1") for name in "abcde"))
    for name, on in (("d", "srv1"), ("e", "srv2")):
        found.put(server(on), vm(name, on=on), node(name, labels={"lent": "yes"}))
    servers = heard(**said) | heard(on="srv2", lends=False, why_not="outside its hours")  # type: ignore[arg-type]
    decide(found, servers)
    assert set(found.job(AHEAD).target.names) == ALL | pulled
