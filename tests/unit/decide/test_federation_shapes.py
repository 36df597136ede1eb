"""Shapes: which deployments ask the same question of room, and what one shape takes from another."""

from typing import Any

import msgspec
import pytest
from division_cases import cluster, where, wish
from records import deployment, snapshot

from fallow.decide.federation.shapes import largest, question_of, questions, slots_taken
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, Origin, PlacementPolicy, Preference
from fallow.model.rooms import RoomQuestion

GIB = 2**30


def made(name: str = "web", placement: PlacementPolicy | None = None, **container: Any) -> Deployment:
    """Return a deployment whose container and placement are as told."""
    before = deployment(name)
    spec = msgspec.structs.replace(
        before.spec,
        container=ContainerSpec(**{"image": "shop:1"} | container),
        placement=placement or PlacementPolicy(),
    )
    return msgspec.structs.replace(before, spec=spec)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"image": "other:2", "environment": {"A": "b"}, "user": "app"}),
        ({"resources": Resources(cpus=1.0)}, {"resources": Resources(cpus=1.0, cpu_limit=2.0, pids_limit=9)}),
        ({"ports": (PortSpec(container=80),)}, {"ports": (PortSpec(container=8080),)}),
        (
            {"ports": (PortSpec(container=80, host=80), PortSpec(container=9))},
            {"ports": (PortSpec(container=9), PortSpec(container=8080, host=80))},
        ),
        (
            {"placement": PlacementPolicy(strategy="pack", spread_by=("zone",), prefer=(Preference(key="disk"),))},
            {"placement": PlacementPolicy()},
        ),
        (
            {"placement": PlacementPolicy(selector=where("a=b,c=d"), architectures=("arm64", "amd64"))},
            {"placement": PlacementPolicy(selector=where("c=d,a=b"), architectures=("amd64", "arm64"))},
        ),
        (
            {"placement": PlacementPolicy(service_class="spot")},
            {"placement": PlacementPolicy(service_class="harvest")},
        ),
    ],
)
def test_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert question_of(made("web", **one)) == question_of(made("api", **other))


@pytest.mark.parametrize(
    "other",
    [
        {"resources": Resources(cpus=0.5)},
        {"resources": Resources(memory_bytes=GIB)},
        {"ports": (PortSpec(container=80),)},
        {"ports": (PortSpec(container=80, host=80),)},
        {"ports": (PortSpec(container=80, host=80, protocol="udp"),)},
        {"placement": PlacementPolicy(selector=where("a=b"))},
        {"placement": PlacementPolicy(resources=where("a=b"))},
        {"placement": PlacementPolicy(architectures=("arm64",))},
        {"placement": PlacementPolicy(max_per_node=1)},
        {"placement": PlacementPolicy(service_class="standard")},
    ],
)
def test_not_alike(other: dict[str, Any]) -> None:
    assert question_of(made()).key != question_of(made(**other)).key


def test_where_it_matters_what_is_there_already_the_deployment_is_named() -> None:
    crowded = PlacementPolicy(max_per_node=1)
    one, other = question_of(made("web", crowded)), question_of(made("api", crowded))
    assert (one.deployment_id, other.deployment_id) == ("d-web", "d-api")
    assert one.key != other.key
    assert question_of(made()).deployment_id == ""


def test_each_shape_is_asked_once_by_whoever_has_members() -> None:
    elsewhere = msgspec.structs.replace(wish("taken", cpus=7.0), origin=Origin(revision=1, generation=1))
    ending = msgspec.structs.replace(wish("ending", cpus=8.0), deleting=True)
    records = [wish("a", cpus=1.0), wish("b", cpus=1.0), wish("c", cpus=2.0), elsewhere, ending]
    assert questions(snapshot(*records)) == ()
    found = questions(snapshot(*records, cluster("east")))
    assert [asked.resources.cpus for asked in sorted(found, key=lambda asked: asked.resources.cpus)] == [1.0, 2.0]
    assert [asked.key for asked in found] == sorted(asked.key for asked in found)


def asked(cpus: float = 0.0, memory_bytes: int = 0, *ports: PortSpec) -> RoomQuestion:
    return question_of(made(resources=Resources(cpus=cpus, memory_bytes=memory_bytes), ports=ports))


def test_what_a_replica_takes_from_other_shapes() -> None:
    large, small, free = asked(2.0, GIB), asked(0.5, 4 * GIB), asked()
    http = asked(1.0, 0, PortSpec(container=80, host=80))
    also_http = asked(4.0, 0, PortSpec(container=8080, host=80))
    ports = asked(1.0, 0, PortSpec(container=80), PortSpec(container=81))
    table = slots_taken((large, small, free, http, also_http, ports))
    assert table[0].tolist() == [1, 4, 0, 2, 0.5, 2]
    assert table[1].tolist() == [4, 1, 0, 0.5, 0.125, 0.5]
    assert table[2].tolist() == [0, 0, 1, 0, 0, 0]
    assert table[3].tolist() == [0.5, 2, 0, 1, 1, 1]
    assert table[5].tolist() == [0.5, 2, 0, 1, 0.25, 1]


def test_the_largest_of_some_shapes_takes_the_room_of_each() -> None:
    wide, tall = (
        asked(2.0, 1, PortSpec(container=80, host=80)),
        asked(1.0, 5, PortSpec(container=81), PortSpec(container=82)),
    )
    ports = PortSpec(container=80, host=80), PortSpec(container=81), PortSpec(container=82)
    assert largest([wide, tall]) == largest([tall, wide]) == asked(2.0, 5, *ports)
    assert largest([wide, wide, asked()]) == wide
    assert largest([tall]) == tall
