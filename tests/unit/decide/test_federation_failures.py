"""Errors that gateways of member clusters have answered, as the host counts them."""

import msgspec
from records import NOW, cluster, deployment, member, snapshot

from fallow.decide.federation.failures import errors_elsewhere, errors_for_host
from fallow.decide.routes import conflicts, render
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import route_views
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import DeploymentSpec, Origin, RouteSpec
from fallow.model.hosts import HOST_ID, Host
from fallow.model.members import Role
from fallow.model.remotes import RemoteService
from fallow.model.routes import BackendStats, ProxyReport
from fallow.model.wire import MOST_ROUTES, Heartbeat, Usage, decode_from_member, encode_frame

GATEWAYS = (member("g1", role=Role.GATEWAY), member("g2", role=Role.GATEWAY), member("a"))
HOST = Host(id=HOST_ID, created_at=NOW, updated_at=NOW, url="https://h", member_id="m", name="west")
ORIGIN = Origin(revision=7, generation=1, taken_as=1)


def remote(name: str) -> RemoteService:
    return RemoteService(id=f"d-{name}", created_at=NOW, updated_at=NOW, project="shop", name=name, deployed_at=NOW)


def reported(**errors: int) -> ProxyReport:
    stats = (BackendStats(key=f"shop/{name}:80", requests=9, errors_5xx=count) for name, count in errors.items())
    return ProxyReport(applied_revision=1, backends=tuple(stats))


def here(*more: RemoteService) -> Snapshot:
    ordered, own = deployment("web", origin=ORIGIN), deployment("mine")
    return snapshot(ordered, own, HOST, remote("there"), *more, *GATEWAYS)


def test_what_the_host_deploys_is_counted_over_all_gateways_and_nothing_else() -> None:
    reports = {
        "n-g1": reported(web=2, mine=5, there=1, well=0),
        "n-g2": reported(web=3, unknown=4),
        "n-gone": reported(web=100),
        "n-a": reported(web=100),
    }
    assert errors_for_host(here(), reports) == {"shop/web:80": 5, "shop/there:80": 1}
    assert errors_for_host(here(), {"n-g1": reported(web=0)}) == {}
    assert errors_for_host(here(), {"n-gone": reported(web=1)}) is msgspec.UNSET


def test_of_very_many_those_with_the_most_errors_are_told_and_they_fit_into_a_heartbeat() -> None:
    names = [f"s{number}" for number in range(MOST_ROUTES + 10)]
    counts = {name: number or 2**60 for number, name in enumerate(names)}
    found = errors_for_host(here(*map(remote, names)), {"n-g1": reported(**counts)})
    assert isinstance(found, dict)
    assert len(found) == MOST_ROUTES
    assert f"shop/{names[0]}:80" in found
    assert not {f"shop/{name}:80" for name in names[1:11]} & found.keys()
    beat = Heartbeat(usage=Usage(errors_5xx=found))
    assert decode_from_member(encode_frame(beat)[4:]) == beat


def test_a_release_that_does_not_count_says_the_same_bytes_as_ever() -> None:
    assert msgspec.msgpack.decode(encode_frame(Heartbeat())[4:]) == {
        "t": "beat",
        "usage": {"cpus": 0.0, "memory_bytes": 0, "disk_free_bytes": 0, "containers": 0},
    }


def test_the_host_adds_what_its_clusters_count() -> None:
    spec = DeploymentSpec(container=ContainerSpec(image="shop:1"), routes=(RouteSpec(host="shop.test", port=80),))
    state = snapshot(deployment("web", spec=spec), cluster("east"), cluster("west"), cluster("old"), *GATEWAYS)
    usages = {
        "c-east": Usage(errors_5xx={"shop/web:80": 3, "shop/web:81": 9}),
        "c-west": Usage(errors_5xx={}),
        "c-old": Usage(),
        "n-a": Usage(errors_5xx={"shop/web:80": 100}),
    }
    elsewhere = errors_elsewhere(state, usages)
    (view,) = route_views(state, {"n-g1": reported(web=2)}, render(state), conflicts(state), elsewhere)
    assert (view.errors_5xx, view.requests, view.gateways, view.clusters) == (5, 9, ("g1",), ("east", "west"))
    (view,) = route_views(state, {}, render(state), conflicts(state), {})
    assert (view.errors_5xx, view.gateways, view.clusters) == (0, (), ())
