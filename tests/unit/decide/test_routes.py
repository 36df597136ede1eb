"""What gateways are told, who wins a conflict, and when a leaving replica may stop."""

from typing import Any

import msgspec
from records import NOW, deployment, member, puts, replica, snapshot

from fallow.decide.routes import DRAIN_SECONDS, SUSPECT_WEIGHT, WEIGHT, conflicts, render, withdrawn
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica, ReplicaState, RouteSpec
from fallow.model.lifecycle import may_replica_move
from fallow.model.members import Member, MemberState, Role
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyReport, TcpRoute

WEB = RouteSpec(host="shop.test", path="/", port=80)
WIRE = RouteSpec(kind="tcp", listen=5432, port=80)


def _deployment(name: str, *routes: RouteSpec, **changes: Any) -> Deployment:
    plain = deployment(name, **changes)
    return msgspec.structs.replace(plain, spec=msgspec.structs.replace(plain.spec, routes=routes))


def _served(of: Deployment, slot: int = 0, **changes: Any) -> Replica:
    return replica(of, slot, **({"address": f"10.0.0.{slot + 1}", "host_ports": {"80/tcp": 20000 + slot}} | changes))


def _ids(found: Snapshot) -> list[str]:
    return [endpoint.id for backend in render(found).backends for endpoint in backend.endpoints]


def test_a_route_leads_to_the_healthy_replicas_of_its_deployment() -> None:
    web = _deployment("web", WEB, WIRE)
    state = render(snapshot(member("a"), web, _served(web, 1), _served(web, 0), revision=42))
    endpoints = (
        Endpoint(id="web-0", address="10.0.0.1", port=20000, weight=WEIGHT),
        Endpoint(id="web-1", address="10.0.0.2", port=20001, weight=WEIGHT),
    )
    assert state.revision == 42
    assert state.http == (HttpRoute(host="shop.test", path="/", backend="shop/web:80"),)
    assert state.tcp == (TcpRoute(listen=5432, backend="shop/web:80"),)
    assert state.backends == (
        Backend(key="shop/web:80", mode="http", endpoints=endpoints),
        Backend(key="shop/web:80", mode="tcp", endpoints=endpoints),
    )


def test_only_running_healthy_placed_replicas_on_ready_nodes_serve() -> None:
    web = _deployment("web", WEB)
    nodes = [member("a"), member("dead", state=MemberState.DEAD), member("new", state=MemberState.JOINING)]
    replicas = [
        _served(web, 0),
        _served(web, 1, healthy_since=0.0),
        _served(web, 2, state=ReplicaState.LEAVING, healthy_since=NOW),
        _served(web, 3, address=""),
        _served(web, 4, host_ports={"81/tcp": 1}),
        _served(web, 5, host_ports={"80/udp": 1}),
        _served(web, 6, node_id="n-dead"),
        _served(web, 7, node_id="n-new"),
        _served(web, 8, node_id="n-gone"),
        _served(web, 9, state=ReplicaState.PLACED, healthy_since=0.0),
    ]
    assert _ids(snapshot(*nodes, web, *replicas)) == ["web-0"]


def test_suspect_nodes_serve_only_where_nothing_else_does() -> None:
    web = _deployment("web", WEB)
    suspect, ready = _served(web, 0, node_id="n-s"), _served(web, 1)
    nodes = [member("a"), member("s", state=MemberState.SUSPECT)]
    assert _ids(snapshot(*nodes, web, suspect, ready)) == ["web-1"]
    alone = render(snapshot(*nodes, web, suspect)).backends[0].endpoints
    assert [(endpoint.id, endpoint.weight) for endpoint in alone] == [("web-0", SUSPECT_WEIGHT)]


def test_a_backend_without_endpoints_is_still_there_so_that_the_answer_is_503_and_not_404() -> None:
    state = render(snapshot(_deployment("web", WEB)))
    assert state.backends == (Backend(key="shop/web:80"),)
    assert len(state.http) == 1


def test_the_oldest_deployment_keeps_an_address_and_the_other_is_told() -> None:
    taken = RouteSpec(host="SHOP.test.", path="/", port=80)
    old = _deployment("old", WEB, WIRE, created_at=NOW)
    new = _deployment("new", taken, RouteSpec(host="shop.test", path="/new", port=80), WIRE, created_at=NOW + 1)
    found = snapshot(new, old)
    state = render(found)
    assert [(route.path, route.backend) for route in state.http] == [("/", "shop/old:80"), ("/new", "shop/new:80")]
    assert [route.backend for route in state.tcp] == ["shop/old:80"]
    assert conflicts(found) == {
        ("shop/new", taken): "http://shop.test/ belongs to shop/old, which is older",
        ("shop/new", WIRE): "tcp port 5432 belongs to shop/old, which is older",
    }


def test_deployments_of_one_moment_are_ordered_by_id() -> None:
    found = snapshot(_deployment("b", WEB), _deployment("a", WEB))
    assert [route.backend for route in render(found).http] == ["shop/a:80"]


