"""Whatever the fleet: no binding breaks a rule, nothing is rejected that would fit, and order does not matter."""

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st
from placement_cases import (
    a_member,
    a_replica,
    a_template,
    heard_of,
    may_run,
    owners,
    policies,
    port_lists,
    ports_for,
    snapshots,
    with_bindings,
)

from fallow.decide.placement import Binding, fits, place
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import PlacementPolicy, Replica, ReplicaState

CALM = settings(max_examples=150, deadline=None)


@CALM
@given(snapshots())
def test_every_binding_holds_when_its_turn_comes(before: Snapshot) -> None:
    heard = heard_of(before)
    for binding in place(before, 0.0, heard).bindings:
        replica, node = before.replicas[binding.replica_id], before.members[binding.node_id]
        assert replica.state is ReplicaState.PENDING
        assert may_run(before, replica, node, heard)
        assert binding.host_ports == ports_for(before, replica, node)
        assert binding.address == node.lease.address
        assert fits(before, binding, heard) is None
        before = with_bindings(before, [binding])
        taken = [number for number, _ in owners(before, node.id)]
        assert len(set(owners(before, node.id))) == len(taken)


@CALM
@given(snapshots())
def test_every_pending_replica_is_bound_once_or_rejected(before: Snapshot) -> None:
    placement = place(before, 0.0)
    pending = Counter(found.template_id for found in before.replicas.values() if found.state is ReplicaState.PENDING)
    bound = Counter(before.replicas[found.replica_id].template_id for found in placement.bindings)
    rejected = Counter({found.template_id: found.count for found in placement.rejections})
    assert pending == bound + rejected
    assert len({found.replica_id for found in placement.bindings}) == len(placement.bindings)


@CALM
@given(snapshots())
def test_nothing_is_rejected_that_would_still_fit(before: Snapshot) -> None:
    heard = heard_of(before)
    placement = place(before, 0.0, heard)
    after = with_bindings(before, placement.bindings)
    rejected = {found.template_id: found.reason for found in placement.rejections}
    for replica in after.replicas.values():
        if replica.state is not ReplicaState.PENDING:
            continue
        reason = rejected[replica.template_id]
        assert reason.text
        for node in after.members.values():
            given_ports = ports_for(after, replica, node)
            assert not (may_run(after, replica, node, heard) and given_ports is not None)
            binding = Binding(
                replica_id=replica.id,
                node_id=node.id,
                address=node.lease.address,
                host_ports=given_ports or ports_anyway(after, replica),
            )
            assert fits(after, binding, heard) is not None


def ports_anyway(snapshot: Snapshot, replica: Replica) -> dict[str, int]:
    specs = snapshot.templates[replica.template_id].container.ports
    return {spec.key: spec.host or 20000 + index for index, spec in enumerate(specs)}


@CALM
@given(snapshots())
def test_rejections_count_every_node_once(before: Snapshot) -> None:
    for rejection in place(before, 0.0, heard_of(before)).rejections:
        if not before.nodes:
            assert rejection.reason.code == "NoNodes"
            continue
        assert rejection.reason.code == "Unschedulable"
        parts = rejection.reason.text.split("; ")
        assert sum(int(part.split(" of ")[0]) for part in parts) == len(before.nodes)


@CALM
@given(snapshots(), st.randoms())
def test_the_order_of_records_does_not_matter(before: Snapshot, chance: object) -> None:
    def shuffled(records: dict[str, object]) -> dict[str, object]:
        keys = list(records)
        chance.shuffle(keys)  # type: ignore[attr-defined]
        return {key: records[key] for key in keys}

    first = place(before, 0.0, heard_of(before))
    assert place(before, 0.0, heard_of(before)) == first
    again = Snapshot(
        members=shuffled(dict(before.members)),  # type: ignore[arg-type]
        templates=shuffled(dict(before.templates)),  # type: ignore[arg-type]
        replicas=shuffled(dict(before.replicas)),  # type: ignore[arg-type]
        label_sets=before.label_sets,
    )
    assert place(again, 0.0, heard_of(again)) == first


