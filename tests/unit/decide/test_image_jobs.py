"""Dispatch of image jobs: whom, how many at once, in which waves, and when it is over."""

from time import process_time
from typing import Any

import msgspec
import pytest
from image_world import World, job, nodes
from records import NOW, member, snapshot

from fallow.decide.image_jobs import AWAY_SECONDS
from fallow.decide.image_standing import standing_of
from fallow.decide.image_targets import targeted
from fallow.decide.image_tasks import SLACK_SECONDS
from fallow.model.image_jobs import ImageTarget, JobState, TaskState
from fallow.model.images import Blob, PlatformImage, ResolvedImage
from fallow.model.labels import LabelSet, Requirement, Selector
from fallow.model.members import Facts, MemberState

DIGEST = "sha256:" + "a" * 64


def test_a_job_reaches_every_node_and_never_more_than_its_limit_at_once() -> None:
    world = World(job(), *nodes(5))
    waves = 0
    while world.job().state is JobState.RUNNING:
        world.run()
        assert len(world.working) <= 2
        world.finish()
        waves += 1
    assert (waves, len(world.tasks(TaskState.DONE))) == (4, 5)
    assert world.job().reason == "5 of 5 nodes are done"
    assert world.job().ended_at == NOW


def test_a_node_that_is_still_at_work_by_the_store_counts_whatever_else_is_seen() -> None:
    world = World(job(), *nodes(4))
    world.run()
    first = world.tasks(TaskState.WORKING)
    world.put(*(member(task.member_name, state=MemberState.SUSPECT) for task in first))
    world.run()
    assert world.tasks(TaskState.WORKING) == first


def test_a_clock_that_was_set_back_does_not_make_what_waits_wait_for_longer() -> None:
    world = World(job(deadline_at=NOW + 600.0, attempts=3), *nodes(3))
    world.run()
    world.finish(state="failed", kind="unreachable")
    waiting = world.tasks(TaskState.WAITING)
    pauses = [task.not_before - NOW for task in waiting]
    world.run()
    working = world.tasks(TaskState.WORKING)
    assert waiting
    assert working
    world.now = NOW - 7200.0
    world.run()
    assert world.job().deadline_at == world.now + 600.0
    assert [task.not_before - world.now for task in world.tasks(TaskState.WAITING)] == pauses
    assert {task.lease_until - world.now for task in world.tasks(TaskState.WORKING)} == {
        task.lease_until - NOW for task in working
    }
    dated = world.job(), *world.tasks()
    world.run()
    assert (world.job(), *world.tasks()) == dated, "once"
    world.now += max(pauses)
    world.run()
    assert (len(world.tasks(TaskState.WORKING)), len(working)) == (2, 1)


def test_a_selector_a_label_set_names_and_a_share_choose() -> None:
    web, db = member("web", labels={"role": "web"}), member("db", labels={"role": "db"})
    webs = LabelSet(
        id="webs", created_at=0, updated_at=0,
        selector=Selector(requirements=(Requirement(key="role", operator="in", values=("web",)),)),
    )  # fmt: skip
    seen = snapshot(web, db, webs, *nodes(98))
    for target in (ImageTarget(selector="role=web"), ImageTarget(selector="@webs"), ImageTarget(names=("web",))):
        assert targeted(seen, target, {}) == [web]
    assert len(targeted(seen, ImageTarget(), {})) == 100
    assert targeted(seen, ImageTarget(selector="@gone"), {}) == []
    tenth = targeted(seen, ImageTarget(percent=10), {})
    third = targeted(seen, ImageTarget(percent=30), {})
    assert (len(tenth), len(third)) == (10, 30)
    assert third[:10] == tenth


def test_a_canary_goes_first_then_a_tenth_then_all() -> None:
    world = World(job(canary=True, parallel="100"), *nodes(30))
    sizes = []
    while world.job().state is JobState.RUNNING:
        world.run()
        if world.working:
            sizes.append(len(world.working))
        world.finish()
    assert sizes == [1, 3, 26]


def test_a_canary_that_fails_stops_the_job_before_anybody_else_is_asked() -> None:
    world = World(job(canary=True, max_failures="50%", attempts=1), *nodes(30))
    world.run()
    world.finish(state="failed", kind="unreachable", text="no route")
    world.run()
    assert (world.job().state, len(world.tasks())) == (JobState.STOPPED, 1)
    assert "no route" in world.job().reason


