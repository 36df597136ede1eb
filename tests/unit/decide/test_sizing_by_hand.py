"""What an operator does to the virtual machines of a policy, and that the policy leaves it so."""

from records import NOW, ids, snapshot
from server_records import GIB, heard, server, vm

from fallow.decide.harvest.sizing import Offered, sizes
from fallow.decide.plan import Plan
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.vms import Vm, VmWish

ROOM = {"s-srv": Offered(least_bytes=16 * GIB, most_bytes=16 * GIB, whole=True)}


def made(*vms: Vm, count: int = 1) -> list[Vm]:
    """Return what the policy writes of virtual machines, with `count` wished on a server that offers 16 GiB."""
    policy = LendingPolicy(vms=VmPlan(count=count))
    pool = ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=policy)
    known = snapshot(server(), pool, *vms)
    said = {"s-srv": heard(offer_memory_bytes=16 * GIB)}
    plan = Plan(steps=list(sizes(known, said, ROOM, NOW, ids())))
    return [record for step in plan.steps for record in step.puts if isinstance(record, Vm)]


def test_a_size_given_by_hand_stays() -> None:
    (grown,) = made(vm(automatic=True))
    assert grown.memory_bytes == 16 * GIB
    assert made(vm(automatic=True, fixed=True)) == []


def test_the_others_share_what_a_size_given_by_hand_leaves() -> None:
    (other,) = made(vm(automatic=True, fixed=True, memory_bytes=10 * GIB), vm("b", automatic=True), count=2)
    assert (other.name, other.memory_bytes) == ("b", 6 * GIB)
    (new,) = made(vm(automatic=True, fixed=True, memory_bytes=10 * GIB), count=2)
    assert (new.name, new.memory_bytes) == ("srv-vm", 6 * GIB)


def test_none_is_made_in_place_of_one_that_is_stopped_or_drained_by_hand() -> None:
    assert made(vm(automatic=True, wanted=VmWish.STOPPED, fixed=True)) == []
    assert made(vm(automatic=True, draining=True, fixed=True)) == []
    (new,) = made(vm(automatic=True, wanted=VmWish.ABSENT, draining=True))
    assert new.id != "vm-a", "one that was deleted is made anew"
