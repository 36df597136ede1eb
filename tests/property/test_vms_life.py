"""Virtual machines under every order of events: killed at any instant, orders that change, tokens and surveys lost.

The world has disks and machines; the agent is `VmMachines`, which may be replaced at any moment by one that knows only
its journal. What is promised: never two machines of one id, nothing that has joined is made anew, nothing
is touched before it is known what is ordered, what is ordered comes true once the world is quiet.
"""

from dataclasses import dataclass, field

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fallow.decide.agent.vms import RETRY_CAP_SECONDS, Grant, Instruction, Seen, VmMachines
from fallow.model.vms import VmOrder, VmState, VmWish

IDS = ("a", "b", "c")
ids = st.sampled_from(IDS)
BASE = VmOrder(vm_id="", name="vm", cpus=1.0, memory_bytes=100, disk_bytes=1, image="default", wanted=VmWish.RUNNING)


@dataclass
class Real:
    """One machine in the world."""

    runs: bool = False
    paused: bool = False
    token: str = ""  # on its seed
    identity: bool = False  # it has joined
    made: int = 1
    cpus: float = 0.0
    memory: int = 0


@dataclass
class World:
    """Disks and machines, and the control plane's view of who has joined with which token."""

    machines: dict[str, Real] = field(default_factory=dict)
    good: dict[str, str] = field(default_factory=dict)  # the newest token of each
    joined: set[str] = field(default_factory=set)
    tokens: int = 0

    def carry_out(self, instruction: Instruction) -> None:
        vm_id, order = instruction.vm_id, instruction.order
        real = self.machines.get(vm_id)
        match instruction.action:
            case "prepare":
                assert real is None, "a disk is made where there is one"
                assert not order.joined, "one that has joined is made anew"
                self.machines[vm_id] = Real()
            case "start" if real is not None:
                if not real.runs:
                    real.token = instruction.grant.token if instruction.grant is not None else real.token
                    real.cpus, real.memory = order.cpus, order.memory_bytes
                real.runs, real.paused = True, False
            case "stop" if real is not None:
                real.runs = real.paused = False
            case "destroy":
                assert order is None or order.wanted is VmWish.ABSENT, "one that is wanted is destroyed"
                self.machines.pop(vm_id, None)
            case "resize" if real is not None:
                real.cpus, real.memory = order.cpus, order.memory_bytes
            case "clear" if real is not None:
                assert real.identity, "a token is taken away from one that needs it"
                real.token = ""

    def boot(self, vm_id: str) -> None:
        """Let a running machine join, if its token is the newest."""
        real = self.machines.get(vm_id)
        if real is not None and real.runs and not real.paused and real.token and real.token == self.good.get(vm_id):
            real.identity = True
            self.joined.add(vm_id)

    def seen(self) -> list[Seen]:
        return [
            Seen(
                vm_id=vm_id,
                status="paused" if real.paused else "running" if real.runs else "stopped",
                seeded=bool(real.token),
                cpus=real.cpus if real.runs else 0.0,
                memory_bytes=real.memory if real.runs else 0,
            )
            for vm_id, real in self.machines.items()
        ]


class VmsLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.world = World()
        self.orders: dict[str, VmOrder] = {}
        self.journal: tuple[tuple[VmOrder, ...], tuple[str, ...]] | None = None
        self.agent = VmMachines()
        self.flights: list[Instruction] = []
        self.asked: list[str] = []
        self.told = False
        self.lost: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.survey()

    # the agent's shell

    @rule()
    def step(self) -> None:
        self.journal = (self.agent.orders, self.agent.joined) if self.told or self.journal else None
        for instruction in self.agent.next(self.now):
            assert self.told or self.journal, "something is done before it is known what is ordered"
            if instruction.action == "ask":
                self.asked.append(instruction.vm_id)
                continue
            assert instruction.vm_id not in {each.vm_id for each in self.flights}, "two things at once with one machine"
            self.flights.append(instruction)

    @rule(which=st.integers(0, 5), works=st.booleans(), partly=st.booleans())
    def end_flight(self, which: int, works: bool, partly: bool) -> None:
        if not self.flights:
            return
        instruction = self.flights.pop(which % len(self.flights))
        if works or partly:
            self.world.carry_out(instruction)
        if works:
            self.agent.done(instruction, self.now)
        else:
            self.agent.failed(instruction, "it failed", self.now)

    @rule()
    def survey(self) -> None:
        self.agent.surveyed("vm", self.world.seen(), self.now, self.now)

    @rule()
    def late_survey(self) -> None:
        seen, began = self.world.seen(), self.now
        self.now += 0.5
        if self.flights:
            self.end_flight(0, True, True)
        self.agent.surveyed("vm", seen, began, self.now)

    @rule()
    def libvirt_goes(self) -> None:
        self.agent.lost("vm", "libvirt does not answer")

    @rule(journal=st.booleans(), done=st.booleans())
    def killed(self, journal: bool, done: bool) -> None:
        """Kill the agent: what was under way was done or not, nobody knows; the journal may be lost with it."""
        for instruction in self.flights:
            if done:
                self.world.carry_out(instruction)
        self.flights, self.asked = [], []
        self.agent = VmMachines()
        self.told = False
        if journal and self.journal is not None:
            self.agent.ordered(*self.journal)
        else:
            self.journal = None

    # the control plane

    @rule(vm_id=ids, wanted=st.sampled_from(VmWish), cpus=st.sampled_from([1.0, 2.0]))
    def order(self, vm_id: str, wanted: VmWish, cpus: float) -> None:
        """Change what is wanted; an absent one stays absent, and its id is never used again."""
        before = self.orders.get(vm_id)
        if before is not None and before.wanted is VmWish.ABSENT:
            return
        self.orders[vm_id] = msgspec.structs.replace(BASE, vm_id=vm_id, wanted=wanted, cpus=cpus)

    @rule()
    def tell(self) -> None:
        self.told = True
        self.agent.ordered(
            [msgspec.structs.replace(each, joined=each.vm_id in self.world.joined) for each in self.orders.values()]
        )

    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        if not self.asked:
            return
        vm_id = self.asked.pop(0)
        if vm_id in self.world.joined:
            self.agent.granted(vm_id, None, "it has joined already", self.now)
            return
        self.world.tokens += 1
        token = self.world.good[vm_id] = f"t{self.world.tokens}"
        if not lost:
            self.agent.granted(vm_id, Grant(url="u", token=token), "", self.now)

    # the world

    @rule(vm_id=ids)
    def boots(self, vm_id: str) -> None:
        self.world.boot(vm_id)

    @rule(vm_id=ids)
    def dies(self, vm_id: str) -> None:
        if vm_id in self.world.machines:
            self.world.machines[vm_id].runs = False
            self.world.machines[vm_id].paused = False

    @rule(vm_id=ids)
    def pauses(self, vm_id: str) -> None:
        real = self.world.machines.get(vm_id)
        if real is not None and real.runs:
            real.paused = True

    @rule(vm_id=ids)
    def disk_is_lost(self, vm_id: str) -> None:
        self.world.machines.pop(vm_id, None)
        self.lost |= {vm_id} & self.world.joined

    @rule()
    def host_reboots(self) -> None:
        for vm_id in IDS:
            self.dies(vm_id)
        self.killed(True, False)

    @rule()
    def emergency(self) -> None:
        self.agent.halt(self.now)

    @rule(seconds=st.sampled_from([0.1, 5.0, 30.0, 400.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def states_can_be_told(self) -> None:
        for order in self.agent.orders:
            state, problem = self.agent.state(order, self.now)
            assert isinstance(state, VmState)
            assert len(problem) <= 1024

    def teardown(self) -> None:
        """Once nothing goes wrong any more, what is ordered comes true."""
        for _ in range(60):
            self.now += RETRY_CAP_SECONDS
            self.tell()
            self.survey()
            self.step()
            while self.asked:
                self.answer(False)
            while self.flights:
                self.end_flight(0, True, True)
            for vm_id in IDS:
                self.world.boot(vm_id)
        for vm_id, order in self.orders.items():
            real = self.world.machines.get(vm_id)
            match order.wanted:
                case VmWish.ABSENT:
                    assert real is None
                case VmWish.STOPPED:
                    assert real is None or not real.runs
                case VmWish.RUNNING if vm_id in self.lost:
                    assert real is None or real.identity
                case VmWish.RUNNING:
                    assert real is not None
                    assert (real.runs, real.paused, real.identity, real.token) == (True, False, True, "")
                    assert real.cpus == order.cpus
                    assert self.agent.state(self.agent.orders[0], self.now)
        assert set(self.world.machines) <= set(self.orders)


VmsLife.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestVmsLife = VmsLife.TestCase
