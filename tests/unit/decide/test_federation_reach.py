"""Gateways that do not reach a cluster's nodes: who is named, after how long, and where people read it."""

import msgspec
from records import NOW, deployment, ids, member, snapshot

from fallow.decide.federation.explain import cluster_explained
from fallow.decide.federation.reach import LASTING_SECONDS, lapses, noted, unreached_text
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, Role
from fallow.model.routes import ProxyReport

WEST = msgspec.structs.replace(member("west"), role=Role.CLUSTER, id="c-west")
GATEWAYS = tuple(msgspec.structs.replace(member(name), role=Role.GATEWAY) for name in ("gw1", "gw2"))


def refusing(*ids: str) -> ProxyReport:
    return ProxyReport(applied_revision=1, refused=ids)


def world(**more: object) -> Snapshot:
    return snapshot(msgspec.structs.replace(WEST, **more), *GATEWAYS)


def written(found: Snapshot, since: dict[tuple[str, str], float], at: float) -> list[tuple[tuple[str, ...], str]]:
    steps = list(noted(found, since, at, NOW, ids()))
    records = [(put, told) for put, told in (step.puts for step in steps)]
    return [(put.unreached_by, told.reason) for put, told in records if isinstance(put, Member)]  # type: ignore[attr-defined]


def test_a_gateway_is_named_once_it_has_not_reached_a_cluster_for_long() -> None:
    found = world()
    reports = {GATEWAYS[0].id: refusing("c-west.web-1"), GATEWAYS[1].id: refusing("own-1", "c-gone.web-1")}
    since = lapses(found, reports, {}, 100.0)
    assert since == {("c-west", GATEWAYS[0].id): 100.0}
    again = lapses(found, reports, since, 100.0 + LASTING_SECONDS)
    assert again == since, "it counts from when it began"
    assert written(found, again, 100.0 + LASTING_SECONDS - 0.1) == []
    assert written(found, again, 100.0 + LASTING_SECONDS) == [(("gw1",), "ClusterUnreached")]


def test_a_gateway_that_reaches_all_again_is_named_no_more() -> None:
    found = world(unreached_by=("gw1",))
    since = {("c-west", GATEWAYS[0].id): 500.0}
    assert written(found, since, 500.0) == [], "another process has begun to lead: it is still so"
    assert lapses(found, {GATEWAYS[0].id: refusing()}, since, 501.0) == {}
    assert written(found, {}, 501.0) == [((), "ClusterReached")]


def test_people_read_it_where_they_look() -> None:
    assert unreached_text(WEST) == ""
    cluster = msgspec.structs.replace(WEST, unreached_by=("gw1", "gw2"))
    text = unreached_text(cluster)
    assert "gw1, gw2" in text
    assert "west" in text
    assert text in cluster_explained(snapshot(cluster, deployment()), cluster)
