"""Where pending replicas go: balance, packing, limits, ports, order, and what is said of those that find no node."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.placement import Placement, place
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, Replica, ReplicaState
from fallow.model.members import Facts, Lease, Member, MemberState, Scheduling
from fallow.model.meta import Record
from fallow.model.pools import PortRange

GIB = 2**30
HTTP = (PortSpec(container=8080),)


def node(name: str, cpus: float = 4.0, gib: float = 8.0, **changes: Any) -> Member:
    facts = Facts(cpus=cpus, memory_bytes=int(gib * GIB), architecture=changes.pop("architecture", "amd64"))
    ports = changes.pop("ports", PortRange())
    return member(name, facts=facts, lease=Lease(address=f"10.0.0.{ord(name[0])}", host_ports=ports), **changes)


def app(name: str, cpus: float = 0.0, gib: float = 0.0, ports: Any = (), **placement: Any) -> Deployment:
    if "selector" in placement:
        placement["selector"] = parse_selector(placement["selector"])
    container = ContainerSpec(
        image="shop:1", ports=ports, resources=Resources(cpus=cpus, memory_bytes=int(gib * GIB))
    )  # fmt: skip
    return deployment(name, spec=DeploymentSpec(container=container, placement=PlacementPolicy(**placement)))


def pending(of: Deployment, count: int = 1, **changes: Any) -> list[Replica]:
    return [
        replica(of, slot, ReplicaState.PENDING, **({"id": f"{of.name}-new-{slot}"} | changes)) for slot in range(count)
    ]


def on(of: Deployment, name: str, slot: int = 100, state: ReplicaState = ReplicaState.RUNNING, **more: Any) -> Replica:
    return replica(of, slot, state, **({"node_id": f"n-{name}", "id": f"{of.name}-old-{slot}"} | more))


def fleet(*records: Record | list[Replica]) -> Snapshot:
    flat = [item for found in records for item in (found if isinstance(found, list) else [found])]
    return snapshot(*flat, *(template(found) for found in flat if isinstance(found, Deployment)))


def where(placement: Placement) -> dict[str, int]:
    return dict(sorted(Counter(found.node_id.removeprefix("n-") for found in placement.bindings).items()))


def why(placement: Placement) -> list[str]:
    return [found.reason.text for found in placement.rejections]


def test_spread_takes_the_node_with_fewest_of_the_deployment_then_the_least_loaded() -> None:
    web, other = app("web", cpus=1), app("other", cpus=3)
    nodes = node("a"), node("b"), node("c")
    assert where(place(fleet(*nodes, web, pending(web, 7)), NOW)) == {"a": 3, "b": 2, "c": 2}
    assert where(place(fleet(node("a"), node("b", cpus=16), web, pending(web, 3)), NOW)) == {"a": 1, "b": 2}
    loaded = fleet(*nodes, web, other, on(other, "a"), pending(web, 2))
    assert where(place(loaded, NOW)) == {"b": 1, "c": 1}
    crowded = fleet(*nodes, web, other, on(other, "a"), on(web, "b"), on(web, "c", 101), pending(web))
    assert where(place(crowded, NOW)) == {"a": 1}


def test_single_replicas_of_many_deployments_spread_too() -> None:
    apps = [app(f"app-{number}", cpus=0.5) for number in range(6)]
    waiting = [pending(found) for found in apps]
    assert where(place(fleet(node("a"), node("b"), *apps, *waiting), NOW)) == {"a": 3, "b": 3}


def test_kinds_of_requests_see_what_each_other_has_placed() -> None:
    nodes = node("a", labels={"role": "web"}), node("b", labels={"role": "web"}), node("c")
    apps = [app(f"app-{n}", cpus=0.5, **({"selector": "role=web"} if n % 2 else {})) for n in range(6)]
    waiting = [pending(found, created_at=NOW + n) for n, found in enumerate(apps)]
    placement = place(fleet(*nodes, *apps, *waiting), NOW)
    assert [found.node_id for found in placement.bindings] == ["n-a", "n-b", "n-c", "n-a", "n-b", "n-a"]


def test_what_reserves_nothing_is_balanced_by_count() -> None:
    big, small, idle = node("a", cpus=64), node("b", cpus=1), app("idle")
    busy, half = app("busy", cpus=32), app("half", cpus=0.5)
    held = on(half, "b"), on(half, "a", 101), on(half, "a", 102)
    assert where(place(fleet(big, small, half, *held, idle, pending(idle, 3)), NOW)) == {"a": 1, "b": 2}
    assert where(place(fleet(big, small, idle, pending(idle, 10)), NOW)) == {"a": 5, "b": 5}
    apps = [app(f"app-{number}") for number in range(5)]
    waiting = [pending(found) for found in apps]
    assert where(place(fleet(big, small, busy, on(busy, "b"), *apps, *waiting), NOW)) == {"a": 3, "b": 2}


def test_pack_fills_the_most_loaded_node_that_has_room() -> None:
    nodes, other = (node("a"), node("b"), node("c")), app("other", cpus=2)
    web = app("web", cpus=1, strategy="pack")
    assert where(place(fleet(*nodes, other, on(other, "b"), web, pending(web, 3)), NOW)) == {"a": 1, "b": 2}
    assert where(place(fleet(*nodes, other, on(other, "b"), web, pending(web)), NOW)) == {"b": 1}
    full = on(other, "b"), on(other, "b", 101), on(other, "c", 102)
    assert where(place(fleet(*nodes, other, *full, web, pending(web)), NOW)) == {"c": 1}


def test_values_of_the_first_label_are_balanced_before_those_of_the_second() -> None:
    nodes = [
        node(name, labels={"region": region, "zone": zone})
        for name, region, zone in (("a", "r1", "z1"), ("b", "r1", "z1"), ("c", "r1", "z2"), ("d", "r2", "z3"))
    ]
    web = app("web", cpus=0.1, spread_by=("region", "zone"))
    assert where(place(fleet(*nodes, web, pending(web, 8)), NOW)) == {"a": 1, "b": 1, "c": 2, "d": 4}
    full = app("full", cpus=3.8)
    assert where(place(fleet(*nodes, web, full, on(full, "d"), pending(web, 8)), NOW)) == {
        "a": 2,
        "b": 1,
        "c": 3,
        "d": 2,
    }


def test_nodes_without_the_label_are_a_value_of_their_own() -> None:
    nodes = node("a", labels={"zone": "z1"}), node("b", labels={"zone": "z1"}), node("c")
    web = app("web", spread_by=("zone",))
    assert where(place(fleet(*nodes, web, pending(web, 6)), NOW)) == {"a": 2, "b": 1, "c": 3}


def test_replicas_where_nothing_may_go_count_for_spreading() -> None:
    nodes = (
        node("a", labels={"zone": "z1"}, scheduling=Scheduling.CORDONED),
        node("b", labels={"zone": "z1"}),
        node("c", labels={"zone": "z2"}),
    )
    web = app("web", spread_by=("zone",))
    assert where(place(fleet(*nodes, web, on(web, "a"), pending(web)), NOW)) == {"c": 1}


@pytest.mark.parametrize("state", [ReplicaState.LEAVING, ReplicaState.STOPPING])
def test_what_leaves_holds_its_room_and_ports_but_no_longer_counts(state: ReplicaState) -> None:
    web = app("web", cpus=1, ports=HTTP, max_per_node=1)
    leaving = on(web, "a", state=state, host_ports={"8080/tcp": 20000})
    placement = place(fleet(node("a", cpus=2), web, leaving, pending(web)), NOW)
    assert [found.host_ports for found in placement.bindings] == [{"8080/tcp": 20001}]
    tight = place(fleet(node("a", cpus=1.5), web, leaving, pending(web)), NOW)
    assert why(tight) == ["1 of 1 node: not enough CPU (need 1, best has 0.5 free)"]


def test_a_replica_that_is_being_replaced_does_not_stand_in_its_replacements_way() -> None:
    web = app("web", max_per_node=1)
    a, b = on(web, "a", 0), on(web, "b", 1)
    nodes = node("a"), node("b")
    assert where(place(fleet(*nodes, web, a, b, pending(web, replaces=b.id)), NOW)) == {"b": 1}
    assert where(place(fleet(*nodes, web, a, b, pending(web)), NOW)) == {}
    given_up = on(web, "a", 2, ReplicaState.STOPPED, replaces=b.id)
    assert where(place(fleet(*nodes, web, a, b, given_up, pending(web)), NOW)) == {}


def test_two_generations_of_a_deployment_share_the_limit_a_node() -> None:
    web = app("web", max_per_node=1)
    newer = msgspec.structs.replace(web, generation=2)
    before = fleet(node("a"), node("b"), web, pending(web), [replica(newer, 5, ReplicaState.PENDING)], template(newer))
    assert where(place(before, NOW)) == {"a": 1, "b": 1}


def test_a_deployment_that_is_everywhere_does_not_stop_another_of_the_same_kind() -> None:
    one, two = app("one", max_per_node=1), app("two", max_per_node=1)
    placement = place(fleet(node("a"), one, two, pending(one, 2), pending(two, 1, created_at=NOW + 1)), NOW)
    assert [found.replica_id for found in placement.bindings] == ["one-new-0", "two-new-0"]
    assert [(found.template_id, found.count) for found in placement.rejections] == [("d-one.1", 1)]
    assert why(placement) == ["1 of 1 node: already has 1 of this deployment (max_per_node)"]


def test_the_longest_waiting_goes_first() -> None:
    one, two = app("one", cpus=3), app("two", cpus=3)
    before = fleet(node("a"), one, two, pending(one, created_at=NOW + 1), pending(two, created_at=NOW))
    assert [found.replica_id for found in place(before, NOW).bindings] == ["two-new-0"]
    level = fleet(node("a"), two, one, pending(two), pending(one))
    assert [found.replica_id for found in place(level, NOW).bindings] == ["one-new-0"]


def test_tenths_of_a_processor_add_up_exactly() -> None:
    web = app("web", cpus=0.1)
    assert where(place(fleet(node("a", cpus=0.3), web, pending(web, 3)), NOW)) == {"a": 3}


def test_a_node_that_shrank_below_what_it_holds_gets_nothing_that_reserves() -> None:
    web, idle = app("web", cpus=1), app("idle")
    before = fleet(node("a", cpus=1), web, idle, on(web, "a"), on(web, "a", 101), pending(web), pending(idle))
    placement = place(before, NOW)
    assert [found.replica_id for found in placement.bindings] == ["idle-new-0"]
    assert why(placement) == ["1 of 1 node: not enough CPU (need 1, best has 0 free)"]


def test_huge_reservations_do_not_overflow() -> None:
    huge = app("huge", gib=2**30)
    held = [on(huge, "a", slot) for slot in range(20)]
    assert where(place(fleet(node("a"), huge, *held, pending(huge, 3)), NOW)) == {}


def test_ports_are_the_lowest_free_ones_of_the_nodes_own_range() -> None:
    web = app("web", ports=(PortSpec(container=80), PortSpec(container=443)))
    old = on(web, "a", host_ports={"80/tcp": 20000, "443/tcp": 20002})
    small = PortRange(first=20000, last=20006)
    placement = place(fleet(node("a", ports=small), web, old, pending(web, 3)), NOW)
    assert [found.host_ports for found in placement.bindings] == [
        {"80/tcp": 20001, "443/tcp": 20003},
        {"80/tcp": 20004, "443/tcp": 20005},
    ]
    assert {found.address for found in placement.bindings} == {"10.0.0.97"}
    assert why(placement) == ["1 of 1 node: no host port left in 20000-20006"]


def test_singles_too_stop_where_the_port_range_ends() -> None:
    apps = [app(f"app-{number}", ports=HTTP) for number in range(3)]
    small = PortRange(first=20000, last=20001)
    placement = place(fleet(node("a", ports=small), *apps, *(pending(found) for found in apps)), NOW)
    assert [found.host_ports["8080/tcp"] for found in placement.bindings] == [20000, 20001]


def test_a_fixed_host_port_has_one_owner_a_node_and_protocol() -> None:
    dns = app("dns", ports=(PortSpec(container=53, host=53), PortSpec(container=53, host=53, protocol="udp")))
    tcp, udp = app("tcp", ports=(PortSpec(container=9, host=53),)), app("udp", ports=dns.spec.container.ports[1:])
    placement = place(fleet(node("a"), dns, pending(dns, 2)), NOW)
    assert [found.host_ports for found in placement.bindings] == [{"53/tcp": 53, "53/udp": 53}]
    assert why(placement) == ["1 of 1 node: host port 53/tcp is taken"]
    assert where(place(fleet(node("a"), tcp, udp, pending(tcp), pending(udp)), NOW)) == {"a": 2}
    singles = fleet(node("a"), node("b"), dns, tcp, pending(dns), pending(tcp, created_at=NOW + 1))
    assert where(place(singles, NOW)) == {"a": 1, "b": 1}


def test_nodes_of_one_address_share_its_fixed_host_ports() -> None:
    dns = app("dns", ports=(PortSpec(container=53, host=53),))
    here = Lease(address="10.0.0.1", host_ports=PortRange(first=20000, last=20999))
    beside = Lease(address="10.0.0.1", host_ports=PortRange(first=21000, last=21999))
    nodes = [msgspec.structs.replace(node("a"), lease=here), msgspec.structs.replace(node("b"), lease=beside)]
    placement = place(fleet(*nodes, node("c"), dns, pending(dns, 3)), NOW)
    assert len(placement.bindings) == 2
    assert {found.address for found in placement.bindings} == {"10.0.0.1", "10.0.0.99"}
    again = place(fleet(*nodes, dns, on(dns, "a", host_ports={"53/tcp": 53}), pending(dns)), NOW)
    assert why(again) == ["2 of 2 nodes: host port 53/tcp is taken"]


def test_a_fixed_port_inside_the_range_is_not_given_away_again() -> None:
    web = app("web", ports=(PortSpec(container=80, host=20000), PortSpec(container=81)))
    udp = app("udp", ports=(PortSpec(container=80, host=20000, protocol="udp"), PortSpec(container=81)))
    one = PortRange(first=20000, last=20000)
    assert where(place(fleet(node("a", ports=one), web, pending(web)), NOW)) == {}
    two = PortRange(first=20000, last=20001)
    placement = place(fleet(node("a", ports=two), web, pending(web)), NOW)
    assert [found.host_ports for found in placement.bindings] == [{"80/tcp": 20000, "81/tcp": 20001}]
    four, http = PortRange(first=20000, last=20003), app("zoo", ports=HTTP)
    every = fleet(node("a", ports=four), web, udp, http, pending(web), pending(udp), pending(http))
    assert [found.host_ports for found in place(every, NOW).bindings] == [
        {"80/udp": 20000, "81/tcp": 20001},
        {"80/tcp": 20000, "81/tcp": 20002},
        {"8080/tcp": 20003},
    ]


def test_a_container_that_asks_for_one_host_port_twice_fits_nowhere() -> None:
    odd = app("odd", ports=(PortSpec(container=1, host=80), PortSpec(container=2, host=80)))
    assert why(place(fleet(node("a"), odd, pending(odd)), NOW)) == [
        "1 of 1 node: the container asks for host port 80/tcp more than once"
    ]


def test_the_refusal_sums_up_every_filter_the_nearest_miss_first() -> None:
    nodes = [
        *(node(f"a{n}", gib=1.4, labels={"role": "web"}) for n in range(3)),
        *(node(f"b{n}", labels={"role": "db"}) for n in range(5)),
        *(node(f"c{n}", labels={"role": "web"}, scheduling=Scheduling.DRAINING) for n in range(2)),
        node("d", labels={"role": "web"}, state=MemberState.SUSPECT, scheduling=Scheduling.CORDONED),
    ]
    web = app("web", cpus=1, gib=2, selector="role=web")
    (rejection,) = place(fleet(*nodes, web, pending(web, 4)), NOW).rejections
    assert (rejection.template_id, rejection.count, rejection.reason.code) == ("d-web.1", 4, "Unschedulable")
    assert rejection.reason.text == (
        "3 of 11 nodes: not enough memory (need 2 GiB, best has 1.4 GiB free); 5 of 11: role is not web; "
        "2 of 11: draining; 1 of 11: suspect (not heard from)"
    )


@pytest.mark.parametrize(
    ("placement", "text"),
    [
        ({"selector": "zone in (x,y)"}, "zone is none of x, y"),
        ({"selector": "zone!=z1"}, "zone is z1"),
        ({"selector": "zone notin (z1,z2)"}, "zone is one of z1, z2"),
        ({"selector": "gpu"}, "no label gpu"),
        ({"selector": "!zone"}, "has label zone"),
        ({"selector": "cores>8"}, "cores is not above 8"),
        ({"selector": "cores<=8"}, "cores is not at most 8"),
        ({"architectures": ("arm64",)}, "architecture is not arm64"),
        ({"architectures": ("arm64", "riscv64")}, "architecture is none of arm64, riscv64"),
    ],
)
def test_every_rule_has_its_words(placement: dict[str, Any], text: str) -> None:
    web = app("web", **placement)
    before = fleet(node("a", labels={"zone": "z1", "cores": "none"}), web, pending(web))
    assert why(place(before, NOW)) == [f"1 of 1 node: {text}"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"state": MemberState.DEAD}, "dead"),
        ({"state": MemberState.JOINING}, "joined, but never connected"),
        ({"scheduling": Scheduling.CORDONED}, "cordoned"),
    ],
)
def test_only_nodes_in_service_get_replicas(changes: dict[str, Any], text: str) -> None:
    web = app("web")
    assert why(place(fleet(node("a", **changes), web, pending(web)), NOW)) == [f"1 of 1 node: {text}"]
    nowhere = msgspec.structs.replace(node("a"), lease=Lease(address=""))
    assert why(place(fleet(nowhere, web, pending(web)), NOW)) == ["1 of 1 node: address not known"]
    broken = msgspec.structs.replace(node("a"), network_problem="wg is not installed")
    (text,) = why(place(fleet(broken, web, pending(web)), NOW))
    assert "its lease's address does not work" in text


def test_without_nodes_or_without_a_template_the_reason_says_so() -> None:
    web = app("web")
    (rejection,) = place(fleet(web, pending(web)), NOW).rejections
    assert (rejection.reason.code, rejection.reason.text) == ("NoNodes", "no node has joined yet")
    (rejection,) = place(snapshot(node("a"), web, *pending(web, 2)), NOW).rejections
    assert (rejection.reason.code, rejection.count) == ("NoTemplate", 2)


def test_only_pending_replicas_are_decided_about() -> None:
    web = app("web")
    others = [on(web, "a", slot, state) for slot, state in enumerate(ReplicaState) if state is not ReplicaState.PENDING]
    assert place(fleet(node("a"), web, *others), NOW) == Placement()


def test_many_kinds_of_requests_are_not_kept_for_ever() -> None:
    nodes = [node(f"a{n}", labels={"name": f"x{n}"}) for n in range(600)]
    apps = [app(f"app-{n}", selector=f"name=x{n}") for n in range(600)]
    placement = place(fleet(*nodes, *apps, *(pending(found) for found in apps)), NOW)
    assert {found.replica_id: found.node_id for found in placement.bindings} == {
        f"app-{n}-new-0": f"n-a{n}" for n in range(600)
    }
