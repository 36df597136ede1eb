"""What becomes of one virtual machine, step by step."""

from dataclasses import replace

import msgspec
import pytest

from fallow.decide.agent.balloons import divided
from fallow.decide.agent.vms import (
    ASK_SECONDS,
    GRACE_SECONDS,
    HALT_SECONDS,
    JOIN_SECONDS,
    TOKEN_SECONDS,
    Grant,
    Instruction,
    Seen,
    VmMachines,
)
from fallow.model.vms import VmOrder, VmState, VmWish

GIB = 2**30
ORDER = VmOrder(
    vm_id="a", name="vm1", cpus=1.0, memory_bytes=GIB, disk_bytes=GIB, image="default", wanted=VmWish.RUNNING
)
RUNS = Seen(vm_id="a", status="running", cpus=1.0, memory_bytes=GIB)
SEEDED = replace(RUNS, seeded=True)
GRANT = Grant(url="https://c:7443", token="t1")


def machine(*seen: Seen, order: VmOrder | None = ORDER, now: float = 0.0) -> VmMachines:
    made = VmMachines()
    made.ordered([order] if order is not None else [])
    made.surveyed("vm", seen, now, now)
    return made


def changed(**fields: object) -> VmOrder:
    return msgspec.structs.replace(ORDER, **fields)  # type: ignore[arg-type]


def actions(instructions: list[Instruction]) -> list[str]:
    return [each.action for each in instructions]


def test_from_an_order_to_a_node():
    vms = machine()
    (prepare,) = vms.next(0)
    assert prepare.action == "prepare"
    assert vms.state(ORDER, 0) == (VmState.PREPARING, "")
    assert vms.next(1) == []
    vms.done(prepare, 1)
    assert actions(vms.next(1)) == ["ask"]
    assert vms.next(2) == []
    vms.granted("a", GRANT, "", 3)
    (start,) = vms.next(3)
    assert (start.action, start.grant) == ("start", GRANT)
    assert vms.state(ORDER, 3) == (VmState.STARTING, "")
    vms.done(start, 4)
    assert vms.next(5) == []
    assert vms.state(ORDER, 5) == (VmState.STARTING, "")
    vms.ordered([changed(joined=True)])
    (clear,) = vms.next(6)
    assert clear.action == "clear"
    vms.done(clear, 7)
    assert vms.next(8) == []
    assert vms.state(ORDER, 8) == (VmState.RUNNING, "")


def test_nothing_is_touched_before_it_is_known_what_is_ordered():
    vms = VmMachines()
    vms.surveyed("vm", [RUNS], 0, 0)
    assert vms.next(0) == []


def test_nothing_is_made_before_it_is_known_what_is_there():
    vms = VmMachines()
    vms.ordered([ORDER])
    assert vms.next(0) == []


def test_what_nobody_ordered_goes():
    assert actions(machine(RUNS, order=None).next(0)) == ["destroy"]


def test_an_absent_one_ends_and_is_forgotten():
    order = changed(wanted=VmWish.ABSENT)
    vms = machine(RUNS, order=order)
    (destroy,) = vms.next(0)
    assert vms.state(order, 0)[0] is VmState.STOPPING
    vms.done(destroy, 1)
    assert vms.state(order, 1)[0] is VmState.STOPPED
    assert vms.next(2) == []


def test_a_node_that_was_to_go_is_gone_without_a_problem():
    order = changed(wanted=VmWish.ABSENT, joined=True)
    vms = machine(RUNS, order=order)
    (destroy,) = vms.next(0)
    vms.done(destroy, 1)
    assert vms.state(order, 1) == (VmState.STOPPED, "")


def test_one_that_has_joined_is_never_made_anew():
    order = changed(joined=True)
    vms = machine(order=order)
    assert vms.next(0) == []
    state, problem = vms.state(order, 0)
    assert state is VmState.FAILED
    assert "its disk is gone" in problem
    vms.ordered([ORDER])  # an older order, which does not know it
    assert vms.next(1) == []


