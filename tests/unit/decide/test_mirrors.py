"""Mirrors that we run: where one is asked, and where one may run."""

import msgspec
import pytest
from records import NOW, deployment, member, replica, snapshot

from fallow.decide.mirrors import mirror_of, mirror_placement, mirror_spec, mirror_view
from fallow.decide.selectors import format_selector, parse_selector
from fallow.model.deployments import PlacementPolicy, ReplicaState
from fallow.model.members import MemberState
from fallow.model.registries import KnownRegistry

CACHE = deployment("cache", project="mirrors")
SERVING = replica(CACHE, address="10.0.0.7", host_ports={"5000/tcp": 20005})


def registry(**changes: str) -> KnownRegistry:
    return KnownRegistry(id="hub.example", created_at=NOW, updated_at=NOW, **({"mirrored_by": "cache"} | changes))


def test_a_mirror_is_asked_where_its_replica_answers() -> None:
    found = snapshot(member("a"), CACHE, SERVING)
    assert mirror_of(found, registry()) == "10.0.0.7:20005"
    shown = mirror_view(found, registry())
    assert (shown.node, shown.address, shown.state) == ("a", "10.0.0.7:20005", "serving")
    beyond = msgspec.structs.replace(SERVING, address="fd00::7")
    assert mirror_of(snapshot(member("a"), CACHE, beyond), registry()) == "[fd00::7]:20005"


@pytest.mark.parametrize(
    "changes",
    [
        {"healthy_since": 0.0},
        {"state": ReplicaState.LEAVING},
        {"address": ""},
        {"host_ports": {}},
    ],
)
def test_a_mirror_that_does_not_serve_is_not_asked(changes: dict[str, object]) -> None:
    away = msgspec.structs.replace(SERVING, **changes)
    found = snapshot(member("a"), CACHE, away)
    assert mirror_of(found, registry()) == mirror_view(found, registry()).address == ""


def test_a_mirror_on_a_node_that_is_away_or_that_was_deleted_is_not_asked() -> None:
    for state in (MemberState.SUSPECT, MemberState.DEAD):
        assert mirror_of(snapshot(member("a", state=state), CACHE, SERVING), registry()) == ""
    assert mirror_of(snapshot(), registry()) == ""
    assert mirror_view(snapshot(), registry()).state == "gone"


def test_of_two_the_newer_generation_is_asked() -> None:
    newer = replica(CACHE, 1, address="10.0.0.8", host_ports={"5000/tcp": 20001}, generation=2)
    assert mirror_of(snapshot(member("a"), CACHE, newer, SERVING), registry()) == "10.0.0.8:20001"


def test_only_a_mirror_of_ours_is_looked_for() -> None:
    found = snapshot(member("a"), deployment("cache"), replica(deployment("cache"), address="1.2.3.4"))
    assert mirror_of(found, registry()) == ""
    assert mirror_of(found, registry(mirrored_by="", mirror="10.0.0.9:5000")) == "10.0.0.9:5000"


def test_what_a_node_says_of_itself_filters_and_labels_decide() -> None:
    placed = mirror_placement(("a", "b"), parse_selector("role=mirror,var:disk.free>20GiB"))
    assert format_selector(placed.selector) == "role=mirror"
    assert format_selector(placed.resources) == "node:name in (a,b),var:disk.free>20GiB"
    assert mirror_placement((), parse_selector("")) == PlacementPolicy()


@pytest.mark.parametrize(
    ("host", "insecure", "asked"),
    [
        ("docker.io", False, "https://registry-1.docker.io"),
        ("hub.example:5000", True, "http://hub.example:5000"),
    ],
)
def test_whom_a_mirror_asks(host: str, insecure: bool, asked: str) -> None:
    made = mirror_spec(host, "registry:3", PlacementPolicy(), insecure=insecure)
    assert made.container.environment["REGISTRY_PROXY_REMOTEURL"] == asked
    assert made.replicas == 1
