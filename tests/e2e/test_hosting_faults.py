"""What can go wrong on a server that lends, on real parts: killed, blind, without its primary, and on its way out.

The tests follow each other on one server, a control group of this machine, with a control group as its machine, and on
one node beside it; those after which a server offers little for minutes come last.
"""

import time
from collections.abc import Iterator

import pytest
from joined import no_request_fails
from lender import OTHER, SERVER, VM, Lender, logs, serving

from fallow.client.api import Client
from fallow.drivers.machine.groups import MachineGroups
from fallow.model.members import MemberState, Scheduling
from fallow.model.servers import STALE_SECONDS
from fallow.model.vms import VmState, VmView
from testbed import processes

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
REACTION_SECONDS = 1.5
FLOOR_CPUS = 0.05
LOW_CPUS = 0.3
SILENT_SECONDS = STALE_SECONDS + 0.5
PLAIN = """
services:
  plain:
    image: {image}
    stop_grace_period: 1s
    x-fallow: {{class: standard}}
"""
SEEN_SECONDS = 4.0  # reports come once a second; the rest is for a busy machine


@pytest.fixture(scope="module")
def lender() -> Iterator[Lender]:
    with serving(2**30) as found:
        yield found


def limited(lender: Lender, most: float, seconds: float) -> float:
    """Return how long it took until what is lent may use so few processors; fails after `seconds`."""
    began = time.monotonic()
    processes.wait_until(lambda: lender.limit() <= most, seconds, f"a limit of {most} processors")
    return time.monotonic() - began


def over() -> str:
    """Return lending hours that are over for today."""
    hour = time.gmtime(time.time() - 3 * 3600).tm_hour
    return f"{hour:02}:00-{(hour + 1) % 24:02}:00"


def all_gone(lender: Lender, client: Client) -> bool:
    vm = lender.vm(client)
    return vm is not None and vm.state is VmState.STOPPED and not lender.lent_processes()


def test_a_node_that_claims_to_be_a_servers_machine_is_a_node_like_any_other(lender: Lender, client: Client) -> None:
    claims, real = client.member(OTHER), client.member(VM)
    assert not {"fallow.server", "fallow.vm"} & claims.labels.keys()
    assert (real.labels["fallow.server"], real.labels["fallow.vm"], real.labels["region"]) == (SERVER, VM, "west")
    lender.cluster.deploy(PLAIN.format(image=lender.cluster.image), project="plain")
    assert {replica.node for replica in client.replicas("plain", "plain").items} == {OTHER}
    client.delete_deployment("plain", "plain")


def test_without_its_primary_a_server_keeps_what_it_has_and_gets_nothing_new(lender: Lender, client: Client) -> None:
    lender.home(client)
    lender.end()
    lender.cluster.wait(lambda: "not found" in lender.view(client).why_not, SEEN_SECONDS, "a primary that is missing")
    assert lender.primary in lender.view(client).why_not
    report = lender.view(client).report
    assert report is not None
    assert (report.offer_cpus, report.offer_memory_bytes, report.relief_cpus) == (0, 0, 0)
    assert lender.where(client) == [VM, VM]
    lender.begin()
    lender.cluster.wait(lambda: lender.lends(client), SEEN_SECONDS, "a primary that is back")
    assert lender.where(client) == [VM, VM]


def test_a_machine_made_by_hand_is_resized_stopped_started_drained_and_deleted(lender: Lender, client: Client) -> None:
    cluster, groups = lender.cluster, MachineGroups(lender.lent.strip("/"))

    def there() -> VmView | None:
        return next((found for found in client.vms.all(SERVER).items if found.name == "extra"), None)

    def runs() -> bool:
        found = there()
        return found is not None and found.state is VmState.RUNNING and bool(found.node)

    cluster.fallow("vm", "create", SERVER, "--name", "extra", "--cpus", "0.2", "--memory", "256MiB")
    cluster.wait(runs, 40, "the machine that was made by hand")
    cluster.wait_ready("extra")
    made, node = there(), client.member("extra")
    assert made is not None
    assert (made.automatic, node.labels["fallow.size"]) == (False, "0.2cpu-256MiB")
    group = f"fallow-{made.id}.slice"
    assert groups.quota(group) == 0.2

    cluster.fallow("vm", "resize", "extra", "--cpus", "0.3")
    cluster.wait(lambda: groups.quota(group) == 0.3, 20, "a limit of 0.3 processors")
    cluster.fallow("vm", "stop", "extra")
    cluster.wait(lambda: not groups.processes(group), 30, "nothing that runs there")
    cluster.fallow("vm", "start", "extra")
    cluster.wait(runs, 40, "the machine back")
    cluster.wait_ready("extra")
    assert client.member("extra").id == node.id
    cluster.fallow("vm", "drain", "extra", "--timeout", "30s")
    assert client.member("extra").scheduling is Scheduling.DRAINING
    cluster.fallow("vm", "delete", "extra", "--timeout", "60s")
    assert there() is None
    assert groups.quota(group) is None