def test_one_that_the_journal_knows_to_have_joined_needs_no_token():
    vms = VmMachines()
    vms.ordered([ORDER], joined=["a"])
    vms.surveyed("vm", [Seen(vm_id="a")], 0, 0)
    (start,) = vms.next(0)
    assert (start.action, start.grant) == ("start", None)


def test_a_token_that_is_lost_is_asked_for_again():
    vms = machine(Seen(vm_id="a"))
    assert actions(vms.next(0)) == ["ask"]
    assert vms.next(ASK_SECONDS - 1) == []
    assert actions(vms.next(ASK_SECONDS)) == ["ask"]


def test_a_newer_token_makes_it_start_again():
    vms = machine(Seen(vm_id="a"))
    vms.granted("a", GRANT, "", 0)
    (start,) = vms.next(0)
    vms.done(start, 1)
    newer = replace(GRANT, token="t2")
    vms.granted("a", newer, "", 2)
    (stop,) = vms.next(2)
    assert (stop.action, stop.grace_seconds) == ("stop", 0.0)
    vms.done(stop, 3)
    (again,) = vms.next(3)
    assert (again.action, again.grant) == ("start", newer)


def test_one_that_does_not_join_is_told_and_started_again_with_another_token():
    vms = machine(SEEDED)
    assert vms.next(1) == []
    assert "has not joined" in vms.state(ORDER, JOIN_SECONDS / 2)[1]
    (stop,) = vms.next(JOIN_SECONDS)
    assert stop.action == "stop"
    vms.done(stop, JOIN_SECONDS)
    assert actions(vms.next(JOIN_SECONDS)) == ["ask"]


def test_a_refused_token_is_told_and_asked_for_later_and_later():
    vms = machine(Seen(vm_id="a"))
    vms.next(0)
    vms.granted("a", None, "no such machine", 1)
    assert vms.state(ORDER, 1) == (VmState.FAILED, "no such machine")
    assert actions(vms.next(ASK_SECONDS + 1)) == ["ask"]


def test_failures_are_told_and_tried_again_later_and_later():
    vms, now, waits = machine(), 0.0, []
    for _ in range(12):
        (prepare,) = vms.next(now)
        vms.failed(prepare, "no space", now)
        assert vms.state(ORDER, now) == (VmState.FAILED, "no space")
        begun = now
        while not vms.next(now):
            now += 1
        waits.append(now - begun)
        vms._held["vm", "a"].flight = None
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == 300


def test_stop_and_start_by_order():
    vms = machine(RUNS, order=changed(joined=True))
    vms.ordered([changed(joined=True, wanted=VmWish.STOPPED)])
    (stop,) = vms.next(0)
    assert (stop.action, stop.grace_seconds) == ("stop", GRACE_SECONDS)
    assert vms.state(changed(joined=True), 0)[0] is VmState.STOPPING
    vms.ordered([changed(joined=True)])
    assert vms.state(changed(joined=True), 0)[0] is VmState.STOPPING, "what has begun goes on, whatever is wanted since"
    vms.ordered([changed(joined=True, wanted=VmWish.STOPPED)])
    vms.done(stop, 1)
    assert vms.next(2) == []
    vms.ordered([changed(joined=True)])
    assert actions(vms.next(3)) == ["start"]


@pytest.mark.parametrize("order", [changed(cpus=2.0, joined=True), changed(memory_bytes=2 * GIB, joined=True)])
def test_another_size_is_given_once(order: VmOrder):
    vms = machine(RUNS, order=order)
    (resize,) = vms.next(0)
    assert resize.action == "resize"
    vms.done(resize, 1, "from its next start on")
    vms.surveyed("vm", [RUNS], 2, 2)
    assert vms.next(3) == []
    assert vms.state(order, 3) == (VmState.RUNNING, "from its next start on")
    vms.ordered([changed(cpus=3.0, joined=True)])
    assert actions(vms.next(4)) == ["resize"]


