"""Caches and memory bandwidth of what is lent: the fake and the kernel's resctrl say and do the same.

The kernel's is a made-up one, which behaves as its sources say, and the real one where this machine has it.
"""

import os

import pytest
from made_up_resctrl import MadeUpResctrl

from fallow.drivers.limits.fake import FakeLimits
from fallow.drivers.limits.kernel import KernelLimits
from fallow.drivers.limits.resctrl import ROOT, KernelFiles, Resctrl
from testbed import cgroups

NAME = "fallow.slice"


class Lent:
    """What is lent: threads, which may be others, `then`, each time they are looked at again."""

    def __init__(self, *threads):
        self.now, self.then = set(threads), []

    def __call__(self):
        found = self.now
        if self.then:
            self.now = self.then.pop(0)
        return found


@pytest.fixture
def lent():
    return Lent(11, 12)


@pytest.fixture
def kernel():
    return MadeUpResctrl(alive=set(range(1, 20)))


@pytest.fixture
def classes(kernel, lent):
    return Resctrl(NAME, lent, kernel)


@pytest.fixture(params=["fake", "made up", pytest.param("kernel", marks=pytest.mark.real)])
def hold(request, classes):
    if request.param == "fake":
        yield FakeLimits().hold_classes
        return
    if request.param == "made up":
        yield classes.hold
        return
    if not KernelFiles().read("schemata"):
        pytest.skip(f"{ROOT} is not there or not mounted: no Intel RDT, AMD QoS or Arm MPAM on this machine")
    with cgroups.groups(1) as names:
        limits = KernelLimits(names[0])
        limits.prepare()
        yield limits.hold_classes
        limits.hold_classes(1.0, 1.0)


def test_what_is_asked_for_is_held_and_told_until_it_is_not_asked_for(hold):
    for _ in range(2):
        found = hold(0.5, 1.0)
        assert found.told and not found.problems
    assert hold(1.0, 1.0) == hold(1.0, 1.0)
    assert (hold(1.0, 1.0).told, hold(1.0, 1.0).problems) == ("", ())


def test_a_class_is_made_with_its_shares_and_all_threads(classes, kernel):
    found = classes.hold(0.2, 0.33)
    assert (found.told, found.problems) == ("4 of 20 ways of L3, 40% of memory bandwidth", ())
    assert kernel.classes == {NAME: {"L3": {0: 0xF, 1: 0xF}, "MB": {0: 40, 1: 40}}}
    assert kernel.inside(NAME) == {11, 12}


def test_the_same_again_writes_nothing_and_a_restart_takes_over(classes, kernel, lent):
    classes.hold(0.2, 0.3)
    kernel.writes.clear()
    for again in (classes, Resctrl(NAME, lent, kernel)):
        assert again.hold(0.2, 0.3).problems == ()
    assert kernel.writes == []


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("least", [0, 1, 2, 3])
def test_every_share_is_one_that_the_kernel_takes(kernel, lent, share, least):
    kernel.least_ways, kernel.ways = least, 11
    assert Resctrl(NAME, lent, kernel).hold(share, share).problems == ()


def test_code_and_data_are_both_held(kernel, lent):
    kernel.cdp = True
    assert Resctrl(NAME, lent, kernel).hold(0.1, 1.0).problems == ()
    assert kernel.classes[NAME]["L3CODE"] == kernel.classes[NAME]["L3DATA"] == {0: 3, 1: 3}


def test_what_comes_and_goes_is_followed(classes, kernel, lent):
    classes.hold(0.2, 0.3)
    lent.now = {12, 13}
    assert classes.hold(0.2, 0.3).problems == ()
    assert kernel.inside(NAME) == {12, 13} and 11 in kernel.inside("")


def test_threads_that_start_while_theirs_are_moved_are_moved_too(classes, kernel, lent):
    lent.then = [{11, 12, 13}, {11, 12, 13, 14}]
    assert classes.hold(0.2, 0.3).problems == ()
    assert kernel.inside(NAME) == {11, 12, 13, 14}


def test_a_thread_that_ends_meanwhile_is_no_problem(classes, kernel, lent):
    kernel.alive.discard(12)
    lent.then = [{11}]
    assert classes.hold(0.2, 0.3).problems == ()
    assert kernel.inside(NAME) == {11}


def test_threads_that_do_not_stay_are_told(classes, kernel):
    kernel.loses = True
    assert classes.hold(0.2, 0.3).problems == (f"2 of 2 threads of what is lent are not in the class {NAME}",)


