"""Rendering: whatever is stored, the result is in order, without conflicts, and taken by every proxy."""

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from records import NOW, deployment, member, replica, snapshot

from fallow.decide.routes import conflicts, render
from fallow.drivers.proxy.checks import check_state
from fallow.model.deployments import ReplicaState, RouteSpec
from fallow.model.members import MemberState

ports = st.sampled_from([80, 81])
routes = st.one_of(
    st.builds(
        RouteSpec,
        host=st.one_of(st.sampled_from(["", "a.test", "A.test.", "b.test"]), st.text(max_size=8)),
        path=st.one_of(st.sampled_from(["/", "/x", "/x/", "", "//"]), st.text(max_size=8).map(lambda text: "/" + text)),
        port=ports,
    ),
    st.builds(RouteSpec, kind=st.just("tcp"), listen=st.sampled_from([None, 5432, 5433]), port=ports),
)


@st.composite
def records(draw: st.DrawFn) -> list[Any]:
    found: list[Any] = [member(state.value, state=state) for state in MemberState]
    for name in ("web", "api", "db"):
        plain = deployment(name, created_at=NOW + draw(st.integers(0, 1)))
        spec = msgspec.structs.replace(plain.spec, routes=tuple(draw(st.lists(routes, max_size=4))))
        found.append(msgspec.structs.replace(plain, spec=spec))
        found += [
            replica(
                plain,
                slot,
                draw(st.sampled_from(ReplicaState)),
                node_id=f"n-{draw(st.sampled_from(MemberState)).value}",
                address=draw(st.sampled_from(["10.0.0.1", "fd00::1", ""])),
                host_ports=draw(st.dictionaries(st.sampled_from(["80/tcp", "81/tcp"]), st.integers(1, 65535))),
                healthy_since=draw(st.sampled_from([0.0, NOW])),
            )
            for slot in range(draw(st.integers(0, 3)))
        ]
    return found


@settings(max_examples=100, deadline=None)
@given(records(), st.randoms(use_true_random=False))
def test_rendering_is_settled_by_content_alone_and_every_proxy_takes_it(
    found: list[Any], chance: random.Random
) -> None:
    state = render(snapshot(*found))
    check_state(state)
    chance.shuffle(found)
    assert render(snapshot(*found)) == state


@settings(max_examples=100, deadline=None)
@given(records())
def test_every_wished_route_is_served_or_has_a_reason(found: list[Any]) -> None:
    taken = snapshot(*found)
    reasons = conflicts(taken)
    state = render(taken)
    wished = {(owner.path, route) for owner in taken.deployments.values() for route in dict.fromkeys(owner.spec.routes)}
    assert set(reasons) <= wished
    # two wishes of one deployment that differ in writing only are one route
    assert len(state.http) + len(state.tcp) <= len(wished - set(reasons))
    served = {route.backend for route in [*state.http, *state.tcp]}
    assert (
        {f"{path}:{route.port}" for path, route in wished - set(reasons)} == served == {b.key for b in state.backends}
    )


@settings(max_examples=100, deadline=None)
@given(records())
def test_endpoints_are_healthy_and_of_suspect_nodes_only_together(found: list[Any]) -> None:
    taken = snapshot(*found)
    for backend in render(taken).backends:
        states = set()
        for endpoint in backend.endpoints:
            stored = taken.replicas[endpoint.id]
            assert stored.healthy
            assert stored.address == endpoint.address
            states.add(taken.members[stored.node_id].state)
        assert states in (set(), {MemberState.READY}, {MemberState.SUSPECT})