def test_what_waits_for_a_next_start_that_never_comes_is_no_problem():
    vms = machine(RUNS, order=changed(memory_bytes=2 * GIB, joined=True))
    (resize,) = vms.next(0)
    gone = changed(memory_bytes=2 * GIB, joined=True, wanted=VmWish.ABSENT)
    vms.ordered([gone])  # while the other is on its way
    vms.done(resize, 1, "from its next start on")
    (destroy,) = vms.next(2)
    vms.done(destroy, 3)
    assert vms.state(gone, 4) == (VmState.STOPPED, "")


def test_a_survey_from_before_says_nothing():
    vms = machine(Seen(vm_id="a"), order=changed(joined=True))
    (start,) = vms.next(0)
    vms.surveyed("vm", [], 1, 2)
    vms.done(start, 3)
    vms.surveyed("vm", [Seen(vm_id="a")], 2, 4)
    assert vms.next(5) == []
    assert vms.state(ORDER, 5)[0] is VmState.RUNNING


def test_a_hypervisor_that_is_away_changes_nothing_and_is_told():
    vms = machine(RUNS, order=changed(joined=True))
    vms.lost("vm", "libvirt does not answer")
    vms.ordered([changed(joined=True, wanted=VmWish.STOPPED)])
    assert vms.next(1) == []
    assert vms.state(ORDER, 1) == (VmState.STOPPING, "libvirt does not answer")
    vms.surveyed("vm", [RUNS], 2, 2)
    assert actions(vms.next(3)) == ["stop"]


def test_a_paused_one_goes_on_and_its_problem_is_told():
    vms = machine(replace(RUNS, status="paused", problem="the disk is full"), order=changed(joined=True))
    assert "the disk is full" in vms.state(ORDER, 0)[1]
    assert actions(vms.next(0)) == ["start"]


def test_a_paused_one_that_has_not_joined_goes_on_with_what_it_has():
    (start,) = machine(replace(SEEDED, status="paused")).next(0)
    assert (start.action, start.grant) == ("start", None)


def test_a_token_that_lay_unused_for_long_is_not_used():
    vms = machine(Seen(vm_id="a"))
    vms.granted("a", GRANT, "", 0)
    assert actions(vms.next(TOKEN_SECONDS)) == ["ask"]


def test_one_that_ends_soon_after_each_start_is_started_later_and_later():
    vms = machine(RUNS, order=changed(joined=True), now=0)
    vms.surveyed("vm", [Seen(vm_id="a")], 5, 5)
    assert vms.next(6) == []
    assert "ended by itself" in vms.state(ORDER, 6)[1]
    assert actions(vms.next(8)) == ["start"]


def test_an_emergency_stops_the_lowest_rank_for_a_while():
    vms = VmMachines()
    orders = [changed(vm_id=each, rank=rank, joined=True) for each, rank in (("a", 2), ("b", 1), ("c", 2))]
    vms.ordered(orders)
    vms.surveyed("vm", [replace(RUNS, vm_id=order.vm_id) for order in orders], 0, 0)
    assert vms.halt(1) == "b"
    (stop,) = vms.next(1)
    assert stop.vm_id == "b"
    vms.done(stop, 2)
    assert vms.next(3) == []
    assert actions(vms.next(HALT_SECONDS + 2)) == ["start"]


def test_closing_stops_all_until_opened():
    vms = machine(RUNS, order=changed(joined=True))
    vms.close(True)
    (stop,) = vms.next(0)
    vms.done(stop, 1)
    assert vms.stopped
    assert vms.next(2) == []
    vms.close(False)
    assert actions(vms.next(3)) == ["start"]


def test_tokens_stay_out_of_what_is_written():
    assert "t1" not in repr(GRANT)


def test_memory_is_divided_in_proportion_but_for_the_least_of_each():
    sizes, least = {"a": 100, "b": 200, "c": 300}, {"a": 25, "b": 50, "c": 75}
    assert divided(600, sizes, least) == sizes
    assert divided(1000, sizes, least) == sizes
    assert divided(300, sizes, least) == {"a": 50, "b": 100, "c": 150}
    assert divided(0, sizes, least) == least
    assert divided(300, sizes, {"a": 100, "b": 0, "c": 0}) == {"a": 100, "b": 80, "c": 120}
    assert divided(0, {}, {}) == {}
