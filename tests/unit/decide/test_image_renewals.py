"""Deployments that an image update renews: those that use it and run something else, once, when every node has it."""

from typing import Any

import msgspec
from image_world import World, job, nodes
from records import NOW, deployment, template

from fallow.decide.image_renewals import AT_ONCE
from fallow.model.deployments import Deployment, Origin, Template
from fallow.model.image_jobs import ImageAction, ImageJob, JobState, TaskState
from fallow.model.images import ResolvedImage

REFERENCE = "registry.example/shop/api:1"
NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def stands_for(digest: str) -> ResolvedImage:
    return ResolvedImage(reference=REFERENCE, digest=digest, platforms=())


def update(**changes: Any) -> ImageJob:
    values: dict[str, Any] = {"action": ImageAction.UPDATE, "roll": True, "created_by": "api:ci"}
    return job(**(values | changes))


def using(name: str, image: str = REFERENCE, digest: str = "", **changes: Any) -> tuple[Deployment, Template]:
    """Return a deployment that was made a minute before the job, and what its replicas were made of."""
    found = deployment(name, **changes)
    container = msgspec.structs.replace(found.spec.container, image=image)
    found = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, container=container))
    image_of = stands_for(digest) if digest else None
    return found, msgspec.structs.replace(template(found), created_at=NOW - 60, image=image_of)


def generations(world: World) -> dict[str, int]:
    return {found.name: found.generation for found in world.snapshot.deployments.values()}


def test_what_uses_the_reference_is_renewed_when_every_node_has_it() -> None:
    world = World(update(), *nodes(3), *using("web"), *using("other", "registry.example/shop/api:2"))
    world.run()
    world.finish()
    assert generations(world) == {"web": 1, "other": 1}, "not every node has it yet"
    world.run()
    world.finish()
    world.run()
    assert generations(world) == {"web": 2, "other": 1}
    after = world.job()
    assert (after.state, after.renewed) == (JobState.COMPLETED, ("shop/web",))
    assert after.reason == "3 of 3 nodes are done; deployments renewed: 1"
    made = world.snapshot.templates["d-web.2"]
    assert (made.cause, made.actor) == ("restart", "api:ci")
    world.run()
    assert generations(world)["web"] == 2


def test_without_the_wish_nothing_is_renewed() -> None:
    world = World(update(roll=False), *nodes(1), *using("web"))
    world.run()
    world.finish()
    world.run()
    assert (world.job().state, generations(world)) == (JobState.COMPLETED, {"web": 1})


def test_nothing_is_renewed_when_a_node_has_failed_until_a_retry_went_well() -> None:
    world = World(update(attempts=1, max_failures="50%"), *nodes(2), *using("web"))
    world.run()
    first, second = world.tasks(TaskState.WORKING)
    world.finish([first])
    world.finish([second], "failed", kind="not-found")
    world.run()
    assert (world.job().state, generations(world)) == (JobState.COMPLETED, {"web": 1})
    assert world.job().reason.endswith("deployments renewed: 0, since not every node has it")
    failed = world.tasks(TaskState.FAILED)[0]
    again = msgspec.structs.replace(
        world.job(), state=JobState.RUNNING, ended_at=0.0, retried_at_revision=failed.revision
    )
    world.put(again)
    world.run()
    world.finish()
    world.run()
    assert generations(world) == {"web": 2}


def test_what_runs_these_very_bytes_is_left_alone() -> None:
    world = World(update(image=stands_for(NEW)), *using("same", digest=NEW), *using("old", digest=OLD))
    world.run()
    assert generations(world) == {"same": 1, "old": 2}
    assert world.snapshot.templates["d-old.2"].image == stands_for(NEW), "what the nodes have got, wherever the tag is"


def test_what_is_younger_goes_away_or_belongs_to_a_host_is_left_alone() -> None:
    younger, its = using("younger")
    of_host = using("share", origin=Origin(revision=1, generation=1))
    world = World(
        update(), younger, msgspec.structs.replace(its, created_at=NOW), *using("going", deleting=True), *of_host
    )
    world.run()
    assert set(generations(world).values()) == {1}
    assert world.job().state is JobState.COMPLETED


def test_many_are_renewed_a_commit_at_a_time_each_once() -> None:
    many = [record for number in range(2 * AT_ONCE + 5) for record in using(f"web{number:03d}")]
    world = World(update(), *many)
    world.run()
    assert set(generations(world).values()) == {2}
    assert len(world.job().renewed) == len(set(world.job().renewed)) == 2 * AT_ONCE + 5
