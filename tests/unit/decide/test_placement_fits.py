"""The re-check of one binding on the newest snapshot."""

from typing import Any

import pytest
from records import deployment, member, replica, snapshot, template

from fallow.decide.placement import Binding, fits
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, ReplicaState
from fallow.model.members import Facts, Lease, MemberState, Role, Scheduling

WEB = deployment(
    spec=DeploymentSpec(
        container=ContainerSpec(
            image="shop:1",
            ports=(PortSpec(container=80), PortSpec(container=53, host=53)),
            resources=Resources(cpus=1.0, memory_bytes=2**30),
        ),
        placement=PlacementPolicy(selector=parse_selector("role=web"), max_per_node=1, architectures=("amd64",)),
    )
)
PENDING = replica(WEB, 0, ReplicaState.PENDING)
PORTS = {"80/tcp": 20000, "53/tcp": 53}


def binding(**changes: Any) -> Binding:
    values: dict[str, Any] = {"replica_id": PENDING.id, "node_id": "n-a", "address": "10.0.0.1", "host_ports": PORTS}
    return Binding(**(values | changes))


def fleet(*others: Any, pending: Any = PENDING, **changes: Any) -> Snapshot:
    node = member("a", **({"labels": {"role": "web"}} | changes))
    return snapshot(node, WEB, template(WEB), pending, *others)


def test_a_binding_that_holds() -> None:
    assert fits(fleet(), binding()) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": MemberState.SUSPECT}, "NodeNotReady"),
        ({"scheduling": Scheduling.DRAINING}, "NodeNotSchedulable"),
        ({"scheduling": Scheduling.CORDONED}, "NodeNotSchedulable"),
        ({"lease": Lease(address="")}, "NodeNotReachable"),
        ({"network_problem": "wg is not installed"}, "NodeNotReachable"),
        ({"lease": Lease(address="10.0.0.2")}, "AddressChanged"),
        ({"labels": {"role": "db"}}, "SelectorMismatch"),
        ({"facts": Facts(architecture="arm64", cpus=4.0, memory_bytes=2**33)}, "ArchitectureMismatch"),
        ({"facts": Facts(architecture="amd64", cpus=0.9, memory_bytes=2**33)}, "NotEnoughCpu"),
        ({"facts": Facts(architecture="amd64", cpus=4.0, memory_bytes=2**29)}, "NotEnoughMemory"),
        ({"role": Role.GATEWAY}, "NodeGone"),
        ({"id": "n-b"}, "NodeGone"),
    ],
)
def test_a_node_that_has_changed(changes: dict[str, Any], code: str) -> None:
    reason = fits(fleet(**changes), binding())
    assert reason is not None
    assert reason.code == code


@pytest.mark.parametrize(
    ("host_ports", "code"),
    [
        ({"80/tcp": 20000}, "PortsChanged"),
        ({"80/tcp": 20000, "53/tcp": 54}, "PortsChanged"),
        ({"80/tcp": 30000, "53/tcp": 53}, "PortOutOfRange"),
        ({"80/tcp": 20001, "53/tcp": 53}, "PortTaken"),
        ({"80/tcp": 20002, "53/tcp": 53}, "PortTaken"),
    ],
)
def test_ports_that_are_not_free(host_ports: dict[str, int], code: str) -> None:
    other = deployment("other")
    there = replica(other, host_ports={"1/tcp": 20001, "2/udp": 20002, "53/udp": 53})
    before = fleet(other, template(other), there)
    reason = fits(before, binding(host_ports=host_ports))
    assert reason is not None
    assert reason.code == code
    assert fits(before, binding()) is None  # 53/udp has another owner than 53/tcp may have


def test_a_fixed_port_is_taken_by_whatever_still_occupies_the_node() -> None:
    other = deployment("other")
    leaving = replica(other, 0, ReplicaState.STOPPING, host_ports={"9/tcp": 53})
    reason = fits(fleet(other, template(other), leaving), binding())
    assert reason is not None
    assert reason.text == "a: host port 53/tcp is taken"
    gone = replica(other, 0, ReplicaState.STOPPED, host_ports={"9/tcp": 53})
    assert fits(fleet(other, template(other), gone), binding()) is None


def test_one_a_node_but_for_what_leaves_or_is_replaced() -> None:
    there = replica(WEB, 1)
    reason = fits(fleet(there), binding())
    assert reason is not None
    assert reason.code == "TooManyPerNode"
    assert fits(fleet(replica(WEB, 1, ReplicaState.LEAVING)), binding()) is None
    replacing = replica(WEB, 0, ReplicaState.PENDING, replaces=there.id)
    assert fits(fleet(there, pending=replacing), binding()) is None


def test_a_replica_that_is_gone_or_placed_already() -> None:
    for state in (ReplicaState.STOPPED, ReplicaState.PLACED):
        reason = fits(fleet(pending=replica(WEB, 0, state)), binding())
        assert reason is not None
        assert reason.code == "ReplicaNotPending"
    reason = fits(fleet(), binding(replica_id="unknown"))
    assert reason is not None
    assert reason.code == "ReplicaGone"
    reason = fits(snapshot(member("a"), WEB, PENDING), binding())
    assert reason is not None
    assert reason.code == "NoTemplate"


def test_a_fixed_port_is_taken_by_whatever_occupies_another_node_of_the_address() -> None:
    beside = member("b")
    other = replica(WEB, 1, node_id="n-b", host_ports={"53/tcp": 53})
    found = fits(fleet(beside, other), binding())
    assert found is not None
    assert found.code == "PortTaken"
    elsewhere = member("b", lease=Lease(address="10.0.0.2"))
    assert fits(fleet(elsewhere, other), binding()) is None