@CALM
@given(
    zones=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8),
    held=st.lists(st.integers(0, 7), max_size=6),
    count=st.integers(1, 20),
)
def test_without_limits_the_difference_between_zones_and_then_nodes_is_the_smallest(
    zones: list[str | None], held: list[int], count: int
) -> None:
    members = {f"n-{i}": a_member(i, labels={"zone": zone} if zone else {}) for i, zone in enumerate(zones)}
    template = a_template(0, ContainerSpec(image="app:1"), PlacementPolicy(spread_by=("zone",)))
    there = [
        a_replica(f"old-{i}", template, node_id=f"n-{at % len(zones)}", state=ReplicaState.RUNNING)
        for i, at in enumerate(held)
    ]
    new = [a_replica(f"new-{i}", template, slot=i) for i in range(count)]
    before = Snapshot(
        members=members, templates={template.id: template}, replicas={found.id: found for found in there + new}
    )
    bindings = place(before, 0.0).bindings
    on_node = Counter(dict.fromkeys(members, 0))
    on_node.update(found.node_id for found in there)
    greedy = Counter(on_node)
    for _ in range(count):
        zone_of = {node_id: member.labels.get("zone") for node_id, member in members.items()}
        by_zone = Counter(dict.fromkeys(zone_of.values(), 0))
        for node_id, number in greedy.items():
            by_zone[zone_of[node_id]] += number
        lowest = min(by_zone.values())
        # To whichever of the equally empty zones it goes, the sorted counts are the same.
        greedy[min(greedy, key=lambda node_id: (by_zone[zone_of[node_id]] != lowest, greedy[node_id], node_id))] += 1
    on_node.update(found.node_id for found in bindings)

    def sums(counts: Counter[str]) -> list[int]:
        totals: Counter[str | None] = Counter()
        for node_id, number in counts.items():
            totals[members[node_id].labels.get("zone")] += number
        return sorted(totals.values())

    assert len(bindings) == count
    assert sums(on_node) == sums(greedy)
    given_to = Counter(found.node_id for found in bindings)
    for node_id, number in given_to.items():
        zone = members[node_id].labels.get("zone")
        others = [on_node[other] for other in members if members[other].labels.get("zone") == zone]
        assert not number or on_node[node_id] <= min(others) + 1


@CALM
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=6), policies, port_lists, st.integers(1, 12))
@example(["a", "b", "b"], PlacementPolicy(strategy="spread", spread_by=("zone",)), (), 3)
def test_one_at_a_time_is_no_better_than_all_at_once(zones: list[str], policy: object, ports: object, n: int) -> None:
    """Replicas placed together are spread as well as if each had been placed after the one before it was stored."""
    members = {f"n-{i}": a_member(i, labels={"zone": zone, "role": "web"}) for i, zone in enumerate(zones)}
    template = a_template(
        0,
        ContainerSpec(image="app:1", ports=ports, resources=Resources(memory_bytes=1)),  # type: ignore[arg-type]
        policy,  # type: ignore[arg-type]
    )
    waiting = {f"r-{i}": a_replica(f"r-{i}", template, slot=i) for i in range(n)}
    templates = {template.id: template}
    at_once = place(Snapshot(members=members, templates=templates, replicas=waiting), 0.0)
    stored = Snapshot(members=members, templates=templates)
    for id_, replica in waiting.items():
        one = Snapshot(members=members, templates=templates, replicas={**stored.replicas, id_: replica})
        found = place(one, 0.0).bindings
        stored = with_bindings(one, found) if found else stored
    one_by_one = Counter(found.node_id for found in stored.replicas.values())
    assert Counter(found.node_id for found in at_once.bindings).total() == one_by_one.total()
    if template.placement.strategy == "spread":
        assert sorted(Counter(found.node_id for found in at_once.bindings).values()) == sorted(one_by_one.values())
