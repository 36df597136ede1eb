"""Endpoints of many clusters: whatever is stored, who is dead or withdrawn gets no request, and somebody else does."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from records import NOW, cluster, deployment, following, member, replica, share

from fallow.decide.remotes import frames, offered, offers
from fallow.decide.routes import SUSPECT_WEIGHT, WEIGHT, Place, Rendered, render, render_all
from fallow.decide.services import Services, services
from fallow.decide.snapshot import Snapshot
from fallow.drivers.proxy.checks import check_state
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import ReplicaState, RouteSpec
from fallow.model.hosts import HOST_ID, Host
from fallow.model.members import MemberState
from fallow.model.meta import Record
from fallow.model.remotes import RemoteCluster, RemoteService
from fallow.model.shares import RemoteEndpoint

CLUSTERS = ("one", "two", "three")
REGIONS = ("", "west", "east")
PLACES = [Place(region, alone) for region in REGIONS for alone in (False, True)]
NASTY = ["a b", "x;shutdown", "x\ny", "", "é", "x.y", "-x", "x" * 65, "web-0 backup", "<<", "fe80::1%0", "0.0.0.0"]

# Mostly as they should be: otherwise nearly nothing would ever be served.
GOOD = [f"web-{slot}" for slot in range(4)]
ids = st.sampled_from([*GOOD, *GOOD, *GOOD, *NASTY])
addresses = st.sampled_from([*["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3"] * 6, "127.0.0.1", *NASTY])
ports = st.sampled_from([{"80/tcp": 20000, "81/tcp": 20001}] * 6 + [{"80/tcp": 1}, {"80": 5, "80/tcp;x": 6}, {}])
endpoints = st.builds(
    RemoteEndpoint, id=ids, address=addresses, ports=ports, suspect=st.sampled_from([False, False, False, True])
)
groups = st.lists(endpoints, max_size=3).map(tuple)
states = st.sampled_from([*[MemberState.READY] * 4, *MemberState])


def routed(name: str, **changes: Any) -> Any:
    plain = deployment(name, **changes)
    routes = (RouteSpec(host=f"{name}.test", port=80), RouteSpec(kind="tcp", listen=5432, port=81))
    return msgspec.structs.replace(plain, spec=msgspec.structs.replace(plain.spec, routes=routes))


WEB, API = routed("web"), routed("api", created_at=NOW + 1)
local = st.builds(
    lambda slot, state, host_ports, node: replica(
        WEB, slot, state, address="10.9.0.1", host_ports=host_ports, node_id=f"n-{node.value}"
    ),
    st.integers(0, 2), st.sampled_from([*[ReplicaState.RUNNING] * 5, *ReplicaState]), ports, states,
)  # fmt: skip
members = st.one_of(
    st.builds(lambda name, state: member(name.value, state=state), states, states),
    st.builds(
        lambda name, region, state: cluster(name, region, state=state),
        st.sampled_from(CLUSTERS), st.sampled_from(REGIONS), states,
    ),
    st.builds(lambda region: cluster("here", region, id=HERE_ID), st.sampled_from(REGIONS)),
)  # fmt: skip
shares = st.builds(
    lambda of, name, told, found, leaving: share(of, f"c-{name}", *found, replicas=told, leaving=tuple(leaving)),
    st.sampled_from([WEB, API]), st.sampled_from(CLUSTERS), st.integers(0, 9), groups, st.lists(ids, max_size=2),
)  # fmt: skip
remotes = st.builds(
    lambda name, found: RemoteService(
        id=f"d-{name}", created_at=NOW, updated_at=NOW, revision=1, project="shop", name=name, deployed_at=NOW - 1,
        routes=WEB.spec.routes, clusters=tuple({cluster.cluster_id: cluster for cluster in found}.values()),
    ),
    st.sampled_from(["web", "far"]),
    st.lists(
        st.builds(
            RemoteCluster, cluster_id=st.sampled_from(["c-nine", "here", "a.b", "x y"]),
            region=st.sampled_from(REGIONS), suspect=st.booleans(), replicas=st.integers(0, 9), endpoints=groups,
        ),
        max_size=3,
    ),
)  # fmt: skip
hosts = st.builds(
    lambda region, refused: Host(
        id=HOST_ID, created_at=NOW, updated_at=NOW, revision=1, url="", member_id="m", name="me",
        labels={"region": region} if region else {}, refused=refused,
    ),
    st.sampled_from(REGIONS), st.sampled_from(["", "removed"]),
)  # fmt: skip
records = st.lists(st.one_of(local, members, shares, shares, remotes, hosts), max_size=14)
ALWAYS: list[Record] = [
    WEB,
    API,
    *(member(state.value, state=state) for state in MemberState),
    *(cluster(name, region) for name, region in zip(CLUSTERS, ("west", "east", "east"), strict=True)),
]


def stored(found: list[Record]) -> Snapshot:
    return following(Snapshot(), [*ALWAYS, *found])


@settings(max_examples=150, deadline=None)
@given(records)
def test_who_is_dead_or_leaving_gets_no_request_and_somebody_gets_them_whenever_there_is_one(
    found: list[Record],
) -> None:
    taken = stored(found)
    for place in PLACES:
        state = render(taken, place)
        check_state(state)
        for backend in state.backends:
            for endpoint in backend.endpoints:
                cluster_id, _, id_ = endpoint.id.rpartition(".")
                if not cluster_id:
                    own = taken.replicas[id_]
                    assert (own.healthy, own.address) == (True, endpoint.address)
                    assert taken.members[own.node_id].state in (MemberState.READY, MemberState.SUSPECT)
                elif (other := taken.clusters.get(cluster_id)) is not None and cluster_id != HERE_ID:
                    assert other.state in (MemberState.READY, MemberState.SUSPECT, MemberState.DEAD)
                    assert other.state is MemberState.READY or endpoint.weight == SUSPECT_WEIGHT
                    held = taken.shares[f"d-{backend.key[5:8]}.{cluster_id}"].reported
                    assert held is not None
                    assert id_ not in held.leaving
                    assert id_ in {one.id for one in held.endpoints}
                else:
                    assert not taken.hosts[HOST_ID].refused
        for id_, service in services(taken).by_id.items():
            for wanted in state.backends:
                if wanted.key.rpartition(":")[0] in (service.path, f"{service.path}@{id_}") and service.own:
                    key = f"{wanted.key.rpartition(':')[2]}/tcp"
                    able = [
                        one
                        for group in service.groups
                        for one in group.ready + group.suspect
                        if key in one.ports and (place.alone or not group.cluster_id or one.address != "127.0.0.1")
                    ]
                    assert bool(able) == bool(wanted.endpoints)


@settings(max_examples=150, deadline=None)
@given(records)
def test_the_own_region_comes_first_others_stand_by_and_suspects_are_last(found: list[Record]) -> None:
    taken = stored(found)
    known = services(taken)
    for place in PLACES:
        for backend in render(taken, place).backends:
            service = next(one for one in known.by_id.values() if backend.key.startswith(one.path))
            if not service.own or "@" in backend.key:
                continue
            key = f"{backend.key.rpartition(':')[2]}/tcp"
            tiers: dict[str, str] = {}
            for group in service.groups:
                near = place.region in ("", group.region)
                for which, tier in ((group.ready, "near" if near else "far"), (group.suspect, "suspect")):
                    for one in which:
                        if key in one.ports:
                            tiers[f"{group.cluster_id}.{one.id}" if group.cluster_id else one.id] = tier
            there = {tiers[endpoint.id] for endpoint in backend.endpoints}
            assert there <= {"near", "far"} or there == {"suspect"}
            ready = [endpoint for endpoint in backend.endpoints if tiers[endpoint.id] == "near"]
            others = [endpoint for endpoint in backend.endpoints if tiers[endpoint.id] == "far"]
            assert all((one.weight, one.backup) == (WEIGHT, False) for one in ready)
            told = sum(group.told for group in service.groups if place.region in ("", group.region))
            if ready and 2 * len(ready) >= told:
                assert all(one.backup for one in others)
            else:
                assert not any(one.backup for one in others)
            if ready and others and 2 * len(ready) < told:
                together = sum(one.weight for one in others)
                assert together <= max(WEIGHT * (told - len(ready)), len(others))
            if there == {"suspect"}:
                assert all((one.weight, one.backup) == (SUSPECT_WEIGHT, False) for one in backend.endpoints)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(records, st.lists(st.integers(0, 30), max_size=3)), min_size=1, max_size=6))
def test_what_is_made_of_what_was_before_is_what_is_made_anew(
    rounds: list[tuple[list[Record], list[int]]],
) -> None:
    now = stored([])
    rendered: Rendered | None = None
    known: Services | None = None
    told: Any = {}
    for puts, gone in rounds:
        there = [*now.shares.values(), *now.remote_services.values(), *now.replicas.values(), *now.deployments.values()]
        went = [there[number] for number in gone if number < len(there)]
        now = following(now, [record for record in puts if record not in went], went)
        rendered = render_all(now, PLACES, rendered)
        for place in PLACES:
            assert rendered.states[place] == render(now, place)
        found = services(now, known)
        assert found.by_id == services(now).by_id
        told = offers(found, known, told)
        assert told == offers(services(now))
        known = found


@settings(max_examples=100, deadline=None)
@given(records)
def test_a_member_is_told_of_all_clusters_but_its_own_and_only_what_gateways_may_be_told(found: list[Record]) -> None:
    known = services(stored(found))
    made = offers(known)
    for id_ in ("c-one", "c-two", HERE_ID):
        for offer in made.values():
            service = offered(offer, id_, alone=True)
            elsewhere = offered(offer, id_)
            abroad = elsewhere.clusters if elsewhere is not None else ()
            assert "127.0.0.1" not in {at.address for one in abroad for at in one.endpoints}
            if service is None:
                assert not offer.routes
                continue
            assert id_ not in {one.cluster_id for one in service.clusters}
            wanted = {
                (one.cluster_id, at.id) for one in offer.clusters for at in one.endpoints if one.cluster_id != id_
            }
            assert {(one.cluster_id, at.id) for one in service.clusters for at in one.endpoints} == wanted
            text = msgspec.json.encode(service).decode()
            assert "shop:1" not in text, "what containers are made of is nobody else's business"
    services_told = [one for offer in made.values() if (one := offered(offer, "c-one")) is not None]
    assert [one for part in frames(services_told) for one in part] == services_told
