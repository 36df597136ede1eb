"""What a member makes of its host's orders."""

from typing import Any

import msgspec
import pytest
from records import NOW, applied, deployment, ids, puts, snapshot, template

from fallow.decide.federation.accept import Orders, accept, creates, follows, refusal
from fallow.decide.federation.leave import kept_shares, removed_shares
from fallow.decide.federation.orders import order_of, order_revision
from fallow.decide.snapshot import Snapshot
from fallow.model.cluster_frames import SetShares
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Origin, PlacementPolicy, RouteSpec, Template
from fallow.model.shares import Share, ShareOrder
from fallow.model.updates import UpdateState, UpdateStatus

NEW_ID = ids()


def order(name: str = "web", replicas: int = 2, revision: int = 10, keep: int = 0, **more: Any) -> ShareOrder:
    image, generation, digest = more.pop("image", "shop:1"), more.pop("generation", 1), more.pop("digest", None)
    spec = DeploymentSpec(replicas=5, container=ContainerSpec(image=image), **more)
    return ShareOrder(
        deployment_id=f"d-{name}", project="shop", name=name, spec=spec, generation=generation, replicas=replicas,
        revision=revision, keep=keep, digest=digest,
    )  # fmt: skip


def taken(*orders: ShareOrder, before: Snapshot | None = None, **more: Any) -> Snapshot:
    """Return what is stored once orders are taken in."""
    now = before or Snapshot()
    plan = accept(now, {each.deployment_id: each for each in orders}, NOW, NEW_ID, **more)
    return stored(applied(now, plan))


def stored(after: Snapshot) -> Snapshot:
    """Return records as the store gives them back, with a revision."""
    kinds = (after.deployments, after.templates, after.replicas)
    return snapshot(*(msgspec.structs.replace(each, revision=1) for kind in kinds for each in kind.values()))


def only(after: Snapshot) -> Deployment:
    (found,) = after.deployments.values()
    return found


def test_an_order_becomes_a_deployment_with_its_share_and_origin() -> None:
    found = only(taken(order()))
    assert (found.id, found.path, found.share, found.replicas_here, found.spec.replicas) == (
        "d-web",
        "shop/web",
        2,
        2,
        5,
    )
    assert found.origin == Origin(revision=10, generation=1, taken_as=1)
    assert follows(found, order())


def test_what_an_order_keeps_is_kept_until_another_says_otherwise() -> None:
    found = only(taken(order(keep=4)))
    assert (found.share, found.keep) == (2, 4)
    assert not follows(found, order())
    assert only(taken(order(revision=11), before=snapshot(found))).keep == 0
    assert [made.id for made in taken(order()).templates.values()] == ["d-web.1"]


DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def digests(after: Snapshot) -> dict[str, str]:
    return {found.id: found.image.digest for found in after.templates.values() if found.image is not None}


def test_an_order_says_what_its_image_stands_for() -> None:
    first = taken(order(digest=DIGEST))
    assert digests(first) == {"d-web.1": DIGEST}
    assert first.templates["d-web.1"].image.reference == "docker.io/library/shop:1"
    second = taken(order(image="shop:2", generation=2, revision=11, digest=OTHER), before=first)
    assert digests(second)["d-web.2"] == OTHER
    renewed = taken(order(generation=2, revision=11, digest=OTHER), before=first)
    assert digests(renewed)["d-web.2"] == OTHER


def test_what_an_image_stands_for_may_be_said_later_but_not_changed() -> None:
    first = taken(order())
    assert digests(first) == {}
    told = taken(order(digest=DIGEST, revision=11), before=first)
    assert digests(told) == {"d-web.1": DIGEST}
    assert (only(told).generation, only(told).origin) == (1, only(first).origin)
    assert not accept(told, {"d-web": order(digest=OTHER, revision=12)}, NOW, NEW_ID).steps


def test_the_same_order_changes_nothing_and_a_newer_one_of_the_same_writes_nothing() -> None:
    before = taken(order())
    assert not accept(before, {"d-web": order()}, NOW, NEW_ID).steps
    assert not accept(before, {"d-web": order(revision=99)}, NOW, NEW_ID).steps


