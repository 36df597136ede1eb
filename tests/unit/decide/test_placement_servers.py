"""Placement on lent capacity, in cases a person can count, and what refusals say."""

from typing import Any

import pytest
from lent_fleet import GIB, heard, lending, node, server, use, vm
from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.explain import explain
from fallow.decide.federation.room_answers import summary_of
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement import Binding, fits, foretell, judge, place
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import replica_view
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, ReplicaState
from fallow.model.labels import Variable
from fallow.model.members import Scheduling
from fallow.model.meta import Reason
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.vms import VmState, VmWish

LATER = NOW + 1000


def asking(cpus: float = 1.0, memory: int = GIB, class_: str = "", name: str = "web", **policy: Any) -> Deployment:
    container = ContainerSpec(image="shop:1", resources=Resources(cpus=cpus, memory_bytes=memory))
    placement = PlacementPolicy(service_class=class_, **policy)  # type: ignore[arg-type]
    return deployment(name, spec=DeploymentSpec(replicas=1, container=container, placement=placement))


def fleet(*records: Any, of: Deployment | None = None, waiting: int = 1) -> Snapshot:
    """Return a server with one virtual machine, and replicas that wait."""
    of = of or asking()
    pending = [replica(of, slot, ReplicaState.PENDING) for slot in range(waiting)]
    given = (server(), vm("a"), node("a"), of, template(of), *pending, *records)
    first = {(type(record), record.id): record for record in given}
    return snapshot(*first.values())


def placed(before: Snapshot, servers: HeardServers) -> list[str]:
    return [found.node_id for found in place(before, LATER, None, servers).bindings]


def refused(before: Snapshot, servers: HeardServers) -> str:
    """Return what placement says, after making sure that the re-check of a binding says the same."""
    (rejection,) = place(before, LATER, None, servers).rejections
    binding = Binding(replica_id="web-0", node_id="n-a", address="10.0.0.1", host_ports={})
    again = fits(before, binding, None, servers, LATER)
    assert again is not None
    told = rejection.reason.text.removeprefix("1 of 1 node: ")
    assert again.text.removeprefix("a: ") == told or "best has" in told
    return told


def test_a_container_goes_where_both_have_room() -> None:
    assert placed(fleet(), heard()) == ["n-a"]


