"""Whatever the fleet: a cluster has room for just as many more as its placement then finds a node for."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import Case, a_replica, heard_of, snapshots, with_bindings

from fallow.decide.federation.room_answers import answers_to
from fallow.decide.federation.shapes import question_of
from fallow.decide.placement import place
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, DeploymentSpec, ReplicaState, Template
from fallow.model.members import Lease

CALM = settings(max_examples=200, deadline=None)
MOST = 30


def of(template: Template, **more: Any) -> Deployment:
    spec = DeploymentSpec(replicas=0, container=template.container, placement=template.placement)
    values = {"project": "default", "name": "asked", "spec": spec, "generation": template.generation, **more}
    return Deployment(id=template.deployment_id, created_at=0.0, updated_at=0.0, **values)


def settled(before: Snapshot, heard: Any) -> Snapshot:
    """Return the fleet once all that is pending has its place, or is given up."""
    after = with_bindings(before, place(before, 0.0, heard).bindings)
    left = {id_: found for id_, found in after.replicas.items() if found.state is not ReplicaState.PENDING}
    return Snapshot(members=after.members, templates=after.templates, replicas=left, label_sets=after.label_sets)


def neighbours(before: Snapshot, share: bool) -> Snapshot:
    """Let the first two nodes share an address, each with ports of its own, as far as nothing has ports there yet."""
    ids = sorted(before.members)[:2]
    if not share or len(ids) < 2 or any(found.host_ports for found in before.replicas.values()):
        return before
    members = dict(before.members)
    for number, id_ in enumerate(ids):
        ports = before.members[id_].lease.host_ports
        shift = number * 1000
        lease = Lease(
            address="10.0.0.1",
            host_ports=msgspec.structs.replace(ports, first=ports.first + shift, last=ports.last + shift),
        )
        members[id_] = msgspec.structs.replace(before.members[id_], lease=lease)
    return Snapshot(members=members, templates=before.templates, replicas=before.replicas, label_sets=before.label_sets)


@CALM
@given(snapshots(), st.data(), st.booleans())
def test_room_is_what_placement_finds(drawn: Snapshot, data: st.DataObject, share: bool) -> None:
    before = neighbours(drawn, share)
    heard = heard_of(before)
    known = data.draw(st.sampled_from([None, *sorted(before.templates)]))
    template = before.templates[known] if known is not None else data.draw(made())
    (answer,) = answers_to(before, (question_of(of(template)),), heard)
    after = settled(before, heard)
    asked = min(answer.more, MOST) + 2
    more = {f"q-{n}": a_replica(f"q-{n}", template, slot=100 + n, created_at=9.0) for n in range(asked)}
    fleet = Snapshot(
        members=after.members,
        templates={**after.templates, template.id: template},
        replicas={**after.replicas, **more},
        label_sets=after.label_sets,
    )
    found = len(place(fleet, 0.0, heard).bindings)
    assert found == min(answer.more, asked)
    assert (answer.why == "") == (answer.more > 0)


@st.composite
def made(draw: st.DrawFn) -> Template:
    """A template of a deployment that is not there yet."""
    template = Case(draw).template(50)
    return msgspec.structs.replace(template, id="d-50.50", deployment_id="d-50")


@CALM
@given(snapshots(), st.integers(0, 5), st.integers(0, 8))
def test_replicas_that_are_ordered_and_not_made_yet_count_as_used(before: Snapshot, number: int, count: int) -> None:
    """To order replicas, or to have them pending, leaves the same room for others."""
    heard = heard_of(before)
    templates = sorted(before.templates)
    template = before.templates[templates[number % len(templates)]]
    template = msgspec.structs.replace(template, id="d-60.1", deployment_id="d-60", generation=1)
    base = {**before.templates, template.id: template}
    question = question_of(of(template))
    pending = {f"q-{n}": a_replica(f"q-{n}", template, slot=n, created_at=9.0) for n in range(count)}
    ordered = Snapshot(
        members=before.members, templates=base, replicas=before.replicas, label_sets=before.label_sets,
        deployments={"d-60": of(template, share=count)},
    )  # fmt: skip
    waiting = Snapshot(
        members=before.members, templates=base, replicas={**before.replicas, **pending},
        label_sets=before.label_sets, deployments={"d-60": of(template, share=count)},
    )  # fmt: skip
    assert answers_to(ordered, (question,), heard) == answers_to(waiting, (question,), heard)
