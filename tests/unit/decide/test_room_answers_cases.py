"""Room in cases a person can count; whatever the fleet, `tests/property/test_room_answers.py` says."""

import time

from lent_fleet import heard, node, server, vm
from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.federation.room_answers import answers_to, summary_of
from fallow.decide.federation.shapes import question_of
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, ReplicaState
from fallow.model.members import Facts, Lease, MemberState, Scheduling
from fallow.model.pools import PortRange
from fallow.model.rooms import RoomSummary


def asking(name: str = "ask", cpus: float = 1.0, ports: tuple[PortSpec, ...] = (), **placement: int) -> Deployment:
    spec = DeploymentSpec(
        container=ContainerSpec(image="shop:1", ports=ports, resources=Resources(cpus=cpus)),
        placement=PlacementPolicy(**placement),
    )
    return deployment(name, spec=spec)


def more(now: object, asked: Deployment) -> int:
    (answer,) = answers_to(now, (question_of(asked),))  # type: ignore[arg-type]
    return answer.more


def test_what_nodes_have_free_is_the_room() -> None:
    nodes = (member("a"), member("b"), member("c", scheduling=Scheduling.CORDONED), member("d", state=MemberState.DEAD))
    used = asking("used")
    now = snapshot(*nodes, used, template(used), replica(used, 0), replica(used, 1, ReplicaState.LEAVING))
    assert more(now, asking()) == 6
    assert more(now, asking(cpus=2.5)) == 1
    assert more(now, asking(max_per_node=1)) == 2
    assert more(now, asking("used", max_per_node=1)) == 1


def test_a_fixed_port_is_there_once_for_all_nodes_of_an_address() -> None:
    at = {"lease": Lease(address="10.0.0.1", host_ports=PortRange(first=20000, last=20001))}
    other = {"lease": Lease(address="10.0.0.1", host_ports=PortRange(first=20002, last=20003))}
    nodes = (member("a", **at), member("b", **other), member("c", lease=Lease(address="10.0.0.2")))
    assert more(snapshot(*nodes), asking(cpus=0.0, ports=(PortSpec(container=80, host=80),))) == 2
    assert more(snapshot(*nodes[:2]), asking(cpus=0.0, ports=(PortSpec(container=80),))) == 4


def test_what_a_share_orders_counts_before_it_has_replicas() -> None:
    used = asking("used")
    ordered = deployment("used", spec=used.spec, share=3)
    assert more(snapshot(member("a"), ordered, template(ordered)), asking()) == 1
    whole = deployment("used", spec=used.spec, share=3, deleting=True)
    assert more(snapshot(member("a"), whole, template(whole)), asking()) == 4
    failed = replica(ordered, 0, ReplicaState.FAILED)
    assert more(snapshot(member("a"), ordered, template(ordered), failed), asking()) == 2


def test_why_there_is_no_room_is_said() -> None:
    (answer,) = answers_to(snapshot(member("a")), (question_of(asking(cpus=5.0)),))
    assert answer.more == 0
    assert "not enough CPU (need 5, best has 4 free)" in answer.why
    (answer,) = answers_to(snapshot(), (question_of(asking()),))
    assert answer.why == "no node has joined yet"


def test_the_summary_is_of_nodes_that_take_something() -> None:
    used = asking("used", cpus=1.5)
    nodes = (member("a"), member("b", scheduling=Scheduling.DRAINING), member("c", state=MemberState.SUSPECT))
    found = summary_of(snapshot(*nodes, used, template(used), replica(used, 0)))
    assert found == RoomSummary(nodes=1, cpus=4.0, free_cpus=2.5, memory_bytes=8 * 2**30, free_memory_bytes=8 * 2**30)


def test_many_questions_about_many_nodes_are_soon_answered() -> None:
    nodes = [
        member(
            f"{n:04d}",
            id=f"n-{n:04d}",
            facts=Facts(cpus=32.0, memory_bytes=2**36),
            lease=Lease(address=f"10.0.{n // 250}.{n % 250}"),
        )
        for n in range(1000)
    ]
    questions = tuple(question_of(asking(cpus=0.5 + n / 100)) for n in range(100))
    now = snapshot(*nodes)
    began = time.process_time()
    answers = answers_to(now, questions)
    assert time.process_time() - began < 2.0  # a tenth of that on an idle machine
    assert answers[0].more == 64_000


def test_the_summary_tells_what_of_it_is_lent() -> None:
    now = snapshot(member("a"), server(), vm("b"), node("b"))
    found = summary_of(now, heard(offer_cpus=1.5), NOW)
    assert (found.nodes, found.free_cpus) == (2, 5.5)
    assert (found.lent_nodes, found.lent_free_cpus, found.lent_free_memory_bytes) == (1, 1.5, 8 * 2**30)
    assert summary_of(now, {}, NOW).lent_free_cpus == 0.0