@pytest.mark.parametrize("why", ["drained", pytest.param("hours", marks=pytest.mark.slow)])
def test_what_a_server_lends_leaves_before_its_machines_stop(lender: Lender, client: Client, why: str) -> None:
    lender.home(client)
    with no_request_fails(lender.cluster.http_port):
        if why == "drained":
            lender.schedule(client, SERVER, Scheduling.DRAINING)
        else:
            lender.policy(client, hours=(over(),))
        lender.wait_where(client, OTHER, OTHER)
        lender.cluster.wait(lambda: all_gone(lender, client), 15, "no machine runs")
    assert why in lender.view(client).why_not or "drain" in lender.view(client).why_not
    if why == "drained":
        lender.schedule(client, SERVER, Scheduling.ACTIVE)
    else:
        lender.policy(client, hours=())
    lender.cluster.wait(lambda: lender.lends(client) and lender.runs(client), 30, "its machine is back")
    lender.cluster.wait_ready(VM)


@pytest.mark.slow
def test_an_agent_that_drains_as_it_stops_lets_all_leave_first(lender: Lender, client: Client) -> None:
    lender.kill_agent()
    lender.join("--drain-on-stop")
    lender.cluster.wait(lambda: lender.lends(client), 20, "the next agent lends")
    lender.home(client)
    with no_request_fails(lender.cluster.http_port):
        lender.process.terminate()
        assert lender.process.wait(60) == 0
        assert lender.where(client) == [OTHER, OTHER]
        assert not lender.lent_processes()
        lender.join()
        lender.cluster.wait(lambda: lender.lends(client) and lender.runs(client), 30, "its machine is back")
        lender.cluster.wait_ready(VM)


def test_an_agent_that_is_killed_leaves_all_as_it_is_and_the_next_takes_it_over(lender: Lender, client: Client) -> None:
    lender.home(client)
    node, containers, agent = client.member(VM), lender.cluster.containers(SERVER), lender.machine_agent(client)
    held = lender.limit()
    with no_request_fails(lender.cluster.http_port):
        lender.kill_agent()
        assert lender.limit() == held > FLOOR_CPUS
        time.sleep(SILENT_SECONDS)
        assert lender.limit() == held
        assert lender.machine_agent(client) == agent
        assert lender.view(client).why_not  # nothing new to a server that is silent
        lender.join()
        lender.cluster.wait(lambda: lender.lends(client) and lender.runs(client), 20, "the next agent lends")
    after = client.member(VM)
    assert (after.state, after.state_since) == (MemberState.READY, node.state_since), "its node has noticed something"
    assert lender.machine_agent(client) == agent
    assert lender.cluster.containers(SERVER) == containers
    assert lender.where(client) == [VM, VM]


def test_a_server_that_cannot_measure_itself_is_full(lender: Lender, client: Client) -> None:
    with lender.blind():
        limited(lender, FLOOR_CPUS + 0.01, 8)
        lender.cluster.wait(lambda: "measured" in lender.view(client).why_not, SEEN_SECONDS, "a blind server")
        assert lender.view(client).offered_cpus == 0
    lender.cluster.wait(lambda: lender.lends(client), SEEN_SECONDS, "a server that measures")
    assert lender.where(client) == [VM, VM]


def test_a_jump_is_met_while_the_control_plane_is_dead(lender: Lender, client: Client) -> None:
    lender.policy(client, cpu_threshold=0.4, cpu_ceiling=0.5)
    lender.cluster.wait(lambda: 0.7 < lender.limit() < 1.0, 20, "a limit far from the floor")
    lender.cluster.kill_server()
    try:
        assert lender.reaction(LOW_CPUS) < REACTION_SECONDS
        lender.calm()
    finally:
        lender.cluster.start_server()
    lender.cluster.wait(lambda: lender.lends(client) and lender.limit() > 0.7, 30, "all as before")
    assert lender.where(client) == [VM, VM]
    assert not logs(lender.cluster)