@pytest.mark.parametrize(
    "changes",
    [{"replicas": 3}, {"routes": (RouteSpec(port=80),)}, {"clusters": ClusterPolicy(divide="duplicate")}],
)
def test_what_is_no_new_generation_for_the_host_is_none_for_the_member(changes: dict[str, Any]) -> None:
    wanted = order(revision=11, **changes)
    after = taken(wanted, before=taken(order()))
    assert only(after).generation == 1
    assert follows(only(after), wanted)


def test_a_new_generation_rolls_as_a_deploy_does() -> None:
    first = taken(order())
    good = stored(snapshot(msgspec.structs.replace(only(first), good_generation=1), *first.templates.values()))
    found = only(taken(order(image="shop:2", generation=2, revision=11), before=good))
    assert (found.generation, found.spec.container.image) == (2, "shop:2")
    assert found.update == UpdateStatus(generation=2, from_generation=1, started_at=NOW, changed_at=NOW)
    assert found.origin == Origin(revision=11, generation=2, taken_as=2)


def test_a_restart_of_the_same_renews_and_going_back_does_not() -> None:
    before = taken(order(image="shop:2", generation=2, revision=11), before=taken(order()))
    again = only(taken(order(image="shop:2", generation=3, revision=12), before=before))
    assert (again.generation, again.alike) == (3, ())
    back = only(taken(order(image="shop:1", generation=3, revision=12), before=before))
    assert (back.generation, back.alike) == (3, (1,))
    assert back.wants(1)
    assert not back.wants(2)


def test_a_generation_that_was_rolled_back_here_is_not_begun_again_by_another_share() -> None:
    before = taken(order(image="shop:2", generation=2, revision=11), before=taken(order()))
    failed = only(before)
    rolled_back = msgspec.structs.replace(
        failed, generation=3, alike=(1,),
        spec=msgspec.structs.replace(failed.spec, container=ContainerSpec(image="shop:1")),
        update=UpdateStatus(
            generation=3, state=UpdateState.ROLLING_BACK, rollback=True, from_generation=1, started_at=NOW,
            changed_at=NOW,
        ),
    )  # fmt: skip
    after = only(taken(order(image="shop:2", generation=2, replicas=4, revision=12), before=snapshot(rolled_back)))
    assert (after.share, after.generation, after.spec.container.image) == (4, 3, "shop:1")
    again = only(taken(order(image="shop:3", generation=3, revision=13), before=stored(snapshot(after))))
    assert (again.generation, again.spec.container.image) == (4, "shop:3")


def test_a_host_that_was_restored_from_a_backup_is_followed_though_it_counts_from_less() -> None:
    before = taken(order(image="shop:2", generation=7, revision=900))
    after = only(taken(order(image="shop:1", generation=6, revision=3), before=before))
    assert (after.spec.container.image, after.origin) == (
        "shop:1",
        Origin(revision=3, generation=6, taken_as=2),
    )
    same = only(taken(order(image="shop:2", generation=6, revision=3), before=before))
    assert same.generation == 1  # of the same: nothing is renewed


def test_what_is_missing_is_deleted_but_never_what_is_our_own() -> None:
    before = stored(snapshot(deployment("local"), only(taken(order()))))
    after = accept(before, {}, NOW, NEW_ID)
    (gone,) = puts(after, Deployment)
    assert (gone.id, gone.deleting) == ("d-web", True)
    assert not accept(applied(before, after), {}, NOW, NEW_ID).steps


def test_a_share_of_none_keeps_the_deployment() -> None:
    after = only(taken(order(replicas=0, revision=11), before=taken(order())))
    assert (after.share, after.deleting) == (0, False)


def test_a_path_or_an_id_that_is_taken_is_refused_with_the_reason() -> None:
    own = snapshot(deployment("web", id="d-mine"))
    assert "deployment shop/web of its own" in refusal(own, order())
    assert "of its own with the id d-web" in refusal(snapshot(deployment("other", id="d-web")), order())
    assert "still being deleted" in refusal(
        snapshot(deployment("web", deleting=True, origin=Origin(revision=1, generation=1))), order()
    )
    earlier = deployment("web", id="d-earlier", origin=Origin(revision=1, generation=1))
    assert "has not ended here yet" in refusal(snapshot(earlier), order())
    for before in (own, snapshot(deployment("other", id="d-web"))):
        assert not accept(before, {"d-web": order()}, NOW, NEW_ID).steps
    assert refusal(Snapshot(), order()) == ""


