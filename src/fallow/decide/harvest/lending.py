"""One step of a server that lends: from what it measured and was told to its limit, its offer, and what has to go."""

from dataclasses import dataclass, field, replace

import msgspec

from fallow.decide.harvest.hours import HoursError, lends_at
from fallow.decide.harvest.measured import Measured
from fallow.decide.harvest.offer import CPU_RISE_SECONDS, MEMORY_RISE_SECONDS, offered, smoothed
from fallow.decide.harvest.pressure import FLOOR_SLACK, IDLE_SHARE, LEAST, Pressure, felt
from fallow.decide.harvest.relief import Burden, Relief, Strain, relief, stopped, strained
from fallow.decide.harvest.suppress import (
    FLOOR_CPUS,
    SURE_CPUS,
    SURE_SECONDS,
    next_limit,
    starved,
    wanted_cpus,
    wanted_memory,
)
from fallow.model.server_pools import LendingPolicy
from fallow.model.vms import VmOrder, VmWish

MEMORY_PACE = 0.25  # of the speed at which processors are taken and given: a machine gives memory back in its own time
BLIND_SECONDS = 3.0  # without a measurement; then the server is taken for full


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the control plane said last. `closed`: why nothing may be lent; `waits`: why nothing new is.

    `asked_cpus`: by what is placed here.
    """

    policy: LendingPolicy
    closed: str = ""
    waits: str = ""
    asked_cpus: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The peak of what is not lent in the time ahead, and who says so."""

    cpus: float
    memory_bytes: int
    predictor: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What came of the steps so far. Nothing is lent before the first one."""

    limit_cpus: float = FLOOR_CPUS
    limit_memory_bytes: int = 0
    # what would be offered if it lent; None before the first step, which has nothing to rise from
    offer_cpus: float | None = None
    offer_memory_bytes: float | None = None
    lends: bool = False
    why_not: str = ""
    sure_seconds: float = 0.0  # for so long it has no more than it gets for sure
    pressure: Pressure = field(default_factory=Pressure)  # of processors
    disk_pressure: Pressure = field(default_factory=Pressure)
    memory_pressure: Pressure = field(default_factory=Pressure)
    strain: Strain = field(default_factory=Strain)
    relief: Relief = field(default_factory=Relief)


def hold(held: Held, told: Told, measured: Measured, expected: Expected, now: float) -> Held:
    """Return the next state. `now`: UTC seconds, for the hours alone."""
    policy, seconds = told.policy, measured.seconds
    processors, disks, memory_felt = _pressures(held, measured)
    wanted = wanted_cpus(measured.cpus, policy.cpu_ceiling, measured.own_cpus, policy.reserve_cpus)
    limit = next_limit(held.limit_cpus, wanted * min(processors.allowed, disks.allowed), measured.cpus, seconds)
    sure = max(0.0, held.sure_seconds - seconds)
    if starved(held.limit_cpus, measured.lent_cpus, measured.lent_waiting):
        sure = SURE_SECONDS
    if sure > 0:
        limit = min(limit, SURE_CPUS)
    memory = wanted_memory(
        measured.memory_bytes, policy.memory_ceiling, measured.own_memory_bytes, policy.reserve_memory_bytes
    )
    memory = int(memory * memory_felt.allowed)
    burden = Burden(
        capacity_memory_bytes=measured.memory_bytes,
        ceiling=policy.memory_ceiling,
        asked_cpus=told.asked_cpus,
        limit_cpus=limit,
        lent_cpus=measured.lent_cpus,
        throttled=measured.throttled,
        waiting=measured.lent_waiting,
        used_memory_bytes=measured.used_memory_bytes,
        lent_memory_bytes=measured.lent_memory_bytes,
    )
    strain = strained(held.strain, burden, seconds)
    found = relief(strain, burden, policy.evict_after_seconds)
    leaving, why_not = _refusal(told, measured, now)
    if leaving:
        found = replace(
            found,
            cpus=max(found.cpus, told.asked_cpus),
            memory_bytes=max(found.memory_bytes, measured.lent_memory_bytes),
        )
    offers = _offers(held, told, measured, expected)
    return Held(
        limit_cpus=limit,
        limit_memory_bytes=memory,
        offer_cpus=offers[0],
        offer_memory_bytes=offers[1],
        lends=not why_not,
        why_not=why_not,
        sure_seconds=sure,
        pressure=processors,
        disk_pressure=disks,
        memory_pressure=memory_felt,
        strain=stopped(strain) if found.stop_one else strain,
        relief=found,
    )


def _pressures(held: Held, measured: Measured) -> tuple[Pressure, Pressure, Pressure]:
    """Return what primaries feel at processors, disks and memory.

    What is lent is slowed at the disks by having fewer processors, and needs few of them to fill a disk's queue. Of
    memory a machine keeps its least, so that its innocence is proven once it was asked for all.
    """
    busy, lent = measured.primary_cpus / measured.cpus, measured.lent_cpus / measured.cpus
    floor = FLOOR_CPUS / measured.cpus * FLOOR_SLACK
    return (
        felt(
            held.pressure,
            waiting=measured.cpu_waiting,
            busy=busy,
            lent=lent,
            seconds=measured.seconds,
            idle=max(IDLE_SHARE, floor),
        ),
        felt(
            held.disk_pressure, waiting=measured.io_waiting, busy=busy, lent=lent, seconds=measured.seconds, idle=floor
        ),
        felt(
            held.memory_pressure,
            waiting=measured.memory_waiting,
            busy=measured.primary_memory_bytes / measured.memory_bytes,
            lent=measured.lent_memory_bytes / measured.memory_bytes,
            seconds=measured.seconds * MEMORY_PACE,
            idle=1.0 if held.memory_pressure.allowed <= LEAST else IDLE_SHARE,
        ),
    )


def blind(held: Held, seconds: float) -> Held:
    """Return the state of a server that could not measure itself for `seconds`: full, and nothing else is known."""
    return replace(
        held,
        limit_cpus=FLOOR_CPUS,
        offer_cpus=0.0,
        offer_memory_bytes=0.0,
        lends=False,
        why_not=f"nothing could be measured for {seconds:.0f} s, so that it is taken for full",
        relief=Relief(),
    )


def outside(policy: LendingPolicy, now: float) -> bool:
    """Say whether `now`, in UTC seconds, is outside the hours in which a server lends; False where nobody can tell."""
    try:
        return not lends_at(policy.hours, policy.timezone, now)
    except HoursError:
        return False


def stopped_if_empty(order: VmOrder) -> VmOrder:
    """Return an order for the time in which nothing is lent: a machine that holds nothing stops."""
    if order.wanted is VmWish.RUNNING and order.rank == 0 and order.asked_cpus == 0:
        return msgspec.structs.replace(order, wanted=VmWish.STOPPED)
    return order


def _refusal(told: Told, measured: Measured, now: float) -> tuple[bool, str]:
    """Return whether what is lent has to go, and why nothing more is lent; empty: it is."""
    policy = told.policy
    try:
        within = lends_at(policy.hours, policy.timezone, now)
    except HoursError as error:
        return False, f"its hours cannot be read: {error}"
    ends = told.closed or ("" if policy.lends else "its policy says that it lends nothing")
    if not ends and not within:
        ends = f"outside its hours: {', '.join(policy.hours)} {policy.timezone}"
    if ends:
        return True, ends
    missing = f"not found: {', '.join(measured.missing)}" if measured.missing else ""
    return False, told.waits or missing


def _offers(held: Held, told: Told, measured: Measured, expected: Expected) -> tuple[float, float]:
    policy = told.policy
    cpus = offered(measured.cpus, policy.cpu_threshold, max(expected.cpus, measured.own_cpus), policy.reserve_cpus)
    memory = offered(
        measured.memory_bytes,
        policy.memory_threshold,
        max(expected.memory_bytes, measured.own_memory_bytes),
        policy.reserve_memory_bytes,
    )
    seconds = measured.seconds
    if held.offer_cpus is not None:
        cpus = smoothed(held.offer_cpus, cpus, measured.cpus, seconds, CPU_RISE_SECONDS)
    if held.offer_memory_bytes is not None:
        memory = smoothed(held.offer_memory_bytes, memory, measured.memory_bytes, seconds, MEMORY_RISE_SECONDS)
    return cpus, memory
