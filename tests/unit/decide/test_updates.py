"""When a portion of an update begins, when it has failed, what then; and what an operator may do about it."""

from typing import Any

import msgspec
import pytest
from records import NOW, applied, deployment, ids, member, puts, replica, snapshot, template

from fallow.decide.deploy import changed
from fallow.decide.deployments import reconcile
from fallow.decide.garbage import KEEP_GENERATIONS, sweep
from fallow.decide.generations import Author, NoSuchGenerationError, history, renewed, restarted, rolled_back
from fallow.decide.plan import Plan, Step
from fallow.decide.slots import slots_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import NothingUnderWayError, paused, resumed
from fallow.decide.views import deployment_view
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import (
    Activity,
    Deployment,
    Health,
    Observation,
    Replica,
    ReplicaState,
    RouteSpec,
    Template,
)
from fallow.model.events import Event
from fallow.model.images import ResolvedImage
from fallow.model.members import MemberState, Scheduling
from fallow.model.updates import UpdateConfig, UpdateState

NODES = (member("a"), member("b"))
NEW = ContainerSpec(image="shop:2")
AUTHOR = Author(NOW + 1, ids(), "api:ann")


def updated(replicas: int = 4, good: int = 1, **config: Any) -> tuple[Deployment, Snapshot]:
    """Return a deployment whose second generation has just been deployed, all of the first serving."""
    web = deployment(replicas=replicas, good_generation=good)
    update = UpdateConfig(**config)
    old = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, update=update))
    after, made = renewed(old, msgspec.structs.replace(old.spec, container=NEW), AUTHOR)
    return after, snapshot(*NODES, after, template(old), made, *(replica(old, slot) for slot in range(replicas)))


def new_one(web: Deployment, slot: int = 0, healthy_since: float = 0.0, **changes: Any) -> Replica:
    values: dict[str, Any] = {
        "id": f"web-{slot}-new", "replaces": f"web-{slot}", "created_at": NOW, "healthy_since": healthy_since,
    }  # fmt: skip
    return replica(web, slot, **(values | changes))


def sick(web: Deployment, since: float, **changes: Any) -> Replica:
    seen = Observation(
        replica_id="x", serial=1, activity=Activity.RUNNING, health=Health.UNHEALTHY, message="no answer"
    )
    return new_one(web, **({"unwell_since": since, "observed": seen} | changes))


def at(before: Snapshot, seconds: float, *more: Any) -> Plan:
    together = applied(before, Plan(steps=(Step(puts=more),)))
    return reconcile(together, NOW + seconds, ids())


def status_of(plan: Plan) -> Any:
    (found,) = puts(plan, Deployment)
    return found.update


def created(plan: Plan) -> list[tuple[int, int]]:
    return [(found.slot, found.generation) for found in puts(plan, Replica) if found.state is ReplicaState.PENDING]


def let_go(plan: Plan) -> list[str]:
    return [found.id for found in puts(plan, Replica) if found.state is ReplicaState.LEAVING]


def test_the_old_one_leaves_once_the_new_one_has_been_healthy_for_a_while() -> None:
    web, before = updated()
    early = at(before, 4, new_one(web, healthy_since=NOW))
    assert (let_go(early), created(early)) == ([], [])
    assert early.wake_after_seconds == pytest.approx(1.02)
    taken_over = at(before, 5, new_one(web, healthy_since=NOW))
    assert let_go(taken_over) == ["web-0"]
    (step,) = [step for step in taken_over.steps if puts(Plan(steps=(step,)), Replica)]
    assert [found.id for found in step.guards] == ["web-0-new"], "it may have failed meanwhile"


def test_the_next_portion_waits_for_the_one_before_and_for_the_delay() -> None:
    web, before = updated(delay_seconds=10.0)
    taken = msgspec.structs.replace(before.replicas["web-0"], state=ReplicaState.STOPPED)
    new = new_one(web, healthy_since=NOW)
    assert created(at(before, 4, new, taken)) == []
    assert created(at(before, 14, new, taken)) == []
    assert created(at(before, 15, new, taken)) == [(1, 2)]


@pytest.mark.parametrize(("parallelism", "begun"), [(None, 2), (1, 1), (3, 3), (0, 5)])
def test_portions(parallelism: int | None, begun: int) -> None:
    _, before = updated(replicas=5, parallelism=parallelism)
    assert len(created(at(before, 1))) == begun


