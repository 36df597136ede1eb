"""Names that are made of those before are the same as names made anew, whatever has changed in between."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from records import deployment, member, replica, snapshot

from fallow.decide.names import render
from fallow.model.deployments import ReplicaState
from fallow.model.members import Lease, MemberState
from fallow.model.meta import Record

DOMAIN = "fallow.internal"
NODES = ("a", "b", "c")
Records = dict[str, Record]
Step = Callable[[Records], None]


def first() -> Records:
    web, db = deployment("web"), deployment("db")
    nodes = [member(name, lease=Lease(address=f"10.0.0.{number}")) for number, name in enumerate(NODES)]
    found = [*nodes, web, db, *(serving(of, slot) for of in (web, db) for slot in range(3))]
    return {record.id: record for record in found}


def serving(of: Any, slot: int, **changes: Any) -> Any:
    values = {
        "node_id": f"n-{NODES[slot % 3]}",
        "address": f"10.0.0.{slot % 3}",
        "host_ports": {"80/tcp": 20000 + slot},
    }
    return replica(of, slot, **(values | changes))


def changed(id_: str, **changes: Any) -> Step:
    def step(records: Records) -> None:
        if id_ in records:
            records[id_] = msgspec.structs.replace(records[id_], **changes)

    return step


def gone(id_: str) -> Step:
    return lambda records: records.pop(id_, None) and None


def come(slot: int) -> Step:
    return lambda records: records.update({f"web-{slot}": serving(deployment("web"), slot)})


def anew(records: Records) -> None:
    """Delete a deployment and make another of its name, whose replicas are others."""
    records.pop("d-web", None)
    again = deployment("web", id="d-again")
    records["d-again"] = again
    records["again-0"] = serving(again, 0, id="again-0")


REPLICAS = st.sampled_from([f"{name}-{slot}" for name in ("web", "db") for slot in range(3)])
STEPS = st.one_of(
    st.builds(changed, REPLICAS, state=st.sampled_from(ReplicaState)),
    st.builds(changed, REPLICAS, healthy_since=st.sampled_from((0.0, 5.0))),
    st.builds(changed, REPLICAS, address=st.sampled_from(("", "10.0.0.1", "10.0.0.9"))),
    st.builds(changed, REPLICAS, node_id=st.sampled_from(("n-a", "n-b", "n-none"))),
    st.builds(changed, st.sampled_from([f"n-{name}" for name in NODES]), state=st.sampled_from(MemberState)),
    st.builds(gone, st.one_of(REPLICAS, st.sampled_from(("n-a", "n-b", "d-web", "d-db")))),
    st.builds(come, st.integers(0, 5)),
    st.just(anew),
)


@given(st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=1, max_size=8))
def test_names_made_of_those_before_are_those_made_anew(rounds: list[list[Step]]) -> None:
    records = first()
    names = render(snapshot(*records.values(), revision=1), DOMAIN)
    for revision, steps in enumerate(rounds, start=2):
        for step in steps:
            step(records)
        now = snapshot(*records.values(), revision=revision)
        names = render(now, DOMAIN, names)
        whole = render(now, DOMAIN).zone
        assert names.zone.services == whole.services
        assert names.zone.hosts == whole.hosts
