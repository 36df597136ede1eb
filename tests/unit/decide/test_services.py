"""Which endpoints a cluster knows of each service, here and in other clusters, and how gateways weigh them."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from records import NOW, cluster, deployment, following, member, remote_endpoint, replica, share, snapshot

from fallow.decide import names
from fallow.decide.harvest.throttled import Weight
from fallow.decide.remotes import ENDPOINTS, FRAME_SERVICES, frames, offered, offers
from fallow.decide.routes import SUSPECT_WEIGHT, WEIGHT, Place, conflicts, place_of, render, render_all
from fallow.decide.services import services
from fallow.model.clusters import HERE_ID, ClusterPolicy
from fallow.model.deployments import Origin, RouteSpec
from fallow.model.hosts import HOST_ID, Host
from fallow.model.members import Lease, MemberState, Role
from fallow.model.remotes import RemoteCluster, RemoteService
from fallow.model.shares import RemoteEndpoint

ROUTE = RouteSpec(host="shop.test", port=80)
WEST = Place("west", alone=False)


def routed(name: str = "web", *routes: RouteSpec, **changes: Any) -> Any:
    plain = deployment(name, **changes)
    return msgspec.structs.replace(plain, spec=msgspec.structs.replace(plain.spec, routes=routes or (ROUTE,)))


def host(**changes: Any) -> Host:
    values = {"id": HOST_ID, "created_at": NOW, "updated_at": NOW, "url": "", "member_id": "m", "name": "me"}
    return Host(**(values | changes))


def remote(name: str = "web", *clusters: RemoteCluster, **changes: Any) -> RemoteService:
    values: dict[str, Any] = {
        "id": f"d-{name}", "created_at": NOW, "updated_at": NOW, "revision": 1, "project": "shop", "name": name,
        "deployed_at": NOW, "routes": (ROUTE,), "clusters": clusters,
    }  # fmt: skip
    return RemoteService(**(values | changes))


def several(count: int, prefix: str = "web", **changes: Any) -> list[RemoteEndpoint]:
    return [remote_endpoint(f"{prefix}-{slot}", f"10.1.{slot // 250}.{slot % 250}", **changes) for slot in range(count)]


def weighed(*records: Any, place: Place = WEST) -> dict[str, tuple[int, bool]]:
    (backend,) = render(snapshot(*records), place).backends
    return {endpoint.id: (endpoint.weight, endpoint.backup) for endpoint in backend.endpoints}


WEB = routed(replicas=8, share=0)
ONE, TWO = cluster("one", "west"), cluster("two", "east")


@pytest.mark.parametrize(
    ("ready", "told", "others", "expected"),
    [
        (4, 4, 2, (WEIGHT, True)),
        (2, 4, 2, (WEIGHT, True)),
        (1, 4, 2, (WEIGHT, False)),  # three are missing, so two take all they can
        (1, 4, 6, (50, False)),
        (1, 8, 4, (WEIGHT, False)),
        (1, 3, 600, (1, False)),
        (0, 4, 2, (WEIGHT, False)),
        (2, 0, 2, (WEIGHT, True)),
    ],
)
def test_others_get_what_is_missing_in_the_own_region(
    ready: int, told: int, others: int, expected: tuple[int, bool]
) -> None:
    shares = [
        share(WEB, "c-one", *several(ready), replicas=told),
        share(WEB, "c-two", *several(others), replicas=others),
    ]
    found = weighed(WEB, ONE, TWO, *shares)
    assert {found[id_] for id_ in found if id_.startswith("c-one")} == ({(WEIGHT, False)} if ready else set())
    assert {found[id_] for id_ in found if id_.startswith("c-two")} == {expected}


def test_endpoints_elsewhere_that_are_throttled_get_fewer_requests() -> None:
    shares = [
        share(WEB, "c-one", remote_endpoint("web-0", weight=25), remote_endpoint("web-1"), replicas=8),
        share(WEB, "c-two", *several(12, weight=50), replicas=12),
    ]
    found = weighed(WEB, ONE, TWO, *shares)
    assert (found["c-one.web-0"], found["c-one.web-1"]) == ((25, False), (WEIGHT, False))
    assert found["c-two.web-0"] == (25, False), "half of what is missing in the own region"
    silent = msgspec.structs.replace(ONE, state=MemberState.SUSPECT)
    assert weighed(WEB, silent, shares[0])["c-one.web-0"] == (SUSPECT_WEIGHT, False)


def test_members_are_told_how_throttled_endpoints_elsewhere_are() -> None:
    here = replica(WEB, 9, node_id="n-a", address="10.0.0.1", host_ports={"80/tcp": 20000})
    far = share(WEB, "c-one", remote_endpoint("web-0", weight=50))
    state = snapshot(WEB, ONE, TWO, far, member("a"), here)
    first = services(state, weights={"n-a": Weight(25, NOW)})
    offer = offered(offers(first)["d-web"], "c-two")
    assert offer is not None
    assert [[each.weight for each in found.endpoints] for found in offer.clusters] == [[25], [50]]
    again = services(state, first, {})
    assert [each.weight for each in again.by_id["d-web"].groups[0].ready] == [100]
    known = msgspec.structs.replace(offer, id=API.id, name="api", routes=API.spec.routes)
    assert {weight for weight, _ in weighed(host(), known).values()} == {50, 25}


def test_where_no_region_is_named_all_clusters_are_alike() -> None:
    shares = [share(WEB, "c-one", *several(1), replicas=1), share(WEB, "c-two", *several(1), replicas=9)]
    found = weighed(WEB, ONE, TWO, *shares, place=Place("", alone=False))
    assert found == {"c-one.web-0": (WEIGHT, False), "c-two.web-0": (WEIGHT, False)}


def test_a_gateway_stands_in_its_clusters_region_unless_it_says_another() -> None:
    plain = member("g", role=Role.GATEWAY, lease=Lease(address="10.0.0.1"))
    assert place_of(plain, "west") == Place("west", alone=False)
    assert place_of(msgspec.structs.replace(plain, labels={"region": "east"}), "west").region == "east"
    assert place_of(msgspec.structs.replace(plain, lease=Lease(address="127.0.0.1")), "west").alone


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (MemberState.READY, {"c-one.web-0": (WEIGHT, False)}),
        (MemberState.SUSPECT, {"c-one.web-0": (SUSPECT_WEIGHT, False)}),
        (MemberState.DEAD, {"c-one.web-0": (SUSPECT_WEIGHT, False)}),
        (MemberState.JOINING, {}),
    ],
)
def test_a_suspect_cluster_is_the_last_to_be_asked_and_so_is_a_dead_one(
    state: MemberState, expected: dict[str, Any]
) -> None:
    one = cluster("one", "west", state=state)
    told = share(WEB, "c-one", *several(1))
    assert weighed(WEB, one, told) == expected
    if state is not MemberState.READY:
        assert weighed(WEB, one, TWO, told, share(WEB, "c-two", *several(1))) == {"c-two.web-0": (WEIGHT, False)}


def test_a_dead_cluster_with_a_fence_is_not_asked_and_no_region_waits_for_what_a_dead_one_was_told() -> None:
    dead, told = cluster("one", "west", state=MemberState.DEAD), share(WEB, "c-one", *several(1), replicas=9)
    policy = msgspec.structs.replace(WEB.spec, clusters=ClusterPolicy(fence_seconds=5))
    assert weighed(msgspec.structs.replace(WEB, spec=policy), dead, told) == {}
    shares = [share(WEB, "c-three", *several(1), replicas=1), share(WEB, "c-two", *several(1), replicas=1)]
    found = weighed(WEB, dead, TWO, cluster("three", "west"), told, *shares)
    assert found == {"c-three.web-0": (WEIGHT, False), "c-two.web-0": (WEIGHT, True)}


def test_replicas_of_one_name_in_two_clusters_are_two_endpoints() -> None:
    here = replica(WEB, 0, address="10.0.0.1", host_ports={"80/tcp": 20000})
    shares = [share(WEB, "c-one", *several(1)), share(WEB, "c-two", *several(1))]
    found = weighed(WEB, ONE, TWO, member("a"), here, *shares, place=Place("", alone=False))
    assert set(found) == {"web-0", "c-one.web-0", "c-two.web-0"}


def test_what_leaves_is_no_endpoint_even_where_its_cluster_names_it_as_one() -> None:
    assert weighed(WEB, ONE, share(WEB, "c-one", *several(2), leaving=("web-0",))) == {"c-one.web-1": (WEIGHT, False)}


def test_the_own_nodes_are_known_from_their_replicas_and_not_from_their_share() -> None:
    here = cluster("here", "west", id=HERE_ID)
    own = replica(WEB, 3, address="10.0.0.1", host_ports={"80/tcp": 20000})
    assert weighed(WEB, here, member("a"), own, share(WEB, HERE_ID, *several(2))) == {"web-3": (WEIGHT, False)}


@pytest.mark.parametrize(
    "endpoint",
    [
        remote_endpoint("web-0;shutdown"), remote_endpoint("web.0"), remote_endpoint("web-0\n"),
        remote_endpoint("w" * 65), remote_endpoint("web-0", address="localhost"),
        remote_endpoint("web-0", address="10.0.0.1 backup"), remote_endpoint("web-0", address="0.0.0.0"),
        remote_endpoint("web-0", address="fe80::1%eth0"), remote_endpoint("web-0", address="224.0.0.1"),
        remote_endpoint("web-0", address="127.0.0.1"), remote_endpoint("web-0", ports={"80": 80}),
    ],
)  # fmt: skip
def test_an_endpoint_that_gateways_could_not_take_is_left_out_alone(endpoint: RemoteEndpoint) -> None:
    told = share(WEB, "c-one", endpoint, remote_endpoint("web-1"))
    assert weighed(WEB, ONE, told) == {"c-one.web-1": (WEIGHT, False)}


def test_a_gateway_on_this_machine_alone_reaches_endpoints_on_it() -> None:
    told = share(WEB, "c-one", remote_endpoint("web-0", address="127.0.0.1"))
    assert weighed(WEB, ONE, told, place=Place("west", alone=True)) == {"c-one.web-0": (WEIGHT, False)}


def test_a_member_serves_what_runs_elsewhere_only() -> None:
    far = RemoteCluster(cluster_id="c-two", region="east", replicas=1, endpoints=tuple(several(1)))
    found = snapshot(host(), remote("web", far))
    assert [route.backend for route in render(found).http] == ["shop/web:80"]
    assert weighed(host(), remote("web", far)) == {"c-two.web-0": (WEIGHT, False)}
    assert render(snapshot(remote("web", far))).http == (), "it has no host any more"
    assert render(snapshot(host(refused="removed"), remote("web", far))).http == ()


def test_a_members_own_replicas_and_those_elsewhere_are_one_service() -> None:
    own = routed(origin=Origin(revision=1, generation=1), share=1, replicas=2)
    far = RemoteCluster(cluster_id="c-two", region="east", replicas=1, endpoints=tuple(several(1)))
    here = replica(own, 0, address="10.0.0.1", host_ports={"80/tcp": 20000})
    found = weighed(host(labels={"region": "west"}), own, member("a"), here, remote("web", far))
    assert found == {"web-0": (WEIGHT, False), "c-two.web-0": (WEIGHT, True)}


def test_the_older_deployment_has_an_address_on_members_too() -> None:
    taken = routed("mine", created_at=NOW - 5)
    newer = routed("late", created_at=NOW + 5)
    found = snapshot(host(), remote("web"), taken)
    assert [route.backend for route in render(found).http] == ["shop/mine:80"]
    found = snapshot(host(), remote("web"), newer)
    assert [route.backend for route in render(found).http] == ["shop/web:80"]
    assert conflicts(found) == {("shop/late", ROUTE): "http://shop.test/ belongs to shop/web, which is older"}
    # what was taken in late is as old as it is at the host
    hosted = routed("web", created_at=NOW + 9, origin=Origin(revision=1, generation=1))
    assert [route.backend for route in render(snapshot(host(), remote("web"), hosted, newer)).http] == ["shop/web:80"]


def test_a_deployment_and_a_service_elsewhere_of_one_name_are_told_apart() -> None:
    mine = routed("web", RouteSpec(host="mine.test", port=80), id="d-mine")
    state = render(snapshot(host(), mine, remote("web")))
    assert [(route.host, route.backend) for route in state.http] == [
        ("mine.test", "shop/web:80"), ("shop.test", "shop/web@d-web:80"),
    ]  # fmt: skip


def test_a_member_is_told_of_no_more_endpoints_than_a_record_holds() -> None:
    found = services(snapshot(WEB, ONE, TWO, share(WEB, "c-one", *several(ENDPOINTS + 9)), share(WEB, "c-two")))
    (offer,) = offers(found).values()
    told = offered(offer, "c-two")
    assert told is not None
    assert [len(one.endpoints) for one in told.clusters if one.cluster_id == "c-one"] == [ENDPOINTS // 3]


def test_endpoints_at_loopback_addresses_are_for_members_on_the_same_machine() -> None:
    near = share(WEB, "c-one", remote_endpoint("web-0", address="127.0.0.1"), remote_endpoint("web-1"))
    (offer,) = offers(services(snapshot(WEB, ONE, TWO, near))).values()
    for alone, ids in [(True, ["web-0", "web-1"]), (False, ["web-1"])]:
        told = offered(offer, "c-two", alone)
        assert told is not None
        assert [found.id for one in told.clusters for found in one.endpoints] == ids


def test_a_service_without_routes_is_told_while_it_has_endpoints_elsewhere() -> None:
    plain = deployment("db", share=0)
    found = offers(services(snapshot(plain, ONE, TWO, share(plain, "c-one", *several(1)))))
    assert offered(found["d-db"], "c-one") is None
    assert offered(found["d-db"], "c-two") is not None


def test_frames_are_bounded() -> None:
    many = [remote(f"s{number}") for number in range(FRAME_SERVICES + 1)]
    assert [len(part) for part in frames(many)] == [FRAME_SERVICES, 1]
    large = RemoteCluster(cluster_id="c-one", endpoints=tuple(several(9000)))
    assert [len(part) for part in frames([remote(f"s{number}", large) for number in range(5)])] == [4, 1]
    assert list(frames([])) == [()]


API = routed("api", RouteSpec(host="api.test", port=80), share=0)
FAR = RemoteCluster(cluster_id="c-nine", region="east", replicas=1, endpoints=tuple(several(1, "far")))
HERE = replica(WEB, 9, address="10.0.0.1", host_ports={"80/tcp": 20000})
FIRST = [
    host(), WEB, API, ONE, TWO, member("a"), HERE,
    remote("api", FAR, routes=API.spec.routes), remote("far", FAR, routes=()),
    share(WEB, "c-one", *several(2)), share(API, "c-one", *several(2)),
]  # fmt: skip


def test_what_has_not_changed_is_not_rendered_again() -> None:
    first = following(snapshot(), FIRST)
    before = render_all(first, [WEST])
    now = following(first, [share(WEB, "c-one", *several(1))])
    after = render_all(now, [WEST], before)
    old, new = before.states[WEST], after.states[WEST]
    assert new.revision == now.revision
    assert [one.key for one, two in zip(old.backends, new.backends, strict=True) if one is not two] == ["shop/web:80"]
    assert new.http is old.http
    assert render_all(now, [WEST], after) is after


@pytest.mark.parametrize(
    "change",
    [
        share(WEB, "c-one", *several(1)), share(API, "c-two", *several(1)),
        msgspec.structs.replace(HERE, address="10.0.0.9"), msgspec.structs.replace(HERE, host_ports={"80/tcp": 7}),
        msgspec.structs.replace(HERE, healthy_since=0.0), member("a", state=MemberState.SUSPECT),
        cluster("one", "west", state=MemberState.DEAD), cluster("one", "east"), cluster("here", "west", id=HERE_ID),
        host(labels={"region": "east"}), host(refused="removed"), remote("api", routes=API.spec.routes), remote("far"),
        remote("new", FAR), routed("web", RouteSpec(host="new.test", port=80), share=0, replicas=8),
        routed("web", replicas=8, share=90), routed("late", RouteSpec(host="late.test", port=80)),
    ],
)  # fmt: skip
def test_every_change_is_rendered(change: Any) -> None:
    check_follows([change], [])


@pytest.mark.parametrize("gone", [HERE, remote("api"), remote("far"), API, share(WEB, "c-one"), TWO, host()])
def test_what_goes_is_rendered_no_more(gone: Any) -> None:
    check_follows([], [gone])


def check_follows(puts: list[Any], gone: list[Any]) -> None:
    """Make everything of what was made before some writes, and compare it with what is made from nothing."""
    places = [WEST, Place("east", alone=True), Place("", alone=False)]
    first = following(snapshot(), FIRST)
    before, known, zone = render_all(first, places), services(first), names.render(first, "fallow.internal")
    made = offers(known)
    now = following(first, puts, gone)  # only now, for it carries over the indexes that were built
    gone_keys = {(type(record), record.id) for record in gone}
    left = [record for record in FIRST if (type(record), record.id) not in gone_keys]
    anew = replace(following(snapshot(), [*left, *puts]), revision=now.revision)
    assert render_all(now, places, before).states == render_all(anew, places).states
    assert offers(services(now, known), known, made) == offers(services(anew))
    named = names.render(now, "fallow.internal", zone).zone.services
    assert named == names.render(anew, "fallow.internal").zone.services


def named(*records: Any) -> dict[str, list[tuple[str, str]]]:
    zone = names.render(snapshot(*records), "fallow.internal").zone
    return {found.name: [(at.replica, at.address) for at in found.endpoints] for found in zone.services.values()}


def test_names_of_services_lead_to_endpoints_elsewhere_too() -> None:
    here = replica(WEB, 9, address="10.0.0.1", host_ports={"80/tcp": 20000})
    both = share(WEB, "c-one", remote_endpoint("web-0"), remote_endpoint("web-1", suspect=True), remote_endpoint("w.x"))
    assert named(WEB, ONE, member("a"), here, both) == {"web": [("web-0", "10.1.0.1"), ("web-9", "10.0.0.1")]}
    far = RemoteCluster(cluster_id="c-two", endpoints=(remote_endpoint("web-5"),))
    found = snapshot(host(), remote("web", far), remote("idle"))
    services_named = names.render(found, "fallow.internal").zone.services
    assert services_named["shop", "web"].ports == ("80/tcp",)
    assert named(host(), remote("web", far), remote("idle")) == {"web": [("web-5", "10.1.0.1")], "idle": []}