def test_a_control_group_has_what_it_was_given_whatever_its_limit_was_when_its_node_started() -> None:
    small = node("a", cpus=0.15, memory_bytes=GIB // 4)
    assert placed(fleet(small, vm("a", isolation="cgroup")), heard()) == ["n-a"]
    assert refused(fleet(small, vm("a")), heard()) == "not enough CPU (need 1, best has 0.15 free)"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"primary_cpus": 6.1}, "server srv1 would be at 71 % of its processors, above its threshold of 65 %"),
        ({"primary_cpus": 4.0, "lent_cpus": 1.004, "system_cpus": 0.5},
         "server srv1 would be at just over 65 % of its processors, above its threshold of 65 %"),
        ({"offer_cpus": 0.8}, "server srv1: asks for 1 processors, offered are 0.8 of which 0.0 is taken"),
        ({"primary_memory_bytes": 25 * GIB},
         "server srv1 would be at 81 % of its memory, above its threshold of 80 %"),
        ({"offer_memory_bytes": GIB // 2},
         "server srv1: asks for 1 GiB of memory, offered are 512 MiB of which 0 B is taken"),
        ({"lends": False, "why_not": "outside its hours"}, "server srv1 does not lend now: outside its hours"),
        ({"lends": False}, "server srv1 does not lend now: it does not say why"),
        ({"vms": (use("a", state=VmState.STOPPING),)}, "its virtual machine vm-a is stopping"),
        ({"vms": (use("a", state=VmState.STOPPED),)}, "its virtual machine vm-a is stopped"),
        ({"age_seconds": 7.2}, "server srv1 has said nothing for more than 5 s, so it counts as full"),
    ],
)  # fmt: skip
def test_what_the_server_says(said: dict[str, Any], text: str) -> None:
    assert refused(fleet(), heard(**said)) == text


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([lending(backoff_until=LATER + 60)],
         "server srv1 is backing off until 14:04 UTC after sending replicas away"),
        ([lending(closed="it shuts down: reboot")], "server srv1 does not lend now: it shuts down: reboot"),
        ([server(scheduling=Scheduling.DRAINING)], "server srv1 is being drained"),
        ([server(scheduling=Scheduling.CORDONED)], "server srv1 is cordoned"),
        ([ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(lends=False))],
         "server srv1 does not lend: its pool default says so"),
        ([vm("a", draining=True)], "its virtual machine vm-a is being drained"),
        ([vm("a", wanted=VmWish.STOPPED)], "its virtual machine vm-a is to be stopped"),
        ([vm("a", on="srv9")], "its server was removed"),
        ([vm("a", cpus=0.5)], "not enough CPU (need 1, best has 0.5 free)"),
        ([vm("a", memory_bytes=GIB // 2)], "not enough memory (need 1 GiB, best has 512 MiB free)"),
    ],
)  # fmt: skip
def test_what_is_stored(records: list[Any], text: str) -> None:
    assert refused(fleet(*records), heard()) == text


def test_a_server_that_was_never_heard_is_full() -> None:
    assert refused(fleet(), {}) == "server srv1 has not said anything yet, so it counts as full"


def test_a_balloon_takes_room() -> None:
    told = refused(fleet(), heard(vms=(use("a", memory_limit_bytes=GIB // 2),)))
    assert told == "not enough memory (need 1 GiB, best has 512 MiB free)"


def test_standard_never_goes_to_lent_capacity() -> None:
    before = fleet(of=asking(class_="standard"))
    assert refused(before, heard()) == "on lent capacity, which replicas of class standard never use"
    assert placed(fleet(member("b"), of=asking(class_="standard")), heard()) == ["n-b"]


def test_where_a_node_is_does_not_hang_on_what_it_says_or_is_labelled() -> None:
    said = (Variable(name="fallow.server", value="srv1"),)
    assert placed(fleet(node("b", variables=said), of=asking(class_="standard")), {}) == ["n-b"]
    assert refused(fleet(node("a", labels={"fallow.server": "srv2"})), {}).startswith("server srv1")


def test_a_node_that_joined_as_a_virtual_machine_gets_nothing_before_it_is_known_whose() -> None:
    before = fleet(vm("a", node_id=""), node("a", labels={"fallow.server": "srv1"}))
    assert refused(before, heard()) == "joined as a virtual machine that is not known yet, or not any more"
    assert summary_of(before, heard(), LATER).nodes == 0


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"state": ReplicaState.PLACED, "state_since": NOW}, True),
        ({"state_since": LATER - 6.4}, True),  # a window of 1 s, 5 s, and the report is half a second old
        ({"state_since": LATER - 6.5}, False),
        ({"state": ReplicaState.LEAVING, "state_since": LATER}, False),
        ({"state_since": LATER + 60}, False),  # the clock was set back
    ],
)
def test_what_was_placed_and_is_not_measured_yet_counts_on_top(changes: dict[str, Any], counts: bool) -> None:
    other = asking(2.0, name="other")
    there = replica(other, 0, **changes)
    before = fleet(other, template(other), there)
    assert placed(before, heard(primary_cpus=4.0)) == ([] if counts else ["n-a"])


def test_what_reserves_nothing_counts_for_something() -> None:
    before = fleet(of=asking(0.0, 0), waiting=50)
    assert len(placed(before, heard(offer_cpus=1.25))) == 12
    assert len(placed(before, heard(offer_memory_bytes=5 * 64 * 2**20))) == 5


def test_virtual_machines_of_one_server_share_its_room() -> None:
    before = fleet(vm("b"), node("b"), vm("c", on="srv2"), node("c"), server("srv2"), waiting=9)
    both = heard(offer_cpus=3.5) | heard(on="srv2", offer_cpus=2.0)
    assert sorted(placed(before, both)) == ["n-a", "n-a", "n-b", "n-c", "n-c"]
    (rejection,) = place(before, LATER, None, both).rejections
    assert rejection.count == 4
    assert rejection.reason.text == (
        "3 of 3 nodes: server srv1: asks for 1 processors, offered are 3.5 of which 3.0 is taken (and 1 more server)"
    )


def test_several_deployments_share_it_too() -> None:
    first, second = asking(1.0, name="first"), asking(1.0, name="second")
    records = [vm("b"), node("b"), first, second, template(first), template(second)]
    waiting = [replica(of, slot, ReplicaState.PENDING) for of in (first, second) for slot in range(2)]
    single = asking(0.6, name="third")
    waiting += [single, template(single), replica(single, 0, ReplicaState.PENDING, created_at=NOW + 1)]
    before = fleet(*records, *waiting, waiting=0)
    assert len(placed(before, heard(offer_cpus=3.0))) == 3
    assert len(placed(before, heard(offer_cpus=3.6))) == 4


def test_a_dry_run_and_what_people_are_told_look_at_servers_too() -> None:
    before = fleet(waiting=0)
    of = before.deployments["d-web"]
    told = foretell(before, "shop", [("api", of.spec)], LATER, None, heard(offer_cpus=0.5))["api"]
    assert told.reasons == ("1 of 1 node: server srv1: asks for 1 processors, offered are 0.5 of which 0.0 is taken",)
    assert foretell(before, "shop", [("api", of.spec)], LATER, None, heard())["api"].placements == {"a": 1}
    there = fleet(replica(of, 0, state_since=NOW), waiting=0)
    assert judge(there, there.replicas["web-0"], template(of), None, heard(), LATER).eligible == 1
    assert judge(there, there.replicas["web-0"], template(of), None, {}, LATER).eligible == 0


def test_explained() -> None:
    before = fleet(vm("a", cpus=3.0))
    pending = explain(before, "web-0", LATER, None, heard(primary_cpus=6.0))
    assert pending is not None
    assert pending.lines[0] == (
        "pending: 1 of 1 node: server srv1 would be at 70 % of its processors, above its threshold of 65 %"
    )
    told = explain(before, "a", LATER, None, heard())
    assert told is not None
    assert "free: 3 of 3 CPUs, 8 GiB of 8 GiB memory" in told.lines
    assert (
        "on lent capacity: virtual machine vm-a on server srv1, which takes 4 CPUs and 16 GiB of memory more, "
        "on all its virtual machines together"
    ) in told.lines
    full = explain(before, "a", LATER, None, {})
    assert full is not None
    assert any("which takes nothing more: server srv1 has not said anything yet" in line for line in full.lines)


def test_explained_why_a_replica_moves() -> None:
    of = asking()
    move = Reason(code="ServerNeeds", text="server srv1 needs back 1 processors")
    for move_by, text in [
        (0.0, "moves once its replacement is ready: server srv1 needs back 1 processors"),
        (LATER + 9, "moves within 9s, earlier if its replacement is ready: server srv1 needs back 1 processors"),
    ]:
        there = fleet(replica(of, 0, move=move, move_by=move_by), waiting=0)
        told = explain(there, "web-0", LATER, None, heard())
        assert told is not None
        assert text in told.lines
        assert replica_view(there, there.replicas["web-0"]).reason == f"has to move: {move.text}"


def test_a_summary_of_room_counts_no_more_than_servers_lend() -> None:
    before = fleet(vm("b"), node("b"), member("own"), waiting=0)
    found = summary_of(before, heard(offer_cpus=1.5, offer_memory_bytes=2 * GIB), LATER)
    assert (found.nodes, found.cpus, found.free_cpus) == (3, 12.0, 5.5)
    assert found.free_memory_bytes == 10 * GIB
    assert summary_of(before, {}, LATER).free_cpus == 4.0
