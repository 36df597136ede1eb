"""Single replicas that prefer something go where a look at all nodes would put each of them, only faster."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_cases import a_member, a_replica, a_template, heard_of, labels, mostly, port_lists, wishes

from fallow.decide.placement.favourites import Favourites
from fallow.decide.placement.place import Run
from fallow.decide.placement.request import Request
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import PlacementPolicy, Preference, Replica
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Facts, Lease
from fallow.model.pools import PortRange


class Thorough(Run):
    """Looks at all nodes for each replica."""

    def _place_one(self, request: Request, replica: Replica, held: Any) -> int:
        return self._place_many(request, [replica], held)


@st.composite
def fleets(draw: st.DrawFn) -> Snapshot:
    """Nodes with little room and many deployments of one replica, which share a few policies and differ in size."""
    members = {
        f"n-{number}": a_member(
            number,
            labels=draw(labels),
            lease=Lease(
                address=f"10.0.0.{number + 1}",
                host_ports=PortRange(first=20000, last=20000 + draw(mostly([0, 2, 50]))),
            ),
            facts=Facts(
                architecture="amd64", cpus=draw(mostly([0.5, 1.0, 4.0])), memory_bytes=draw(mostly([3, 8, 20]))
            ),
        )
        for number in range(draw(st.integers(1, 7)))
    }
    selectors = mostly([Selector(), Selector(requirements=(Requirement(key="zone", operator="exists"),))])
    policies = draw(
        st.lists(
            st.builds(
                PlacementPolicy,
                prefer=st.lists(wishes, min_size=1, max_size=2).map(tuple),
                strategy=mostly(["spread", "pack"]),
                selector=selectors,
                max_per_node=mostly([0, 0, 1]),
            ),
            min_size=1,
            max_size=2,
        )
    )
    templates, replicas = {}, {}
    for number in range(draw(st.integers(1, 24))):
        container = ContainerSpec(
            image="app:1",
            ports=draw(port_lists),
            resources=Resources(cpus=draw(mostly([0.0, 0.1, 0.3, 0.5])), memory_bytes=draw(mostly([0, 1, 2, 3]))),
        )
        template = a_template(number, container, draw(mostly(policies)))
        templates[template.id] = template
        replicas[f"r-{number:02}"] = a_replica(f"r-{number:02}", template, created_at=float(number))
    return Snapshot(members=members, templates=templates, replicas=replicas)


def bindings(run: Run) -> list[Any]:
    for replica in run.snapshot.replicas.values():
        run.place_group(replica.template_id, [replica])
    return run.bindings


@given(fleets())
def test_what_is_kept_chooses_as_a_look_at_all_nodes_does(fleet: Snapshot) -> None:
    heard = heard_of(fleet)
    assert bindings(Run(fleet, heard)) == bindings(Thorough(fleet, heard))


MOST = Preference(order="most", key="size")


def wanting(members: dict[str, Any], wanted: list[tuple[float, PlacementPolicy]]) -> Snapshot:
    """One deployment of one replica for each pair of processors and policy, in that order."""
    templates, replicas = {}, {}
    for number, (cpus, policy) in enumerate(wanted):
        template = a_template(number, ContainerSpec(image="app:1", resources=Resources(cpus=cpus)), policy)
        templates[template.id] = template
        replicas[f"r-{number:02}"] = a_replica(f"r-{number:02}", template, created_at=float(number))
    return Snapshot(members=members, templates=templates, replicas=replicas)


def test_others_are_compared_anew_once_who_has_the_most_is_full() -> None:
    web = Preference(selector=parse_selector("role=web"), weight=3)
    sizes = {0: ("1", "web"), 1: ("2", "web"), 2: ("2000", "db")}
    members = {f"n-{row}": a_member(row, labels={"size": size, "role": role}) for row, (size, role) in sizes.items()}
    choosy = PlacementPolicy(prefer=(web, MOST))
    filling = PlacementPolicy(selector=parse_selector("role=db"))
    fleet = wanting(members, [(0.1, choosy), (4.0, filling), (0.1, choosy), (0.1, choosy)])
    found = [binding.node_id for binding in bindings(Run(fleet, {}))]
    assert found == ["n-0", "n-2", "n-1", "n-1"]
    assert found == [binding.node_id for binding in bindings(Thorough(fleet, {}))]


def test_what_needs_no_less_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"n-{row}": a_member(row, labels={"size": str(row % 2)}) for row in range(6)}
    policy = PlacementPolicy(prefer=(MOST,))
    looks: list[Any] = []
    look = Favourites._look

    def counted(self: Favourites, *given: Any) -> Any:
        looks.append(given)
        return look(self, *given)

    monkeypatch.setattr(Favourites, "_look", counted)
    small = bindings(Run(wanting(members, [(0.1 + number % 3 * 0.1, policy) for number in range(16)]), {}))
    assert {binding.node_id for binding in small} == {"n-1", "n-3", "n-5"}
    assert len(small) == 16
    assert len(looks) == 1
    looks.clear()
    large = bindings(Run(wanting(members, [(4.0, policy)] * 3 + [(0.1, policy)] * 16), {}))
    assert len(large) == 19
    assert len(looks) == 2  # one at first, one when those with the most are full
