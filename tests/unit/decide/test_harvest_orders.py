"""What a server is told of its virtual machines, and what closes it."""

from typing import Any

import msgspec
import pytest
from records import NOW, deployment, ids, member, replica, snapshot, template
from server_records import server, vm

from fallow.decide.harvest.leaving import closings, leaving_step
from fallow.decide.harvest.orders import closed, orders_of
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import PlacementPolicy, ReplicaState
from fallow.model.members import AgentRun, Lease, MemberState, Scheduling
from fallow.model.pools import NetworkMode, PortRange
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending
from fallow.model.vms import VmOrder, VmWish

SHOP = deployment()


def told(*records: Any, **changes: Any) -> VmOrder:
    """Return the order of a virtual machine whose node is `n-a`."""
    (order,) = orders_of(snapshot(server(), vm(**({"node_id": "n-a"} | changes)), *records), server()).vms
    return order


@pytest.mark.parametrize("wish", [VmWish.STOPPED, VmWish.ABSENT])
def test_nothing_stops_under_what_still_runs_or_may_come(wish: VmWish) -> None:
    drained = member("a", scheduling=Scheduling.DRAINING)
    held = replica(SHOP, node_id="n-a")
    assert told(member("a"), wanted=wish).wanted is VmWish.RUNNING  # somebody may just place something there
    assert told(member("a", scheduling=Scheduling.CORDONED), held, wanted=wish).wanted is VmWish.RUNNING
    assert told(drained, held, wanted=wish).wanted is VmWish.RUNNING
    for state in (ReplicaState.LEAVING, ReplicaState.STOPPING):
        assert told(drained, replica(SHOP, state=state, node_id="n-a"), wanted=wish).wanted is VmWish.RUNNING
    assert told(drained, replica(SHOP, state=ReplicaState.STOPPED, node_id="n-a"), wanted=wish).wanted is wish
    assert told(member("a", state=MemberState.DEAD), wanted=wish).wanted is wish
    assert told(wanted=wish).wanted is wish  # its node was removed
    assert told(wanted=wish, node_id="").wanted is wish  # it has never joined


def test_ports_lead_to_a_node_that_is_reached_at_its_servers_address() -> None:
    lease = Lease(address="10.0.0.1", host_ports=PortRange(first=21000, last=21999), agent_port=8456)
    there = msgspec.structs.replace(server(), lease=lease)

    def ports(found: Lease, **changes: Any) -> tuple[PortRange, ...]:
        node = member("a", lease=found)
        return orders_of(snapshot(there, vm(node_id="n-a", **changes), node), there).vms[0].ports

    assert ports(lease) == (lease.host_ports, PortRange(first=8456, last=8456))
    assert ports(msgspec.structs.replace(lease, agent_port=0)) == (lease.host_ports,)
    assert ports(lease, isolation="cgroup") == ()  # it publishes on the server itself
    assert ports(msgspec.structs.replace(lease, address="10.0.0.2")) == ()  # it is on a bridge
    assert ports(msgspec.structs.replace(lease, mode=NetworkMode.WIREGUARD)) == ()
    assert told().ports == ()  # its node was removed


def test_it_has_joined_once_its_node_has_had_a_session() -> None:
    assert not told(node_id="").joined
    assert not told(member("a", state=MemberState.JOINING)).joined  # it may have ended before it heard who it is
    for state in (MemberState.READY, MemberState.SUSPECT, MemberState.DEAD):
        assert told(member("a", state=state)).joined
    assert told().joined  # its node was removed: it does not join again


def test_the_rank_is_that_of_the_best_it_holds() -> None:
    shop = template(SHOP)
    spot = msgspec.structs.replace(shop, id="spot", placement=PlacementPolicy(service_class="spot"))
    harvest = msgspec.structs.replace(shop, id="harvest", placement=PlacementPolicy(service_class="harvest"))
    on = [
        replica(SHOP, number, node_id="n-a", template_id=of)
        for number, of in enumerate(("spot", "spot", "harvest", shop.id))
    ]
    records = (member("a"), shop, spot, harvest)
    assert [told(*records, *on[:count]).rank for count in range(4)] == [0, 1, 1, 2]
    assert told(*records, on[3]).rank == told(*records, on[2]).rank == 2
    assert told(member("a"), on[0]).rank == 2  # what is not known is not given up first


