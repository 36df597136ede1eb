"""Gateways that do not reach a cluster's nodes: who is named, after how long, where people read it, and what waits."""

from collections.abc import Mapping

import msgspec
import pytest
from records import NOW, deployment, ids, member, snapshot

from fallow.decide.federation.explain import cluster_explained, shares_explained
from fallow.decide.federation.reach import LASTING_SECONDS, Lapses, lapses, noted, only_unreached, unreached_text
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, RouteSpec
from fallow.model.members import Member, MemberState, Role
from fallow.model.routes import ProxyReport
from fallow.model.shares import RemoteEndpoint, Share, ShareReport, share_id

WEST = msgspec.structs.replace(member("west"), role=Role.CLUSTER, id="c-west")
GATEWAY = msgspec.structs.replace(member("gw1"), role=Role.GATEWAY)
SILENT = msgspec.structs.replace(GATEWAY, state=MemberState.DEAD)
SINCE_NONE = {("c-west", GATEWAY.id, True): 100.0}
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


def seen(found: Snapshot, *refused: str, before: Lapses | None = None, at: float = 100.0) -> Mapping[object, float]:
    return lapses(found, {GATEWAY.id: ProxyReport(applied_revision=1, refused=refused)}, before or {}, at)


def written(found: Snapshot, since: Lapses, at: float) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
    puts = [step.puts for step in noted(found, since, at, NOW, ids())]
    return [(west.unreached_by, west.partly_reached_by, told.reason) for west, told in puts]  # type: ignore[attr-defined]


def test_it_counts_from_when_a_gateway_reached_none_and_from_when_only_some() -> None:
    found = world()
    assert seen(found, "c-west.web-0", "c-west.web-1", "own-1", "c-gone.web-1") == SINCE_NONE
    assert seen(found, "c-west.web-0", "c-west.web-1", before=SINCE_NONE, at=LATER) == SINCE_NONE
    assert seen(found, "c-west.web-0", before=SINCE_NONE, at=LATER) == {("c-west", GATEWAY.id, False): LATER}
    assert seen(world(leaving=("web-1",)), "c-west.web-0") == SINCE_NONE, "what leaves is asked by nobody anyway"
    assert seen(found) == {}


def test_a_gateway_is_named_once_that_has_lasted() -> None:
    assert written(world(), SINCE_NONE, LATER - 0.1) == []
    assert written(world(), SINCE_NONE, LATER) == [(("gw1",), (), "ClusterUnreached")]
    some = {("c-west", GATEWAY.id, False): 100.0}
    assert written(world(), some, LATER) == [((), ("gw1",), "ClusterUnreached")]
    assert written(world(unreached_by=("gw1",)), some, 100.0) == [((), (), "ClusterReached")]


@pytest.mark.parametrize(
    ("more", "since"),
    [({}, SINCE_NONE), ({"endpoints": 0}, {}), ({"gateway": SILENT}, {})],
    ids=["another process has begun to lead", "there is nothing to reach", "the gateway is silent"],
)
def test_what_was_noted_stays_for_as_long_as_nothing_else_is_known(more: dict[str, object], since: Lapses) -> None:
    assert written(world(**more, unreached_by=("gw1",)), since, 100.0) == []  # type: ignore[arg-type]


def test_a_gateway_that_reaches_it_again_is_named_no_more() -> None:
    assert written(world(unreached_by=("gw1",)), {}, 100.0) == [((), (), "ClusterReached")]


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
