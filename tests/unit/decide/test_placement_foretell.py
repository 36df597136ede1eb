"""What a deploy would do, told before it is done."""

from typing import Any

from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.placement import Foretold, foretell
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, ReplicaState

NODES = member("a"), member("b")  # of 4 processors and 8 GiB each


def spec(replicas: int, cpus: float = 1.0, image: str = "shop:1", **placement: Any) -> DeploymentSpec:
    container = ContainerSpec(image=image, resources=Resources(cpus=cpus))
    return DeploymentSpec(replicas=replicas, container=container, placement=PlacementPolicy(**placement))


WEB = deployment(spec=spec(3))
THERE = [replica(WEB, slot, node_id=f"n-{name}") for slot, name in enumerate("aab")]
RUNNING = snapshot(*NODES, WEB, template(WEB), *THERE)


def test_a_new_deployment_is_placed_as_far_as_it_fits() -> None:
    told = foretell(snapshot(*NODES), "shop", [("web", spec(5, cpus=2))], NOW)
    assert told == {
        "web": Foretold(
            placements={"a": 2, "b": 2},
            unplaced=1,
            reasons=("2 of 2 nodes: not enough CPU (need 2, best has 0 free)",),
        )
    }


def test_an_unchanged_deployment_keeps_its_replicas_and_only_the_difference_is_placed() -> None:
    assert foretell(RUNNING, "shop", [("web", spec(3))], NOW)["web"].placements == {"a": 2, "b": 1}
    assert foretell(RUNNING, "shop", [("web", spec(5))], NOW)["web"].placements == {"a": 3, "b": 2}
    assert sum(foretell(RUNNING, "shop", [("web", spec(1))], NOW)["web"].placements.values()) == 1
    assert foretell(RUNNING, "shop", [("web", spec(0))], NOW)["web"] == Foretold()


def test_a_changed_deployment_is_laid_out_anew_in_the_room_of_the_old_one() -> None:
    told = foretell(RUNNING, "shop", [("web", spec(4, cpus=2, image="shop:2"))], NOW)["web"]
    assert (told.placements, told.unplaced) == ({"a": 2, "b": 2}, 0)


def test_replicas_that_will_be_gone_do_not_say_where_the_new_ones_go() -> None:
    here = [replica(WEB, slot, node_id="n-a") for slot in range(3)]
    before = snapshot(*NODES, WEB, template(WEB), *here)
    assert foretell(before, "shop", [("web", spec(3))], NOW)["web"].placements == {"a": 3}
    assert foretell(before, "shop", [("web", spec(3, image="shop:2"))], NOW)["web"].placements == {"a": 2, "b": 1}
    deleting = deployment(spec=spec(3), deleting=True)
    before = snapshot(*NODES, deleting, template(deleting), *here)
    assert foretell(before, "shop", [("web", spec(3))], NOW)["web"].placements == {"a": 2, "b": 1}


def test_another_projects_deployment_of_the_same_name_is_another_one() -> None:
    told = foretell(RUNNING, "other", [("web", spec(6))], NOW)["web"]
    assert (told.placements, told.unplaced) == ({"a": 2, "b": 3}, 1)


def test_wishes_compete_in_their_order_and_after_what_is_pending() -> None:
    waiting = replica(WEB, 9, ReplicaState.PENDING, id="web-9")
    before = snapshot(*NODES, WEB, template(WEB), *THERE, waiting)
    told = foretell(before, "shop", [("second", spec(3)), ("first", spec(3))], NOW)
    assert [sum(told[name].placements.values()) for name in ("second", "first")] == [3, 1]
    assert told["first"].unplaced == 2


def test_what_is_leaving_holds_its_room_and_what_is_being_deleted_is_no_longer_there() -> None:
    leaving = [replica(WEB, slot, ReplicaState.LEAVING, id=f"web-old-{slot}") for slot in range(4)]
    told = foretell(snapshot(*NODES, WEB, template(WEB), *leaving), "shop", [("web", spec(8))], NOW)["web"]
    assert (told.placements, told.unplaced) == ({"b": 4}, 4)
    deleting = deployment(spec=spec(3), deleting=True)
    told = foretell(snapshot(*NODES, deleting, template(deleting), *THERE), "shop", [("web", spec(8))], NOW)["web"]
    assert (told.placements, told.unplaced) == ({"a": 4, "b": 4}, 0)


def test_the_snapshot_is_left_as_it_was() -> None:
    foretell(RUNNING, "shop", [("web", spec(9, image="shop:2"))], NOW)
    assert set(RUNNING.replicas) == {found.id for found in THERE}
    assert set(RUNNING.templates) == {"d-web.1"}