def test_what_is_placed_is_told_and_nothing_runs_on_nothing() -> None:
    asks = ContainerSpec(image="a", resources=Resources(cpus=1.5))
    shop = msgspec.structs.replace(template(SHOP), container=asks)
    idle = msgspec.structs.replace(template(SHOP), id="idle")
    on = [replica(SHOP, number, node_id="n-a", template_id=of) for number, of in enumerate((shop.id, shop.id, "idle"))]
    assert told(member("a"), shop, idle, *on).asked_cpus == pytest.approx(3.1)
    assert told(member("a")).asked_cpus == 0.0


def test_an_empty_vm_of_a_closed_server_stops_for_that_time() -> None:
    drained = server(scheduling=Scheduling.DRAINING)
    held = replica(SHOP, node_id="n-a")
    for records, wanted in (((), VmWish.STOPPED), ((held,), VmWish.RUNNING)):
        orders = orders_of(snapshot(drained, vm(node_id="n-a"), member("a"), *records), drained)
        assert (orders.closed, orders.vms[0].wanted) == ("it is drained by an operator", wanted)
    absent = vm(node_id="n-a", wanted=VmWish.ABSENT)
    dead = member("a", state=MemberState.DEAD)
    assert orders_of(snapshot(drained, absent, dead), drained).vms[0].wanted is VmWish.ABSENT


def run(instance: str, at: float = NOW) -> AgentRun:
    return AgentRun(instance=instance, at=at)


@pytest.mark.parametrize(
    ("runs", "gone"),
    [
        ((), True),
        ((run("old"),), True),  # the start that spoke is not on record yet
        ((run("old"), run("it")), True),
        ((run("it"), run("new")), False),
        ((run("new", NOW + 60),), False),  # another machine has its place, or it was let in again
    ],
)
def test_who_said_that_it_shuts_down_is_closed_until_another_start_speaks(
    runs: tuple[AgentRun, ...], gone: bool
) -> None:
    there = server(runs=runs)
    lending = Lending(id=there.id, created_at=NOW, updated_at=NOW + 1, leaving="power", left_by="it", closed="x")
    now = snapshot(there, lending)
    assert closed(now, there) == ("it shuts down: power" if gone else "")
    (step,) = closings(now, NOW + 100, ids())
    changed = next(record for record in step.puts if isinstance(record, Lending))
    assert (changed.leaving, changed.left_by) == (("power", "it") if gone else ("", ""))
    after = snapshot(there, msgspec.structs.replace(changed, revision=2))
    assert not list(closings(after, NOW + 200, ids()))


def test_only_a_start_that_was_not_followed_closes_a_server() -> None:
    there = server(runs=(run("old"), run("new")))
    for instance in ("", "old"):
        assert leaving_step(snapshot(there), there.id, instance, "power", NOW, ids()) is None
    assert leaving_step(snapshot(), there.id, "new", "power", NOW, ids()) is None
    step = leaving_step(snapshot(there), there.id, "new", " ", NOW, ids())
    assert step is not None
    assert isinstance(step.puts[0], Lending)
    assert step.puts[0].leaving == "its host stops"
    assert leaving_step(snapshot(there, step.puts[0]), there.id, "new", "again", NOW, ids()) is None


def test_a_policy_that_lends_nothing_closes_the_servers_of_its_pool_alone() -> None:
    kept = ServerPool(id="default", created_at=0, updated_at=0, policy=LendingPolicy(lends=False))
    assert closed(snapshot(server(), kept), server()) == "its server pool default lends nothing"
    assert closed(snapshot(server()), server()) == ""
