"""Sizes of automatic virtual machines: never below what is placed, at rest when the offer only trembles, convergent."""

from collections.abc import Callable
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from records import NOW, deployment, ids, kept, member, replica, snapshot, template
from server_records import GIB, heard, server

from fallow.decide.harvest.sizing import GRAIN_BYTES, LEAST_BYTES, WINDOW_SECONDS, Offers, sizes
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec, Replica
from fallow.model.meta import Record
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm, VmWish

SECONDS = 30.0  # between two looks


class Site:
    """One server, its virtual machines and what is placed on them; writes are made as they are decided."""

    def __init__(self, plan: VmPlan, new_id: Callable[[], str] | None = None) -> None:
        self.now, self.offers, self.new_id = NOW, Offers(), new_id or ids()
        self.plan, self.lends = plan, True
        self.vms: dict[str, Vm] = {}
        self.shop = deployment(spec=DeploymentSpec(container=ContainerSpec(image="a", resources=Resources())))
        self.replicas: dict[str, Replica] = {}
        self.templates: dict[str, Record] = {}
        self.writes = 0

    def snapshot(self) -> Snapshot:
        pool = ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(vms=self.plan))
        nodes = [member(vm.name, id=vm.node_id) for vm in self.vms.values()]
        records = (server(), pool, *self.vms.values(), *nodes, *self.replicas.values(), *self.templates.values())
        return snapshot(*records)

    def look(self, offer_bytes: int) -> int:
        """Hear an offer and do what follows; return how many writes that were."""
        self.now += SECONDS
        servers = {"s-srv": heard(offer_memory_bytes=offer_bytes, lends=self.lends)}
        self.offers.note(servers, self.now)
        steps = list(sizes(self.snapshot(), servers, self.offers.over(self.now), self.now, self.new_id))
        for step in steps:
            for record in kept(step.puts):
                assert isinstance(record, Vm)
                node_id = record.node_id or f"n-{record.id}"  # it joins at once
                self.vms[record.id] = msgspec.structs.replace(record, node_id=node_id, revision=1)
        for vm in [vm for vm in self.vms.values() if vm.wanted is VmWish.ABSENT]:
            if not self.on(vm):
                del self.vms[vm.id]
        self.writes += len(steps)
        return len(steps)

    def settle(self, offer_bytes: int) -> None:
        for _ in range(int(2 * WINDOW_SECONDS / SECONDS)):
            self.look(offer_bytes)

    def on(self, vm: Vm) -> list[Replica]:
        return [found for found in self.replicas.values() if found.node_id == vm.node_id]

    def place(self, vm: Vm, cpus: float, memory_bytes: int) -> None:
        """Place a replica where it fits, as placement does."""
        placed_cpus, placed_bytes = self.placed(vm)
        if placed_cpus + cpus > vm.cpus or placed_bytes + memory_bytes > vm.memory_bytes or vm.draining:
            return
        number = len(self.templates) + 1
        made = template(self.shop, number)
        container = ContainerSpec(image="a", resources=Resources(cpus=cpus, memory_bytes=memory_bytes))
        self.templates[made.id] = msgspec.structs.replace(made, container=container)
        one = replica(self.shop, number, node_id=vm.node_id, template_id=made.id)
        self.replicas[one.id] = one

    def placed(self, vm: Vm) -> tuple[float, int]:
        found = [self.templates[one.template_id].container.resources for one in self.on(vm)]  # type: ignore[attr-defined]
        return sum(asked.cpus for asked in found), sum(asked.memory_bytes for asked in found)


class Sizing(RuleBasedStateMachine):
    """Offers, policies and placements in any order."""

    @initialize(count=st.integers(0, 3), cpus=st.sampled_from([0, 2]), memory=st.sampled_from([0, 3 * GIB]))
    def begin(self, count: int, cpus: float, memory: int) -> None:
        self.site = Site(VmPlan(count=count, cpus=cpus, memory_bytes=memory))
        self.offer = 16 * GIB

    @rule(count=st.integers(0, 3), cpus=st.sampled_from([0, 0, 1]), memory=st.sampled_from([0, 0, 2 * GIB]))
    def another_policy(self, count: int, cpus: float, memory: int) -> None:
        self.site.plan = VmPlan(count=count, cpus=cpus, memory_bytes=memory)

    @rule(offer=st.integers(0, 64), looks=st.sampled_from([1, 3, 70]))
    def another_offer(self, offer: int, looks: int) -> None:
        self.offer = offer * GIB // 2
        for _ in range(looks):
            self.site.look(self.offer)
            self.holds()

    @rule(lends=st.booleans())
    def hours(self, lends: bool) -> None:
        self.site.lends = lends

    @rule(cpus=st.sampled_from([0.25, 1.0, 2.0]), memory=st.integers(1, 12), copies=st.integers(1, 9))
    def placed(self, cpus: float, memory: int, copies: int) -> None:
        vms = sorted(self.site.vms.values(), key=lambda vm: vm.id)
        for number in range(copies if vms else 0):
            self.site.place(vms[number % len(vms)], cpus, memory * GIB // 3)

    @rule(number=st.integers(0, 20))
    def ended(self, number: int) -> None:
        if self.site.replicas:
            del self.site.replicas[sorted(self.site.replicas)[number % len(self.site.replicas)]]

    @invariant()
    def holds(self) -> None:
        site = getattr(self, "site", None)
        for vm in site.vms.values() if site is not None else ():
            cpus, memory_bytes = site.placed(vm)
            assert vm.cpus >= cpus
            assert vm.memory_bytes >= memory_bytes

    def teardown(self) -> None:
        """Check that all comes to rest where it should."""
        site = getattr(self, "site", None)
        if site is None:
            return
        site.lends, site.replicas = True, {}
        site.settle(16 * GIB)
        staying = [vm for vm in site.vms.values() if vm.wanted is VmWish.RUNNING]
        assert len(staying) == site.plan.count == len(site.vms)
        assert site.look(16 * GIB) == 0
        if not site.plan.memory_bytes:
            for vm in staying:
                fair = 16 * GIB // len(staying)
                assert 0.75 * fair - GRAIN_BYTES <= vm.memory_bytes <= fair / 0.75 + GRAIN_BYTES


TestSizing = Sizing.TestCase
TestSizing.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), middle=st.integers(2, 32), count=st.integers(1, 3), wide=st.floats(0.0, 0.9))
def test_an_offer_that_trembles_moves_nothing_for_long(seed: int, middle: int, count: int, wide: float) -> None:
    noise, site = Random(seed), Site(VmPlan(count=count))
    looks = int(3 * WINDOW_SECONDS / SECONDS)

    def offer() -> int:
        return int(middle * GIB * (1 + noise.uniform(-wide, wide)))

    for _ in range(looks):
        site.look(offer())
    before = site.writes
    for _ in range(looks):
        site.look(offer())
    assert site.writes - before <= count  # one size more, where the noise had not shown its edges before