def test_too_many_failures_stop_it_and_those_at_work_go_on_to_their_end() -> None:
    world = World(job(max_failures="1", attempts=1, parallel="3"), *nodes(9))
    world.run()
    first, second, third = world.tasks(TaskState.WORKING)
    world.finish([first, second], "failed", kind="no-space", text="disk full")
    world.run()
    assert world.job().state is JobState.STOPPED
    assert world.working == [third.member_name]
    world.finish()
    world.run()
    assert (len(world.tasks()), world.working) == (3, [])


def test_a_failure_is_tried_again_later_and_later_and_only_so_often() -> None:
    world = World(job(attempts=3), *nodes(1))
    pauses = []
    for _ in range(3):
        world.run()
        (task,) = world.tasks(TaskState.WORKING)
        world.finish(state="failed", kind="unreachable", text="reset")
        (task,) = world.tasks()
        pauses.append(task.not_before - world.now)
        if task.state is TaskState.WAITING:
            world.run()
            assert world.working == []
            assert world.wake == pytest.approx(task.not_before - world.now)
            world.now = task.not_before
    assert 2 <= pauses[0] <= 2.5
    assert 4 <= pauses[1] <= 5
    (task,) = world.tasks(TaskState.FAILED)
    assert (task.attempt, task.kind) == (3, "unreachable")
    assert sum("failed: unreachable: reset" in line for line in task.log) == 3
    world.run()
    assert world.job().state is JobState.COMPLETED
    assert world.job().reason == "0 of 1 nodes are done, 1 failed"


@pytest.mark.parametrize("kind", ["not-found", "denied", "wrong-platform", "untrusted"])
def test_what_cannot_get_better_is_not_tried_again(kind: Any) -> None:
    world = World(job(), *nodes(1))
    world.run()
    world.finish(state="failed", kind=kind, text="no")
    assert world.tasks()[0].state is TaskState.FAILED


def test_a_registry_that_asks_to_wait_is_left_alone_by_every_node_and_every_job() -> None:
    other = job("j2", reference="elsewhere.example/a:1", target=ImageTarget(names=("n0003",)))
    world = World(job(parallel="1"), job("j3", parallel="1"), *nodes(3), member("n0003"))
    world.run()
    (task, _) = world.tasks(TaskState.WORKING)
    world.finish([task], "failed", kind="rate-limited", text="429", retry_after_seconds=30.0)
    world.finish()
    world.put(other)
    world.run()
    assert world.working == ["n0003"]
    assert world.tasks(TaskState.WORKING)[0].job_id == "j2"
    assert world.tasks(TaskState.WAITING)[0].not_before >= world.now + 30
    world.now += 38
    world.run()
    assert len(world.working) == 3


def test_no_more_pulls_of_one_registry_at_once_than_allowed_and_one_bulk_task_a_node() -> None:
    hurried = job("j3", deployment_id="d-web", reference="registry.example/b:2", target=ImageTarget(names=("n0000",)))
    world = World(job(parallel="50"), job("j2", parallel="50"), *nodes(20))
    world.run(per_registry=8)
    assert len(world.working) == 8
    assert len(set(world.working)) == 8
    assert len(world.tasks(job_id="j1")) == len(world.tasks(job_id="j2")) == 4  # one to each in turn
    world.put(hurried)
    world.run(per_registry=8)
    assert [task.member_name for task in world.tasks(job_id="j3")] == ["n0000"]


def test_silence_and_a_lost_node_cost_an_attempt() -> None:
    world = World(job(parallel="2", attempts=2), *nodes(2))
    world.run()
    silent, lost = world.tasks(TaskState.WORKING)
    world.put(member(lost.member_name, state=MemberState.DEAD, state_since=world.now))
    world.run()
    assert world.snapshot.image_tasks[lost.id].text == "its node was lost"
    assert world.snapshot.image_tasks[lost.id].state is TaskState.WAITING
    world.now += world.job().attempt_seconds + SLACK_SECONDS + 1
    world.run()
    assert not world.report(silent)  # too late: it is another attempt's turn
    assert world.snapshot.image_tasks[silent.id].kind == "timeout"
    world.now += 10
    world.run()
    assert [task.attempt for task in world.tasks(TaskState.WORKING)] == [2]
    world.put(member(lost.member_name))
    world.run()
    world.finish()
    world.run()
    assert world.job().reason == "2 of 2 nodes are done"


