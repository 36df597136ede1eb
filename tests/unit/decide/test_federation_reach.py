"""Gateways that do not reach a cluster's nodes: who is named, after how long, where people read it, and what waits."""

import msgspec
import pytest
from records import NOW, deployment, ids, member, snapshot

from fallow.decide.federation.explain import cluster_explained, shares_explained
from fallow.decide.federation.reach import LASTING_SECONDS, Reach, Seen, noted, only_unreached, seen, unreached_text
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, RouteSpec
from fallow.model.members import Member, MemberState, Role
from fallow.model.routes import ProxyReport
from fallow.model.shares import RemoteEndpoint, Share, ShareReport, share_id

WEST = msgspec.structs.replace(member("west"), role=Role.CLUSTER, id="c-west")
GATEWAY = msgspec.structs.replace(member("gw1"), role=Role.GATEWAY)
SILENT = msgspec.structs.replace(GATEWAY, state=MemberState.DEAD)
LATER = 100.0 + LASTING_SECONDS


def routed(web: Deployment) -> Deployment:
    routes = (RouteSpec(kind="http", host="web.test", port=80),)
    return msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, routes=routes))


def world(endpoints: int = 2, leaving: tuple[str, ...] = (), gateway: Member = GATEWAY, **more: object) -> Snapshot:
    """Return the cluster west with a routed deployment that has so many endpoints there."""
    web = routed(deployment())
    found = tuple(RemoteEndpoint(id=f"web-{number}", address="192.0.2.1") for number in range(endpoints))
    report = ShareReport(deployment_id=web.id, ready=endpoints, endpoints=found, leaving=leaving)
    share = Share(
        id=share_id(web.id, "c-west"), created_at=NOW, updated_at=NOW, deployment_id=web.id, cluster_id="c-west",
        replicas=endpoints, reported=report,
    )  # fmt: skip
    return snapshot(msgspec.structs.replace(WEST, **more), gateway, web, share)


def look(found: Snapshot, *refused: str, before: Seen | None = None, at: float = 100.0) -> Seen:
    return seen(found, {GATEWAY.id: ProxyReport(applied_revision=1, refused=refused)}, before or {}, at)


def written(found: Snapshot, reach: Seen, at: float) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
    puts = [step.puts for step in noted(found, reach, at, NOW, ids())]
    return [(west.unreached_by, west.partly_reached_by, told.reason) for west, told in puts]  # type: ignore[attr-defined]


def of(reach: Reach, since: float = 100.0) -> Seen:
    return {("c-west", GATEWAY.id): (reach, since)}


def test_it_counts_from_when_a_gateway_reached_none_and_from_when_only_some() -> None:
    found = world()
    assert look(found, "c-west.web-0", "c-west.web-1", "own-1", "c-gone.web-1") == of("none")
    assert look(found, "c-west.web-0", "c-west.web-1", before=of("none"), at=LATER) == of("none")
    assert look(found, "c-west.web-0", before=of("none"), at=LATER) == of("some", LATER)
    assert look(world(leaving=("web-1",)), "c-west.web-0") == of("none"), "what leaves is asked by nobody anyway"
    assert look(found) == {}, "nobody has anything to say of it"


def test_a_gateway_is_named_once_that_has_lasted() -> None:
    assert written(world(), of("none"), LATER - 0.1) == []
    assert written(world(), of("none"), LATER) == [(("gw1",), (), "ClusterUnreached")]
    assert written(world(), of("some"), LATER) == [((), ("gw1",), "ClusterUnreached")]
    assert written(world(unreached_by=("gw1",)), of("some"), LATER) == [((), ("gw1",), "ClusterUnreached")]


def test_what_has_just_become_ready_and_was_not_tried_yet_is_no_sign_that_it_is_reached() -> None:
    noted_ = world(endpoints=3, unreached_by=("gw1",))
    reach = look(noted_, "c-west.web-0", "c-west.web-1", before=of("none"), at=LATER)
    assert reach == of("some", LATER)
    assert written(noted_, reach, LATER + 2) == []
    assert look(noted_, *(f"c-west.web-{n}" for n in range(3)), before=reach, at=LATER + 2) == of("none", LATER + 2)


@pytest.mark.parametrize(
    "more", [{}, {"endpoints": 0}, {"gateway": SILENT}], ids=["just begun", "nothing to reach", "the gateway is silent"]
)
def test_what_was_noted_stays_for_as_long_as_nothing_else_is_known(more: dict[str, object]) -> None:
    found = world(**more, unreached_by=("gw1",))  # type: ignore[arg-type]
    assert written(found, look(found), 100.0) == []
    assert written(found, look(found), 100.0 + LASTING_SECONDS - 0.1) == []


def test_a_gateway_that_has_reached_it_for_long_is_named_no_more() -> None:
    found = world(unreached_by=("gw1",))
    assert look(found) == of("all")
    assert written(found, of("all"), LATER) == [((), (), "ClusterReached")]


def test_people_read_it_where_they_look() -> None:
    assert unreached_text(WEST) == ""
    found = world(unreached_by=("gw1",), partly_reached_by=("gw2",))
    (west,) = found.clusters.values()
    text = unreached_text(west)
    assert "gw1" in text
    assert "gw2" in text
    assert text in cluster_explained(found, west)
    (web,) = found.deployments.values()
    assert text in shares_explained(found, web, NOW)


def test_only_what_has_routes_and_no_other_place_waits_for_gateways() -> None:
    found = snapshot(
        msgspec.structs.replace(WEST, unreached_by=("gw1",)), msgspec.structs.replace(WEST, id="c-east", name="east")
    )
    web = routed(deployment())
    assert only_unreached(found, web, {"c-west": 2, "c-east": 0})
    assert not only_unreached(found, web, {"c-west": 2, "c-east": 1})
    assert not only_unreached(found, deployment(), {"c-west": 2})
    assert not only_unreached(found, web, {})