def test_a_move_that_finds_no_room_is_made_with_the_newer_version_and_holds_up_nobody() -> None:
    web, before = updated(2, parallelism=1)
    node = msgspec.structs.replace(before.members["n-a"], scheduling=Scheduling.DRAINING)
    stays = msgspec.structs.replace(before.replicas["web-1"], node_id="n-b")
    waits = new_one(web, generation=1, template_id=f"{web.id}.1", state=ReplicaState.PENDING, node_id="")
    early = at(before, 14, node, stays, waits)
    assert created(early) == []
    assert early.wake_after_seconds == pytest.approx(1.02)
    at_last = at(before, 15, node, stays, waits)
    (new,) = [found for found in puts(at_last, Replica) if found.state is ReplicaState.PENDING]
    assert (new.slot, new.generation, new.replaces) == (0, 2, "web-0")
    (gone,) = [found for found in puts(at_last, Replica) if found.state is ReplicaState.STOPPED]
    assert (gone.id, let_go(at_last)) == ("web-0-new", [])
    placed = msgspec.structs.replace(waits, state=ReplicaState.PLACED, node_id="n-b")
    assert created(at(before, 15, node, stays, placed)) == []


def test_stop_first_stops_a_portion_and_makes_it_anew_only_when_it_has_stopped() -> None:
    web, before = updated(parallelism=2, order="stop-first")
    first = at(before, 1)
    assert (let_go(first), created(first)) == (["web-0", "web-1"], [])
    leaving = applied(before, first)
    assert puts(reconcile(leaving, NOW + 2, ids()), Replica) == []
    gone = [msgspec.structs.replace(leaving.replicas[f"web-{slot}"], state=ReplicaState.STOPPED) for slot in (0, 1)]
    assert created(at(leaving, 3, *gone)) == [(0, 2), (1, 2)]
    assert web.generation == 2


def test_a_bad_version_goes_back_as_a_new_generation_and_keeps_what_still_runs() -> None:
    web, before = updated()
    assert puts(at(before, 9, sick(web, since=NOW + 5)), Deployment) == []
    plan = at(before, 10, sick(web, since=NOW + 5))
    (back,) = puts(plan, Deployment)
    assert (back.generation, back.alike, back.spec.container.image) == (3, (1,), "shop:1")
    assert back.update.state is UpdateState.ROLLING_BACK
    assert "1 of 4 replicas of generation 2 failed" in back.update.reason
    assert "no answer" in back.update.reason
    (told,) = puts(plan, Event)
    assert (told.reason, told.level) == ("RollbackStarted", "warning")
    after = applied(applied(before, Plan(steps=(Step(puts=(sick(web, since=NOW + 5),)),))), plan)
    second = reconcile(after, NOW + 11, ids())
    assert let_go(second) == ["web-0-new"]
    assert created(second) == []
    last = reconcile(applied(after, second), NOW + 12, ids())
    assert status_of(last).state is UpdateState.ROLLED_BACK
    assert puts(last, Deployment)[0].good_generation == 3


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"state": ReplicaState.FAILED}, True),
        ({"state": ReplicaState.LOST}, False),
        ({"unwell_since": NOW + 1, "node_id": "n-c"}, False),
        ({"state": ReplicaState.PLACED, "unwell_since": NOW + 50}, False),
        ({"state": ReplicaState.PLACED, "unwell_since": NOW + 40}, True),
        ({"state": ReplicaState.PLACED}, False),
        ({"state": ReplicaState.PLACED, "created_at": NOW - 541}, True),
        ({"state": ReplicaState.PENDING, "created_at": NOW - 541}, True),
        ({"state": ReplicaState.PENDING, "created_at": NOW - 541, "replaces": ""}, False),
    ],
)
def test_what_counts_as_a_failure(changes: dict[str, Any], failed: bool) -> None:
    web, before = updated()
    plan = at(before, 60, member("c", state=MemberState.SUSPECT), new_one(web, **changes))
    assert any(found.update.rollback for found in puts(plan, Deployment)) is failed


@pytest.mark.parametrize(
    "changes", [{"state_since": NOW + 57}, {"state_since": NOW + 57, "state": MemberState.SUSPECT}]
)
def test_what_a_node_said_before_it_was_away_is_not_held_against_an_update(changes: dict[str, Any]) -> None:
    web, before = updated()
    before = applied(before, Plan(steps=(Step(puts=(member("c", **changes), sick(web, NOW, node_id="n-c"))),)))
    assert puts(reconcile(before, NOW + 60, ids()), Deployment) == []
    well_again = applied(before, Plan(steps=(Step(puts=(member("c", state_since=NOW + 57),)),)))
    plan = reconcile(well_again, NOW + 61, ids())
    assert plan.wake_after_seconds == pytest.approx(1.02)
    assert puts(plan, Deployment) == []
    assert status_of(reconcile(well_again, NOW + 62, ids())).rollback


