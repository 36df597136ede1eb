"""Placement on lent capacity, against a slow judge: a server's room is shared by all nodes on it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from lent_cases import MIB, NOW, World, a_report, a_server, a_vm, lent_room, worlds
from placement_cases import (
    a_member,
    a_replica,
    a_template,
    heard_of,
    may_run,
    ports_for,
    with_bindings,
)

from fallow.decide.federation.room_answers import answers_to
from fallow.decide.federation.shapes import question_of
from fallow.decide.harvest.heard import HeardServer
from fallow.decide.placement import Binding, fits, place
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, ReplicaState
from fallow.model.members import Facts

CALM = settings(max_examples=80, deadline=None)
LARGE = Facts(cpus=50.0, memory_bytes=2**40)


@CALM
@given(worlds())
def test_every_binding_holds_when_its_turn_comes(world: World) -> None:
    heard = heard_of(world.snapshot)
    for binding in place(world.snapshot, NOW, heard, world.servers).bindings:
        before = world.snapshot
        replica, node = before.replicas[binding.replica_id], before.members[binding.node_id]
        assert may_run(before, replica, node, heard)
        assert lent_room(world, replica, node)
        assert fits(before, binding, heard, world.servers, NOW) is None
        world = world.after(with_bindings(before, [binding]))


@CALM
@given(worlds())
def test_nothing_is_rejected_that_would_still_fit(world: World) -> None:
    heard = heard_of(world.snapshot)
    placement = place(world.snapshot, NOW, heard, world.servers)
    world = world.after(with_bindings(world.snapshot, placement.bindings))
    after = world.snapshot
    reasons = {found.template_id: found.reason for found in placement.rejections}
    for replica in after.replicas.values():
        if replica.state is not ReplicaState.PENDING:
            continue
        text = reasons[replica.template_id].text
        if after.nodes:
            assert sum(int(part.split(" of ")[0]) for part in text.split("; ")) == len(after.nodes)
        for node in after.nodes.values():
            ports = ports_for(after, replica, node)
            assert not (may_run(after, replica, node, heard) and ports is not None and lent_room(world, replica, node))
            binding = Binding(
                replica_id=replica.id, node_id=node.id, address=node.lease.address, host_ports=ports or {}
            )
            assert fits(after, binding, heard, world.servers, NOW) is not None


@CALM
@given(worlds(), st.data())
def test_room_is_what_placement_finds(world: World, data: st.DataObject) -> None:
    before, heard = world.snapshot, heard_of(world.snapshot)
    template = before.templates[data.draw(st.sampled_from(sorted(before.templates)))]
    spec = DeploymentSpec(replicas=0, container=template.container, placement=template.placement)
    asked = Deployment(
        id=template.deployment_id, created_at=0.0, updated_at=0.0, project="default", name="asked", spec=spec,
        generation=template.generation,
    )  # fmt: skip
    (answer,) = answers_to(before, (question_of(asked),), heard, world.servers, NOW)
    after = with_bindings(before, place(before, NOW, heard, world.servers).bindings)
    settled = {id_: found for id_, found in after.replicas.items() if found.state is not ReplicaState.PENDING}
    count = min(answer.more, 30) + 2
    more = {f"q-{n}": a_replica(f"q-{n}", template, slot=100 + n, created_at=9.0) for n in range(count)}
    fleet = replace(after, replicas={**settled, **more})
    assert len(place(fleet, NOW, heard, world.servers).bindings) == min(answer.more, count)


@CALM
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=7),  # of each node: its server, 0 for none
    st.lists(st.integers(0, 6), max_size=6),  # on which node each replica is that is there already
    st.lists(st.sampled_from([0.0, 0.3, 0.55, 1.05]), min_size=3, max_size=3),
    st.integers(1, 12),
    st.sampled_from(["spread", "pack"]),
)
def test_together_is_as_good_as_one_after_another(
    on: list[int], there: list[int], offers: list[float], count: int, strategy: str
) -> None:
    """What several nodes of one server share is laid out as if each replica had been placed after the one before."""
    policy = PlacementPolicy(strategy=strategy)  # type: ignore[arg-type]
    template = a_template(0, ContainerSpec(image="app:1", resources=Resources(cpus=0.1, memory_bytes=64 * MIB)), policy)
    members = {f"n-{number}": a_member(number, facts=LARGE) for number in range(len(on))}
    vms = {f"v-{number}": a_vm(number, "abc"[at - 1], f"n-{number}") for number, at in enumerate(on) if at}
    servers = {
        f"s-{name}": HeardServer(
            report=a_report(offer_cpus=offer + 0.1 * sum(on[at % len(on)] == index for at in there))
        )
        for index, (name, offer) in enumerate(zip("abc", offers, strict=True), 1)
    }
    old = {
        f"old-{number}": a_replica(
            f"old-{number}", template, node_id=f"n-{at % len(on)}", state=ReplicaState.RUNNING, slot=number
        )
        for number, at in enumerate(there)
    }
    new = {f"new-{number}": a_replica(f"new-{number}", template, slot=100 + number) for number in range(count)}
    fleet = Snapshot(
        members={**members, **{f"s-{name}": a_server(name) for name in "abc"}}, templates={template.id: template},
        replicas={**old, **new}, vms=vms,
    )  # fmt: skip
    together = with_bindings(fleet, place(fleet, NOW, None, servers).bindings)
    stored = replace(fleet, replicas=old)
    for replica in new.values():
        stored = replace(stored, replicas={**stored.replicas, replica.id: replica})
        stored = with_bindings(stored, place(stored, NOW, None, servers).bindings)
        stored = replace(stored, replicas={id_: found for id_, found in stored.replicas.items() if found.node_id})
    assert levels(together) == levels(stored)


def levels(snapshot: Snapshot) -> list[int]:
    return sorted(len(found) for found in snapshot.replicas_by_node.values())