def test_one_deployment_cannot_lead_an_address_to_two_ports() -> None:
    second = RouteSpec(host="shop.test", path="", port=81)
    found = snapshot(_deployment("web", WEB, WEB, second))
    assert [route.backend for route in render(found).http] == ["shop/web:80"]
    assert conflicts(found) == {("shop/web", second): "http://shop.test/ leads to port 80 already"}


def test_host_and_path_are_written_one_way() -> None:
    route = RouteSpec(host="Shop.Test.", path="/cart/", port=80)
    assert render(snapshot(_deployment("web", route))).http == (
        HttpRoute(host="shop.test", path="/cart", backend="shop/web:80"),
    )


def test_a_route_no_gateway_could_serve_is_left_out_with_a_reason() -> None:
    bad_host, bad_path = RouteSpec(host="a b", port=80), RouteSpec(host="shop.test", path="/a;b", port=80)
    found = snapshot(_deployment("web", bad_host, bad_path, WIRE))
    assert render(found).http == ()
    assert len(render(found).tcp) == 1
    reasons = conflicts(found)
    assert reasons[("shop/web", bad_host)] == "its host is not a DNS name"
    assert "characters" in reasons[("shop/web", bad_path)]


def _gateway(name: str, state: MemberState = MemberState.READY) -> Member:
    return member(name, role=Role.GATEWAY, state=state)


def _leaving(*others: Any, routes: tuple[RouteSpec, ...] = (WEB,), **changes: Any) -> Snapshot:
    web = _deployment("web", *routes)
    return snapshot(web, _served(web, state=ReplicaState.LEAVING, revision=7, state_since=NOW, **changes), *others)


def test_a_replica_stops_when_every_ready_gateway_has_withdrawn_it() -> None:
    found = _leaving(_gateway("g"), _gateway("h"), _gateway("s", MemberState.SUSPECT), _gateway("d", MemberState.DEAD))
    done = ProxyReport(applied_revision=7)
    cases: list[tuple[dict[str, ProxyReport], bool]] = [
        ({"n-g": done, "n-h": done}, True),
        ({"n-g": done}, False),
        ({"n-g": done, "n-s": done}, False),
        ({"n-g": done, "n-h": ProxyReport(applied_revision=6)}, False),
        ({"n-g": done, "n-h": ProxyReport(applied_revision=8, draining=("web-0",))}, False),
        ({"n-g": done, "n-h": ProxyReport(applied_revision=8, draining=("web-1",))}, True),
    ]
    for reports, stops in cases:
        plan = withdrawn(found, reports, NOW + 1, {"web-0": 1.0}, 30.0)
        assert bool(puts(plan, Replica)) is stops, reports
        assert plan.wake_after_seconds == (None if stops else 29.0)


def test_the_step_moves_the_replica_as_its_life_allows() -> None:
    (stopping,) = puts(withdrawn(_leaving(), {}, NOW + 5, {}, 30.0), Replica)
    assert (stopping.state, stopping.state_since, stopping.updated_at) == (ReplicaState.STOPPING, NOW + 5, NOW + 5)
    assert stopping.revision == 7
    assert may_replica_move(ReplicaState.LEAVING, stopping.state, "routes")


def test_nobody_waits_longer_than_a_drain_may_take() -> None:
    found = _leaving(_gateway("g"))
    assert puts(withdrawn(found, {}, NOW, {"web-0": DRAIN_SECONDS - 0.1}), Replica) == []
    assert len(puts(withdrawn(found, {}, NOW, {"web-0": DRAIN_SECONDS}), Replica)) == 1


def test_a_clock_put_forward_does_not_shorten_a_drain() -> None:
    assert puts(withdrawn(_leaving(_gateway("g")), {}, NOW + 7200.0, {}), Replica) == []


def test_nobody_waits_where_nothing_could_be_routed() -> None:
    assert len(puts(withdrawn(_leaving(_gateway("g", MemberState.SUSPECT)), {}, NOW, {}), Replica)) == 1
    assert len(puts(withdrawn(_leaving(_gateway("g"), host_ports={}), {}, NOW, {}), Replica)) == 1


def test_a_route_taken_away_meanwhile_does_not_shorten_the_drain() -> None:
    found = _leaving(_gateway("g"), routes=())
    assert puts(withdrawn(found, {"n-g": ProxyReport(applied_revision=6)}, NOW, {}), Replica) == []
    assert puts(withdrawn(found, {"n-g": ProxyReport(applied_revision=8, draining=("web-0",))}, NOW, {}), Replica) == []
    assert len(puts(withdrawn(found, {"n-g": ProxyReport(applied_revision=8)}, NOW, {}), Replica)) == 1


def test_only_leaving_replicas_are_moved_and_the_next_deadline_wakes() -> None:
    web = _deployment("web", WEB)
    replicas = [
        _served(web, 0),
        _served(web, 1, state=ReplicaState.LEAVING, state_since=NOW - 10),
        _served(web, 2, state=ReplicaState.LEAVING, state_since=NOW - 20),
        _served(web, 3, state=ReplicaState.STOPPING, state_since=NOW - 99),
    ]
    plan = withdrawn(snapshot(web, _gateway("g"), *replicas), {}, NOW, {"web-1": 10.0, "web-2": 20.0}, 30.0)
    assert list(plan.steps) == []
    assert plan.wake_after_seconds == 10.0