def test_a_lasting_change_of_the_offer_is_followed_and_a_short_one_is_not() -> None:
    site = Site(VmPlan(count=1))
    site.settle(16 * GIB)
    (vm,) = site.vms.values()
    assert vm.memory_bytes == 16 * GIB
    for _ in range(int(WINDOW_SECONDS / SECONDS / 2)):
        site.look(2 * GIB)
    assert next(iter(site.vms.values())).memory_bytes == 16 * GIB
    site.settle(2 * GIB)
    assert next(iter(site.vms.values())).memory_bytes == 2 * GIB
    site.settle(0)
    assert next(iter(site.vms.values())).memory_bytes == LEAST_BYTES
    site.settle(32 * GIB)
    assert next(iter(site.vms.values())).memory_bytes == 32 * GIB


def test_it_grows_to_what_is_offered_all_the_time_and_not_to_what_is_offered_at_times() -> None:
    site = Site(VmPlan(count=1))
    site.settle(8 * GIB)
    for look in range(200):
        site.look((32 if look % 9 else 9) * GIB)
        assert next(iter(site.vms.values())).memory_bytes == 8 * GIB  # nine is not a quarter more
    for look in range(200):
        site.look((32 if look % 9 else 12) * GIB)
    assert next(iter(site.vms.values())).memory_bytes == 12 * GIB


def test_whoever_begins_to_watch_watches_for_a_while_before_it_resizes() -> None:
    site = Site(VmPlan(count=1))
    site.settle(16 * GIB)
    site.offers = Offers()  # another process leads
    for _ in range(int(WINDOW_SECONDS / SECONDS) - 6):
        assert site.look(2 * GIB) == 0
    site.settle(2 * GIB)
    assert next(iter(site.vms.values())).memory_bytes == 2 * GIB


def test_a_size_given_by_hand_stays_and_the_others_share_the_rest() -> None:
    site = Site(VmPlan(count=3))
    site.settle(18 * GIB)
    first = min(site.vms)
    site.vms[first] = msgspec.structs.replace(site.vms[first], fixed=True, memory_bytes=2 * GIB, cpus=1.0)
    site.settle(18 * GIB)
    assert sorted(vm.memory_bytes for vm in site.vms.values()) == [2 * GIB, 8 * GIB, 8 * GIB]
    assert site.vms[first].cpus == 1.0


def test_a_smaller_policy_takes_nothing_from_what_is_placed() -> None:
    site = Site(VmPlan(count=1))
    site.settle(16 * GIB)
    (vm,) = site.vms.values()
    site.place(vm, 3.0, 5 * GIB)
    site.plan = VmPlan(count=1, cpus=1, memory_bytes=2 * GIB)
    site.look(16 * GIB)
    (vm,) = site.vms.values()
    assert (vm.cpus, vm.memory_bytes) == (3.0, 5 * GIB)
    site.replicas.clear()
    site.look(16 * GIB)
    (vm,) = site.vms.values()
    assert (vm.cpus, vm.memory_bytes) == (1.0, 2 * GIB)


def test_what_a_server_hardly_offers_makes_fewer_of_a_bearable_size() -> None:
    site = Site(VmPlan(count=4))
    site.settle(3 * LEAST_BYTES)
    assert [vm.memory_bytes for vm in site.vms.values()] == [LEAST_BYTES] * 3
    site = Site(VmPlan(count=1))
    site.settle(LEAST_BYTES - 1)
    assert not site.vms


def test_the_offer_is_shared_with_those_made_by_hand() -> None:
    site = Site(VmPlan(count=1))
    by_hand = Vm(
        id="hand", created_at=NOW, updated_at=NOW, name="hand", server_id="s-srv", cpus=1, memory_bytes=4 * GIB,
        disk_bytes=1, image="x", node_id="n-hand",
    )  # fmt: skip
    site.vms["hand"] = by_hand
    site.settle(16 * GIB)
    assert {vm.name: vm.memory_bytes for vm in site.vms.values()} == {"hand": 4 * GIB, "srv-vm": 12 * GIB}
    assert site.vms["hand"] == by_hand


def test_a_report_that_says_no_offer_makes_nothing() -> None:
    assert ServerReport().lends is False
    site = Site(VmPlan(count=2))
    site.lends = False
    site.settle(16 * GIB)
    assert not site.vms
