"""What is kept of images, what deployments need, and when schedules are due."""

import msgspec
import pytest
from image_world import World, job, nodes
from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide import image_garbage
from fallow.decide.image_garbage import forgettable
from fallow.decide.image_needs import needed
from fallow.decide.image_schedules import BadCronError, next_time
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import DeploymentSpec, ReplicaState, Template
from fallow.model.image_jobs import JobState
from fallow.model.images import Blob, NodeImages, PlatformImage, ResolvedImage
from fallow.model.updates import UpdateState, UpdateStatus

MONTH = 30 * 86400.0


def gone(world: World) -> list[str]:
    steps = forgettable(world.snapshot, world.now, MONTH)
    return sorted(record.id for step in steps for record in step.deletes)


def test_a_record_is_kept_for_its_time_and_goes_tasks_first() -> None:
    world = World(job(), job("j2", state=JobState.PAUSED), *nodes(1))
    world.run()
    world.finish()
    world.run()
    world.now += MONTH
    assert gone(world) == []
    world.now += 1
    assert gone(world) == ["j1.n-n0000"]
    world.drop(world.tasks()[0])
    assert gone(world) == ["j1"], "what is open is kept, however old"


def test_more_than_memory_should_hold_goes_sooner_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(job("j1", parallel="9"), job("j2", created_at=NOW + 1, parallel="9"), *nodes(3))
    while world.job("j2").state is JobState.RUNNING:
        world.now += 1
        world.run()
        world.finish()
    monkeypatch.setattr(image_garbage, "MAX_TASKS", 4)
    assert {id_.partition(".")[0] for id_ in gone(world)} == {min(world.tasks(), key=lambda t: t.ended_at).job_id}


def test_a_removed_nodes_images_are_forgotten() -> None:
    kept, lost = (NodeImages(id=id_, created_at=NOW, updated_at=NOW) for id_ in ("n-a", "n-gone"))
    assert gone(World(member("a"), kept, lost)) == ["n-gone"]


def with_image(name: str, generation: int) -> Template:
    spec = DeploymentSpec(replicas=1, container=ContainerSpec(image=name))
    return template(deployment(spec=spec), generation)


def test_what_a_rollback_would_need_is_never_cleaned() -> None:
    update = UpdateStatus(generation=5, from_generation=3, started_at=NOW, changed_at=NOW, state=UpdateState.UPDATING)
    web = deployment(
        generation=5, good_generation=4, update=update,
        spec=DeploymentSpec(replicas=1, container=ContainerSpec(image="shop/api:5")),
    )  # fmt: skip
    templates = [with_image(f"shop/api:{number}", number) for number in range(1, 6)]
    running = replica(web, 0, template_id="d-web.2", generation=2)
    ended = replica(web, 1, ReplicaState.STOPPED, template_id="d-web.1", generation=1)
    found = needed(snapshot(web, *templates, running, ended))
    assert found == tuple(f"docker.io/shop/api:{number}" for number in (2, 3, 4, 5))
    assert needed(snapshot()) == ()


def test_what_was_before_is_needed_also_when_it_was_never_proved() -> None:
    web = deployment(generation=3, spec=DeploymentSpec(replicas=1, container=ContainerSpec(image="shop/api:3")))
    digest = "sha256:" + "a" * 64
    made = PlatformImage(platform="linux/amd64", manifest=Blob(digest=digest, size_bytes=1), image_id=digest)
    pinned = ResolvedImage(reference="docker.io/shop/api:2", digest=digest, platforms=(made,))
    older = msgspec.structs.replace(with_image("shop/api:2", 2), image=pinned)
    found = needed(snapshot(web, with_image("shop/api:1", 1), older, with_image("shop/api:3", 3)))
    assert found == ("docker.io/shop/api:2", "docker.io/shop/api:3", digest)


def test_schedules_are_due_by_utc_and_nonsense_is_refused() -> None:
    assert next_time("30 3 * * *", 0.0) == 3.5 * 3600
    assert next_time("30 3 * * *", 3.5 * 3600) == 27.5 * 3600
    assert next_time("*/15 * * * mon-fri", 0.0) == 900.0
    for bad in (
        "",
        "* * * *",
        "* * * * * *",
        "99 * * * *",
        "0 0 31 2 *",
        "LW/2 * * * *",
        "a b c d e",
        "," * 9 + " * * * *",
    ):
        with pytest.raises(BadCronError):
            next_time(bad, NOW)