def test_what_reads_back_as_something_else_is_told(classes, kernel):
    kernel.lies = "    L3:0=fffff;1=fffff\n    MB:0= 100;1= 100\n"
    found = classes.hold(0.2, 0.3)
    assert f"the class {NAME} has L3:0=fffff;1=fffff instead of L3:0=f;1=f" in found.problems
    assert f"the class {NAME} has MB:0=100;1=100 instead of MB:0=30;1=30" in found.problems
    assert found.told == "20 of 20 ways of L3, 100% of memory bandwidth"


def test_one_that_is_refused_is_told_in_the_kernels_words_and_the_other_holds(classes, kernel):
    kernel.exclusive = 0x3
    (problem,) = classes.hold(0.2, 0.3).problems
    assert problem == f"L3:0=f;1=f of the class {NAME} was refused: Invalid argument: Overlaps with exclusive group"
    assert kernel.classes[NAME]["MB"] == {0: 30, 1: 30}
    assert kernel.inside(NAME) == {11, 12}


def test_a_share_that_is_not_asked_for_any_more_goes_back_to_all_there_is(classes, kernel, lent):
    classes.hold(0.2, 0.3)
    for again in (classes, Resctrl(NAME, lent, kernel)):
        assert again.hold(0.2, 1.0).told == "4 of 20 ways of L3"
        assert kernel.classes[NAME]["MB"] == {0: 100, 1: 100}
        assert kernel.inside(NAME) == {11, 12}
        kernel.classes[NAME]["MB"] = {0: 30, 1: 30}  # as an agent before a restart had left it


def test_no_share_at_all_takes_the_class_away(classes, kernel):
    classes.hold(0.2, 0.3)
    assert classes.hold(1.0, 1.0).problems == ()
    assert kernel.classes == {} and kernel.inside("") == kernel.alive


def test_other_classes_are_left_alone(classes, kernel):
    kernel.make("theirs")
    kernel.write("theirs/tasks", "5\n")
    kernel.write("theirs/schemata", "L3:0=ff000\n")
    before = {name: dict(values) for name, values in kernel.classes["theirs"].items()}
    classes.hold(0.2, 0.3)
    classes.hold(1.0, 1.0)
    assert kernel.classes == {"theirs": before} and kernel.inside("theirs") == {5}


def test_where_no_class_is_left_that_is_told(classes, kernel):
    kernel.most = 1
    (problem,) = classes.hold(0.2, 0.3).problems
    assert problem == f"the class {NAME} cannot be made: No space left on device: Out of CLOSIDs"


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"there": False, "mounted": False}, "the kernel has no resctrl"),
        ({"mounted": False}, "mount -t resctrl resctrl /sys/fs/resctrl"),
        ({"ways": None, "full": None}, "not mounted, or this processor only counts"),
    ],
)
def test_where_nothing_can_be_divided_that_is_said_once_with_what_to_do(classes, kernel, lacks, told):
    for name, value in lacks.items():
        setattr(kernel, name, value)
    (problem,) = classes.hold(0.2, 0.3).problems
    assert told in problem and "--cache 100%" in problem
    assert classes.hold(1.0, 1.0).problems == () and kernel.writes == []


def test_one_that_cannot_be_divided_is_said_and_the_other_held(kernel, lent):
    kernel.ways = None
    found = Resctrl(NAME, lent, kernel).hold(0.2, 0.3)
    assert found.told == "30% of memory bandwidth"
    assert "L3 cache cannot be divided" in found.problems[0] and len(found.problems) == 1


def test_bandwidth_that_is_counted_in_amounts_is_left_alone(kernel, lent):
    kernel.full, kernel.least, kernel.step = 2048, 0, 1  # eighths of a GB/s, on AMD's processors
    found = Resctrl(NAME, lent, kernel).hold(0.2, 0.3)
    assert found.told == "4 of 20 ways of L3" and "in amounts here" in found.problems[0]
    assert kernel.classes[NAME]["MB"] == {0: 2048, 1: 2048}


@pytest.mark.real
def test_threads_of_the_control_group_are_those_of_the_class(kernel):
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nprint(flush=True)"
    with cgroups.groups(1) as (group,):
        limits = KernelLimits(group, resctrl=kernel)
        assert limits.prepare() == ()
        below = f"{group}/below"
        cgroups.make(below)
        child = cgroups.burn(below, f"import sys\nsys.stdout = open('/proc/self/fd/2', 'w')\n{code}")
        try:
            threads = f"/proc/{child.pid}/task"
            while len(os.listdir(threads)) < 2:
                assert child.poll() is None
            found = {int(name) for name in os.listdir(threads)}
            kernel.alive |= found
            assert limits.hold_classes(0.2, 1.0).problems == ()
            assert kernel.inside(group.strip("/").replace("/", "-")) == found
        finally:
            child.kill()
            child.wait()