def test_nodes_that_stay_away_do_not_keep_a_job_open_for_ever() -> None:
    world = World(job(), member("here"), member("gone", state=MemberState.DEAD))
    world.run()
    world.finish()
    world.run()
    assert world.job().state is JobState.RUNNING
    assert world.wake == pytest.approx(AWAY_SECONDS)
    world.now += AWAY_SECONDS
    world.run()
    (failed,) = world.tasks(TaskState.FAILED)
    assert (failed.member_name, failed.kind) == ("gone", "unreachable")
    assert world.job().state is JobState.COMPLETED


def test_who_joins_while_a_job_is_open_takes_part_and_who_is_removed_leaves() -> None:
    world = World(job(), *nodes(2))
    world.run()
    world.put(member("later"))
    world.drop(member("n0000"))
    world.run()
    assert sorted(world.working) == ["later", "n0001"]
    (gone,) = world.tasks(TaskState.CANCELLED)
    assert (gone.member_name, gone.text) == ("n0000", "its node was removed")


def test_an_image_for_another_architecture_is_not_even_asked_for() -> None:
    image = ResolvedImage(
        reference="registry.example/shop/api:1", digest=DIGEST,
        platforms=(
            PlatformImage(platform="linux/arm64/v8", manifest=Blob(digest=DIGEST, size_bytes=1), image_id=DIGEST),
        ),
    )  # fmt: skip
    world = World(
        job(image=image, max_failures="5"), member("x"), member("arm", facts=Facts(cpus=1, architecture="arm64"))
    )
    world.run()
    assert world.working == ["arm"]
    (failed,) = world.tasks(TaskState.FAILED)
    assert (failed.kind, failed.member_name) == ("wrong-platform", "x")
    assert "there for linux/arm64/v8, and the node is linux/amd64" in failed.text


def test_paused_begins_nothing_and_cancelled_takes_back() -> None:
    world = World(job(), *nodes(4))
    world.run()
    world.put(msgspec.structs.replace(world.job(), state=JobState.PAUSED))
    (first, second) = world.tasks(TaskState.WORKING)
    world.finish([first])
    world.run()
    assert world.working == [second.member_name]
    world.put(msgspec.structs.replace(world.job(), state=JobState.CANCELLED))
    world.run()
    assert (world.working, len(world.tasks())) == ([], 2)
    assert not world.report(second)  # what it did counts no more


def test_a_deadline_ends_a_job_and_what_is_under_way() -> None:
    world = World(job(deadline_at=NOW + 60), *nodes(4))
    world.run()
    assert world.wake is not None
    assert world.wake <= 60
    world.now += 60
    world.run()
    assert (world.job().state, world.working) == (JobState.STOPPED, [])
    assert "its deadline passed; 4 nodes had not ended" in world.job().reason


def test_a_retry_asks_only_those_that_failed() -> None:
    world = World(job(attempts=1, parallel="3", max_failures="3"), *nodes(3))
    world.run()
    good, bad, worse = world.tasks(TaskState.WORKING)
    world.finish([good])
    world.finish([bad, worse], "failed", kind="denied", text="no")
    world.run()
    assert world.job().state is JobState.COMPLETED
    again = msgspec.structs.replace(
        world.job(), state=JobState.RUNNING, ended_at=0.0, retried_at_revision=world.revision
    )
    world.put(again)
    world.run()
    assert world.working == [bad.member_name, worse.member_name]
    assert {task.attempt for task in world.tasks(TaskState.WORKING)} == {2}
    world.finish()
    world.run()
    assert world.job().reason == "3 of 3 nodes are done"


def test_a_job_that_waits_for_nodes_stays_open_until_one_took_part() -> None:
    world = World(job(wait_for_nodes=True, target=ImageTarget(selector="role=web")))
    world.run()
    assert world.job().state is JobState.RUNNING
    world.put(member("w", labels={"role": "web"}))
    world.run()
    world.finish()
    world.run()
    assert world.job().state is JobState.COMPLETED
    empty = World(job(target=ImageTarget(selector="role=web")))
    empty.run()
    assert empty.job().state is JobState.COMPLETED


def test_ten_thousand_nodes_are_looked_at_in_milliseconds() -> None:
    crowd = nodes(10_000, labels={"role": "web", "zone": "a"})
    seen = snapshot(job(target=ImageTarget(selector="role=db,zone in (a,b),!gpu")), *crowd)
    seen.nodes  # noqa: B018 - the index is carried from snapshot to snapshot
    began = process_time()
    assert standing_of(seen, seen.image_jobs["j1"], {}, NOW).nodes == 0
    assert process_time() - began < 0.2
