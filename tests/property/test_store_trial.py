"""A trial snapshot says the same as one built anew from the same records."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.members import Lease, Member, Role
from fallow.store.trial import Trial


def member(id_: str, role: Role) -> Member:
    return Member(
        id=id_,
        created_at=1.0,
        updated_at=1.0,
        name=id_,
        role=role,
        key_sha256="",
        token_id="",
        certificate_expires_at=0.0,
        lease=Lease(address=""),
    )


def replica(id_: str, node: str, state: ReplicaState) -> Replica:
    return Replica(
        id=id_,
        created_at=1.0,
        updated_at=1.0,
        deployment_id=f"d{len(id_)}",
        project="p",
        deployment="d",
        slot=0,
        generation=1,
        template_id="t",
        node_id=node,
        state=state,
    )


MEMBERS = st.builds(member, st.sampled_from(["m1", "m2"]), st.sampled_from([Role.NODE, Role.GATEWAY]))
REPLICAS = st.builds(
    replica,
    st.sampled_from(["a", "b", "cc", "dd"]),
    st.sampled_from(["", "m1", "m2"]),
    st.sampled_from([ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.STOPPED]),
)
STEPS = st.builds(
    lambda puts, deletes: Step(puts=tuple(puts), deletes=tuple(deletes)),
    st.lists(MEMBERS | REPLICAS, max_size=3),
    st.lists(MEMBERS | REPLICAS, max_size=2),
)


def told(snapshot: Snapshot):
    """Everything a check can ask, in an order that does not depend on how the indexes came about."""
    by_node = {
        node: sorted(found, key=lambda one: one.id) for node, found in snapshot.replicas_by_node.items() if found
    }
    by_deployment = {
        key: sorted(found, key=lambda one: one.id) for key, found in snapshot.replicas_by_deployment.items() if found
    }
    return snapshot.members, snapshot.replicas, snapshot.nodes, by_node, by_deployment


@settings(max_examples=150, deadline=None)
@given(start=st.lists(MEMBERS | REPLICAS, max_size=5), steps=st.lists(st.tuples(STEPS, st.booleans()), max_size=6))
def test_a_trial_equals_a_snapshot_built_anew(start, steps):
    members = {record.id: record for record in start if isinstance(record, Member)}
    replicas = {record.id: record for record in start if isinstance(record, Replica)}
    original = Snapshot(members=dict(members), replicas=dict(replicas))
    trial = Trial(original)
    before = told(replace(original))
    for step, looked_at in steps:
        if looked_at:
            told(trial.snapshot)
        trial.accept(step)
        for record in step.puts:
            (members if isinstance(record, Member) else replicas)[record.id] = record
        for record in step.deletes:
            (members if isinstance(record, Member) else replicas).pop(record.id, None)
        assert told(trial.snapshot) == told(Snapshot(members=members, replicas=replicas))
    assert told(original) == before, "the snapshot that all share was changed"