def test_steps_that_make_something_come_last_and_are_told_apart() -> None:
    before = taken(order("a"))
    plan = accept(before, {o.deployment_id: o for o in (order("b"), order("a", replicas=1, revision=11))}, NOW, NEW_ID)
    assert [creates(step) for step in plan.steps] == [False, True]


def test_what_is_fenced_comes_back_only_when_the_host_is_heard() -> None:
    asked = order(clusters=ClusterPolicy(fence_seconds=10.0))
    before = only(taken(asked))
    fenced = snapshot(msgspec.structs.replace(before, share=0, origin=Origin(revision=10, generation=1, fenced=True)))
    assert not accept(fenced, {"d-web": asked}, NOW, NEW_ID, NOW - 10.0).steps
    after = only(taken(asked, before=fenced, heard_at=NOW - 9.0))
    assert after.origin is not None
    assert (after.share, after.origin.fenced) == (2, False)


def test_a_full_set_counts_once_all_of_it_is_there() -> None:
    orders = Orders()
    orders.take(SetShares(full=True, orders=(order("a"),), more=True))
    assert not orders.complete
    orders.take(SetShares(full=True, orders=(order("b"),)))
    assert orders.complete
    assert set(orders.orders) == {"d-a", "d-b"}
    orders.take(SetShares(full=False, orders=(order("a", replicas=9, revision=9),)))
    assert orders.orders["d-a"].replicas == 2  # older than the one that is known
    orders.take(SetShares(full=False, orders=(order("a", replicas=7, revision=11), order("c")), removed=("d-b", "d-x")))
    assert {id_: found.replicas for id_, found in orders.orders.items()} == {"d-a": 7, "d-c": 2}
    orders.take(SetShares(full=True, orders=(order("c", revision=1),)))
    assert {id_: found.revision for id_, found in orders.orders.items()} == {"d-c": 1}


def test_an_orders_revision_grows_with_the_share_and_with_the_deployment_and_not_with_reports() -> None:
    share = Share(id="d-web.c-1", created_at=NOW, updated_at=NOW, deployment_id="d-web", cluster_id="c-1", replicas=2,
                  order=20, revision=25)  # fmt: skip
    web = deployment(revision=10)
    assert order_revision(share, web) == 20
    assert order_revision(msgspec.structs.replace(share, revision=99), web) == 20
    assert order_revision(msgspec.structs.replace(share, order=31), web) == 31
    assert order_revision(share, deployment(revision=40)) == 40
    assert order_of(share, web).replicas == 2
    assert order_of(share, deployment(deleting=True)).replicas == 0


def test_leaving_keeps_what_runs_and_deletes_what_does_not() -> None:
    web, idle = only(taken(order("web"))), only(taken(order("idle", replicas=0)))
    before = stored(snapshot(web, idle, deployment("local"), template(web)))
    kept = {found.name: found for found in puts(kept_shares(before, NOW, NEW_ID, "api:me"), Deployment)}
    assert (kept["web"].origin, kept["web"].share, kept["web"].spec.replicas) == (None, None, 2)
    assert kept["web"].generation == 1
    assert (kept["idle"].origin, kept["idle"].deleting) == (None, True)
    assert set(kept) == {"web", "idle"}
    gone = puts(removed_shares(before, NOW, NEW_ID, "api:me"), Deployment)
    assert sorted(found.name for found in gone if found.deleting) == ["idle", "web"]
    assert not kept_shares(applied(before, kept_shares(before, NOW, NEW_ID, "api:me")), NOW, NEW_ID, "x").steps


def test_another_placement_is_another_generation_in_the_member_too() -> None:
    moved = order(generation=2, revision=11, placement=PlacementPolicy(max_per_node=1))
    after = taken(moved, before=taken(order()))
    assert only(after).generation == 2
    assert isinstance(after.templates["d-web.2"], Template)
    assert after.templates["d-web.2"].placement.max_per_node == 1


def test_only_what_is_asked_for_is_looked_at() -> None:
    before = stored(snapshot(only(taken(order("a"))), only(taken(order("b")))))
    wanted = {"d-c": order("c"), "d-d": order("d")}
    assert {
        found.id for found in puts(accept(before, wanted, NOW, NEW_ID, only={"d-a", "d-c", "d-x"}), Deployment)
    } == {
        "d-a",
        "d-c",
    }
    assert len(puts(accept(before, wanted, NOW, NEW_ID), Deployment)) == 4