def test_a_node_that_came_back_by_a_clock_put_forward_is_no_excuse_for_hours() -> None:
    web, before = updated()
    assert status_of(at(before, 60, member("c", state_since=NOW + 7200), sick(web, NOW, node_id="n-c"))).rollback


@pytest.mark.parametrize("action", ["rollback", "pause"])
def test_an_update_is_not_given_up_for_what_has_just_become_healthy(action: Any) -> None:
    web, before = updated(failure_action=action)
    (step,) = at(before, 60, sick(web, NOW)).steps
    assert [found.id for found in step.guards] == ["web-0-new"]


def test_some_failures_may_be_tolerated() -> None:
    web, before = updated(max_failure_ratio=0.25)
    assert puts(at(before, 60, sick(web, NOW)), Deployment) == []
    assert status_of(at(before, 60, sick(web, NOW), sick(web, NOW, id="y", slot=1))).rollback


@pytest.mark.parametrize(
    ("good", "action", "reason"), [(1, "pause", "failed"), (0, "rollback", "no earlier generation is known to be good")]
)
def test_it_is_paused_where_that_is_asked_for_or_nothing_good_is_known(good: int, action: Any, reason: str) -> None:
    web, before = updated(good=good, failure_action=action)
    plan = at(before, 60, sick(web, NOW))
    assert status_of(plan).state is UpdateState.PAUSED
    assert reason in status_of(plan).paused_because
    paused_then = applied(applied(before, Plan(steps=(Step(puts=(sick(web, NOW),)),))), plan)
    assert reconcile(paused_then, NOW + 600, ids()).steps == []
    assert deployment_view(paused_then, paused_then.deployments["d-web"]).state == "paused"


def test_a_failed_rollback_is_paused_and_never_goes_back_again() -> None:
    web, before = updated()
    first = at(before, 60, sick(web, NOW))
    after = applied(before, first)
    (back,) = puts(first, Deployment)
    plan = at(after, 61, replica(back, 9, ReplicaState.FAILED, id="z"))
    assert status_of(plan).state is UpdateState.PAUSED
    assert puts(plan, Deployment)[0].generation == 3


def test_what_is_added_or_lost_during_an_update_is_made_of_the_good_version() -> None:
    web, before = updated()
    more = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, replicas=6))
    assert created(at(before, 1, more, new_one(web)))[:2] == [(4, 1), (5, 1)]


def test_a_deploy_during_an_update_supersedes_it_and_still_goes_back_to_the_good_one() -> None:
    web, _ = updated()
    spec = msgspec.structs.replace(web.spec, container=ContainerSpec(image="shop:3"))
    (after,) = changed(web, spec, NOW + 2, ids()).after
    assert (after.generation, after.update.generation, after.update.from_generation) == (3, 3, 1)


def test_pause_and_resume() -> None:
    web, before = updated()
    stop = paused(web, AUTHOR)
    assert stop is not None
    held = applied(before, Plan(steps=(stop,)))
    assert created(reconcile(held, NOW + 60, ids())) == []
    assert paused(held.deployments["d-web"], AUTHOR) is None
    failed = applied(held, Plan(steps=(Step(puts=(sick(web, NOW),)),)))
    go = resumed(slots_of(failed, failed.deployments["d-web"], NOW + 60, ids()), AUTHOR)
    assert go is not None
    assert go.puts[0].update.forgiven == 1
    assert puts(reconcile(applied(failed, Plan(steps=(go,))), NOW + 61, ids()), Deployment) == []
    with pytest.raises(NothingUnderWayError):
        paused(deployment(), AUTHOR)


def test_a_rollback_that_was_paused_still_tells_why_it_goes_back() -> None:
    web, before = updated()
    (back,) = puts(at(before, 60, sick(web, NOW)), Deployment)
    stop = paused(back, AUTHOR)
    assert stop is not None
    held = stop.puts[0]
    go = resumed(slots_of(snapshot(held), held, NOW + 61, ids()), AUTHOR)
    assert go is not None
    assert go.puts[0].update == msgspec.structs.replace(back.update, changed_at=AUTHOR.now)


def test_a_restart_renews_everything_and_going_back_renews_only_what_was_restarted() -> None:
    web, before = updated()
    done = applied(before, Plan(steps=(Step(puts=(msgspec.structs.replace(web, update=None, good_generation=2),)),)))
    step = restarted(done.deployments["d-web"], AUTHOR)
    (again, made, told) = step.puts
    assert isinstance(again, Deployment)
    assert isinstance(made, Template)
    assert (again.generation, made.cause, told.reason) == (3, "restart", "DeploymentRestarted")
    assert not again.wants(2)


