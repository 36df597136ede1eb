"""How servers, their pools and virtual machines are shown, and explained."""

import msgspec
import pytest
from records import NOW, deployment, member, replica, snapshot, template
from server_records import GIB, heard, server, use, vm

from fallow.decide.explain import explain
from fallow.decide.harvest.heard import HeardServer
from fallow.decide.harvest.views import pool_views, server_view, vm_views
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.labels import Requirement, Selector
from fallow.model.members import MemberState, Scheduling
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending, PrimaryUse

RACK = Selector(requirements=(Requirement(key="rack", operator="in", values=("r7",)),))


def pool(name: str, selector: Selector = RACK, **policy: object) -> ServerPool:
    return ServerPool(id=name, created_at=NOW, updated_at=NOW, selector=selector, policy=LendingPolicy(**policy))  # type: ignore[arg-type]


def lent(**more: object) -> Lending:
    return Lending(id="s-srv", created_at=NOW, updated_at=NOW, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("records", "said", "told"),
    [
        ((server(), pool("default", lends=False)), heard(), "does not lend: its pool default says so"),
        ((server(scheduling=Scheduling.CORDONED),), heard(), "is cordoned"),
        ((server(), lent(closed="it shuts down")), heard(), "does not lend now: it shuts down"),
        ((server(state=MemberState.DEAD, state_reason="silent"),), heard(), "is dead: silent"),
        ((server(),), heard(lends=False), "does not lend now: it does not say why"),
        (
            (server(), lent(backoff_until=NOW + 0.2)),
            heard(),
            "is backing off until 13:46 UTC after sending replicas away",
        ),
        (
            (server(),),
            heard(primary_cpus=10.35),
            "would be at just over 65 % of its processors, above its threshold of 65 %",
        ),
        (
            (server(),),
            heard(offer_memory_bytes=0),
            "has no room: the smallest asks for 64 MiB of memory, offered are 0 B of which 0 B is taken",
        ),
        ((server(), lent(backoff_until=NOW, evictions=2)), heard(), ""),
    ],
)
def test_why_not_even_the_smallest_replica_may_go_there(
    records: tuple[object, ...], said: HeardServer, told: str
) -> None:
    known = snapshot(*records)  # type: ignore[arg-type]
    assert server_view(known, known.servers["s-srv"], said, NOW).why_not == told


def test_an_offer_is_never_shown_below_what_is_placed() -> None:
    of = deployment()
    asks = ContainerSpec(image="x", resources=Resources(cpus=2.0, memory_bytes=GIB))
    asked = msgspec.structs.replace(template(of), container=asks)
    known = snapshot(server(), vm(node_id="n-a"), member("a"), of, asked, replica(of, node_id="n-a"))
    little = server_view(known, known.servers["s-srv"], heard(offer_cpus=0.5, offer_memory_bytes=0), NOW)
    assert (little.offered_cpus, little.offered_memory_bytes) == (2.0, GIB)
    closed = server_view(known, known.servers["s-srv"], heard(offer_cpus=0.5, lends=False), NOW)
    assert (closed.offered_cpus, closed.offered_memory_bytes) == (0.0, 0)


def test_a_pool_counts_what_its_servers_said_of_late() -> None:
    servers = (server("a", labels={"rack": "r7"}), server("b", labels={"rack": "r7"}), server("c"))
    known = snapshot(*servers, pool("racks"))
    said = {"s-a": heard(), "s-b": heard(9.0), "s-c": heard(lends=False)}
    default, racks = pool_views(known, said)
    assert (racks.name, racks.servers, racks.cpus, racks.offered_cpus) == ("racks", ("a", "b"), 16.0, 8.0)
    assert (default.name, default.servers, default.offered_memory_bytes) == ("default", ("c",), 0)


def test_a_vm_whose_server_is_gone_is_still_shown() -> None:
    (found,) = vm_views(snapshot(vm()), (vm(),), {})
    assert (found.server, found.node, found.use) == ("s-srv", "", None)


def test_a_server_is_explained_from_its_policy_to_its_machines() -> None:
    primary = PrimaryUse(name="process:java", found=False, problem="no process is called so")
    said = heard(
        primary_cpus=12.0, lent_cpus=1.0, predicted_cpus=13.0, limit_cpus=0.8, throttled=0.9, relief_cpus=1.5,
        relief_seconds=61.0, primaries=(primary, PrimaryUse(name="cgroup:/shop", found=True, cpu_waiting=0.3)),
        predictor="learned margin", predictor_why="best on its history", vms=(use(),), problems=("a limit is off",),
        classes="4 of 20 ways of L3",
    )  # fmt: skip
    policy = pool("night", reserve_cpus=2.0, hours=("20:00-07:00",), timezone="Europe/Berlin")
    known = snapshot(server(labels={"rack": "r7"}), policy, vm(), lent(evictions=1, evicted_at=NOW - 60))
    told = explain(known, "srv", NOW, servers={"s-srv": said})
    assert told is not None
    for line in (
        "it gets nothing new: it would be at 82 % of its processors, above its threshold of 65 %",
        "it has sent away 1 replica, last 1m ago",
        "offers 8.0 processors: 16 x 65% - 13.0 that the primary may need - 2 in reserve, smoothed; 0 are taken",
        "admits 0.0 more of processors: 13.0 are used (81%) and 0.0 on the way of at most 10.4 (65%); "
        "0.0 asked for of 8.0 offered",
        "1.5 processors and 0 B have to go, since 1m1s",
        "predicted by learned margin: best on its history",
        "what is lent is held to 4 of 20 ways of L3",
        "primary process:java is not found: no process is called so",
        "primary cgroup:/shop uses 0.0 processors and 0 B, waits 30% for processors",
        "problem: a limit is off",
        "virtual machine a: waiting, 4 processors and 8 GiB, 0 replicas",
        "lends by the pool night: 20:00-07:00 (Europe/Berlin)",
    ):
        assert line in told.lines, (line, told.lines)


def test_what_is_old_is_said_to_be() -> None:
    told = explain(snapshot(server()), "srv", NOW, servers={"s-srv": heard(30.0, memory_bytes=64 * GIB)})
    assert told is not None
    assert "it gets nothing new: it has said nothing for more than 5 s, so it counts as full" in told.lines
    assert "the figures below are 30s old" in told.lines
    alone = explain(snapshot(server()), "srv", NOW)
    assert alone is not None
    assert "it gets nothing new: it has not said anything yet, so it counts as full" in alone.lines
