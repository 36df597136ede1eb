"""How much of the requests a throttled node gets: coarse steps, down at once, up slowly."""

from typing import Any

import pytest
from lent_fleet import heard, node, server, use, vm
from records import NOW, deployment, replica, snapshot

from fallow.decide.harvest.throttled import RISE_SECONDS, Weight, Weights, weights
from fallow.decide.routes import Place, Rendered, render_all
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import DeploymentSpec, RouteSpec

FLEET = snapshot(server(), vm("a"), vm("b"), node("a"), node("b"))


def after(share: float, before: Weights | None = None, now: float = NOW, **changes: Any) -> Weights:
    said = heard(vms=(use("a", throttled=share), use("b")), **changes)
    return weights(FLEET, said, now, before or {})


def at(of_full: int, since: float = NOW) -> Weights:
    return {"n-a": Weight(of_full, since)}


@pytest.mark.parametrize(("share", "weight"), [(0.1, 100), (0.2, 50), (0.4, 25), (0.7, 10), (1.0, 10)])
def test_steps(share: float, weight: int) -> None:
    assert after(share) == ({} if weight == 100 else at(weight))


def test_it_sinks_at_once_and_rises_a_step_at_a_time() -> None:
    assert after(0.7, at(50, NOW - 1)) == at(10)
    soon, late = NOW + RISE_SECONDS - 1, NOW + RISE_SECONDS
    assert after(0.0, at(10), soon) == at(10)
    assert after(0.0, at(10), late) == at(25, late)
    assert after(0.0, at(50), late) == {}
    assert after(0.0, at(50, NOW + 9999), NOW) == {}, "the clock was set back"


@pytest.mark.parametrize("share", [0.06, 0.14, 0.15])
def test_between_two_bounds_nothing_changes(share: float) -> None:
    assert after(share, at(50), NOW + 60) == at(50)
    assert after(share) == {}


def test_a_server_that_is_throttled_as_a_whole_counts_for_all_its_machines() -> None:
    assert after(0.0, throttled=0.5) == {"n-a": Weight(25, NOW), "n-b": Weight(25, NOW)}


def test_what_is_not_heard_stays_and_what_is_gone_goes() -> None:
    kept = at(25)
    assert after(0.0, kept, NOW + 60, age_seconds=9.0) is kept
    assert weights(FLEET, {}, NOW + 60, kept) is kept
    assert weights(snapshot(server()), {}, NOW, kept) == {}


WEB = deployment(
    replicas=2,
    spec=DeploymentSpec(
        replicas=2, container=ContainerSpec(image="shop:1"), routes=(RouteSpec(host="shop.test", port=80),)
    ),
)
HERE = Place("", alone=False)


def served() -> Snapshot:
    both = [
        replica(WEB, slot, node_id=node_id, address=f"10.0.0.{slot + 1}", host_ports={"80/tcp": 20000})
        for slot, node_id in enumerate(("n-a", "n-b"))
    ]
    return snapshot(server(), vm("a"), vm("b"), node("a"), node("b"), WEB, *both)


def weighed(rendered: Rendered) -> dict[str, int]:
    (backend,) = rendered.states[HERE].backends
    return {found.id: found.weight for found in backend.endpoints}


def test_gateways_ask_a_throttled_node_less() -> None:
    now = served()
    first = render_all(now, [HERE])
    assert weighed(first) == {"web-0": 100, "web-1": 100}
    second = render_all(now, [HERE], first, at(25))
    assert weighed(second) == {"web-0": 25, "web-1": 100}
    assert render_all(now, [HERE], second, at(25)) is second
    assert weighed(render_all(now, [HERE], second, {})) == {"web-0": 100, "web-1": 100}
    assert not second.states[HERE].same_content(first.states[HERE])