def test_rolling_back_by_hand() -> None:
    route = RouteSpec(host="shop.example", port=80)
    first = deployment(good_generation=1)
    first = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, routes=(route,)))
    second, made = renewed(first, msgspec.structs.replace(first.spec, container=NEW, routes=()), AUTHOR)
    stands_for = ResolvedImage(reference="docker.io/library/shop:1", digest="sha256:" + "a" * 64, platforms=())
    stored = snapshot(*NODES, second, msgspec.structs.replace(template(first), image=stands_for), made)
    step = rolled_back(stored, second, None, AUTHOR)
    assert step is not None
    back = step.puts[0]
    assert step.puts[1].image == stands_for, "the bytes of that time, wherever the tag is by now"
    assert (back.generation, back.alike, back.spec.container.image, back.spec.routes) == (3, (1,), "shop:1", (route,))
    assert "api:ann" in back.update.reason
    after = applied(stored, Plan(steps=(step,)))
    assert rolled_back(after, back, None, AUTHOR) is None, "asked again, nothing happens"
    assert rolled_back(after, back, 1, AUTHOR) is None
    forth = rolled_back(after, back, 2, AUTHOR)
    assert forth is not None
    assert forth.puts[0].spec.container == NEW
    with pytest.raises(NoSuchGenerationError, match="generation 9 of shop/web is not kept; there are 1, 2, 3"):
        rolled_back(after, back, 9, AUTHOR)
    only = deployment("one")
    with pytest.raises(NoSuchGenerationError, match="no earlier generation"):
        rolled_back(snapshot(only, template(only)), only, None, AUTHOR)


def test_history_tells_who_when_and_what_changed_but_no_values() -> None:
    first = deployment(good_generation=1)
    secret = ContainerSpec(image="shop:2", environment={"WORD": "hunter2"})
    second, made = renewed(first, msgspec.structs.replace(first.spec, container=secret), AUTHOR)
    found = history(snapshot(second, template(first), made, replica(second)), second)
    assert [(each.generation, each.actor, each.image, each.replicas) for each in found] == [
        (2, "api:ann", "shop:2", 1), (1, "", "shop:1", 0),
    ]  # fmt: skip
    assert found[0].changed == ("image", "environment")
    assert (found[0].current, found[1].good) == (True, True)
    assert b"hunter2" not in msgspec.json.encode(found)


def test_the_generation_to_go_back_to_is_never_forgotten() -> None:
    web = deployment(generation=KEEP_GENERATIONS + 5, good_generation=2)
    old = [template(web, number) for number in (1, 2, 3)]
    plan = sweep(snapshot(web, *old), NOW)
    assert sorted(record.id for step in plan.steps for record in step.deletes) == ["d-web.1", "d-web.3"]


def test_a_deployment_stored_before_updates_had_a_status_goes_on() -> None:
    stored = msgspec.to_builtins(deployment(replicas=2, generation=2))
    for name in ("alike", "good_generation", "update"):
        del stored[name]
    for name in ("update", "rollback"):
        del stored["spec"][name]
    web = msgspec.convert(stored, Deployment)
    assert web == deployment(replicas=2, generation=2)
    plan = reconcile(snapshot(*NODES, web, template(web), *(replica(web, slot, generation=1) for slot in (0, 1))),
                     NOW, ids())  # fmt: skip
    assert created(plan) == [(0, 2)]
    assert status_of(plan).state is UpdateState.UPDATING


def test_a_clock_that_was_set_back_does_not_hold_an_update_up() -> None:
    web, cluster = updated(replicas=1, monitor_seconds=5)
    ready = new_one(web, healthy_since=NOW)
    cluster = applied(cluster, Plan(steps=[Step(puts=(ready,))]))
    earlier = NOW - 7200
    dated = applied(cluster, reconcile(cluster, earlier, ids()))
    found = dated.replicas[ready.id]
    assert (found.created_at, found.healthy_since, found.unwell_since) == (earlier, earlier, 0)
    after = applied(dated, reconcile(dated, earlier + 5, ids()))
    assert after.replicas["web-0"].state is ReplicaState.LEAVING


def test_clocks_of_two_control_planes_may_differ_a_little() -> None:
    web, cluster = updated(replicas=1, monitor_seconds=5)
    cluster = applied(cluster, Plan(steps=[Step(puts=(new_one(web, healthy_since=NOW + 2),))]))
    assert puts(reconcile(cluster, NOW, ids()), Replica) == []
