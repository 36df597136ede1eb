"""Which virtual machines the policy makes on each server, and how large they are.

A server's processors lent are shared by its virtual machines whole: what it has, up to the threshold, since the limit
is held above all of them together. Memory cannot be taken back as quickly: it is shared by what was offered over a
while. So that an offer that goes up and down moves nothing, one grows only when even the least that was offered is
clearly more than it has, and shrinks only when even the most is clearly less.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from fallow.decide.events import event
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.orders import closed
from fallow.decide.harvest.pools import pool_of
from fallow.decide.harvest.vm_requests import MOST_VMS
from fallow.decide.joining import free_name
from fallow.decide.placement.request import NANO, reservation
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState
from fallow.model.units import format_bytes
from fallow.model.vms import Vm, VmWish

WINDOW_SECONDS = 1800.0  # over which an offer has to stand
STEP_SECONDS = 60.0  # of a window: the least and the most of each are kept
GRAIN_BYTES = 128 * 2**20  # sizes are multiples of it
LEAST_BYTES = 512 * 2**20  # that a virtual machine is made with by itself
GROW, SHRINK = 1.25, 0.75  # of what it has


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """The memory a server offered: the least and the most of a window; `whole`: it was heard for most of that."""

    least_bytes: int
    most_bytes: int
    whole: bool = False


_NOTHING = Offered(least_bytes=0, most_bytes=0)


class Offers:
    """Remembers the memory that each server offered while it was lending, for a window; `at` only ever grows."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[tuple[float, int, int]]] = {}  # server id -> (from, least, most) of every step

    def note(self, servers: HeardServers, at: float) -> None:
        """Take in what servers say now; a server that does not lend says nothing of what it will offer."""
        for id_, heard in servers.items():
            if not heard.fresh or not heard.report.lends:
                continue
            offer = heard.report.offer_memory_bytes
            kept = self._kept.setdefault(id_, deque())
            if kept and at - kept[-1][0] < STEP_SECONDS:
                since, least, most = kept[-1]
                kept[-1] = (since, min(least, offer), max(most, offer))
            else:
                kept.append((at, offer, offer))
        for id_, kept in list(self._kept.items()):
            while kept and at - kept[0][0] > WINDOW_SECONDS:
                kept.popleft()
            if not kept:
                del self._kept[id_]

    def over(self, at: float) -> Mapping[str, Offered]:
        """Return what each server offered over the window that ends at `at`."""
        return {
            id_: Offered(
                least_bytes=min(least for _, least, _ in kept),
                most_bytes=max(most for _, _, most in kept),
                whole=at - kept[0][0] >= WINDOW_SECONDS - 2 * STEP_SECONDS
                and len(kept) >= 0.9 * WINDOW_SECONDS / STEP_SECONDS,
            )
            for id_, kept in self._kept.items()
        }


def sizes(
    snapshot: Snapshot, servers: HeardServers, offered: Mapping[str, Offered], now: float, new_id: Callable[[], str]
) -> Iterator[Step]:
    """Yield what makes, resizes and takes away automatic virtual machines; nothing on servers that are not ready.

    They are made and resized only while their server is open and lends. What is placed on one is never taken from it.
    """
    names = {vm.name for vm in snapshot.vms.values()}
    for server in snapshot.servers.values():
        heard = servers.get(server.id)
        if heard is None or not heard.fresh or server.state is not MemberState.READY:
            continue
        site = _Site(snapshot, server, heard.report.offer_memory_bytes, offered.get(server.id, _NOTHING))
        yield from _surplus(site, now, new_id)
        if heard.report.lends and not closed(snapshot, server):
            yield from _missing(site, names, now, new_id)
            yield from _resized(site, now, new_id)


class _Site:
    """One server, its automatic virtual machines that stay, and those of them whose size was not given by hand."""

    def __init__(self, snapshot: Snapshot, server: Member, offer_bytes: int, offered: Offered) -> None:
        self.snapshot, self.server = snapshot, server
        policy = self.policy = pool_of(snapshot, server)[1]
        self._vms = snapshot.vms_by_server.get(server.id, [])
        self._offer_bytes, self._offered = offer_bytes, offered
        # What is stopped or drained by hand is still one of those that the policy wants.
        wanted = [vm for vm in self._vms if vm.automatic and vm.wanted is not VmWish.ABSENT]
        fit = [vm for vm in wanted if vm.isolation == policy.isolation]
        fit.sort(key=lambda vm: (-self.replicas(vm), vm.created_at, vm.id))
        self.stay = fit[: policy.vms.count]
        self.sized = [vm for vm in self.stay if not vm.fixed and vm.wanted is VmWish.RUNNING]
        kept = {vm.id for vm in self.stay}
        self.surplus = [vm for vm in wanted if vm.id not in kept]

    def replicas(self, vm: Vm) -> int:
        """Return how many replicas a virtual machine holds."""
        return len(self.snapshot.replicas_by_node.get(vm.node_id, ())) if vm.node_id else 0

    @property
    def full(self) -> bool:
        """Say whether the server has as many as it can tell of."""
        return len(self._vms) >= MOST_VMS

    @property
    def cpus(self) -> float:
        """Return the processors of each; 0: what the server has is not known."""
        plan = self.policy.vms
        whole = math.floor(self.server.facts.cpus * self.policy.cpu_threshold / max(1, plan.count))
        return plan.cpus or (float(max(1, whole)) if self.server.facts.cpus else 0.0)

    def share_bytes(self, offer_bytes: int, count: int) -> int:
        """Return the memory of each of `count` that are sized here, of what is offered and is not that of others."""
        sized = {vm.id for vm in self.sized}
        others = sum(vm.memory_bytes for vm in self._vms if vm.id not in sized and vm.wanted is VmWish.RUNNING)
        return max(0, offer_bytes - others) // max(1, count) // GRAIN_BYTES * GRAIN_BYTES

    @property
    def new_bytes(self) -> int:
        """Return the memory of a new one; 0: there is not enough for one more now."""
        if self.policy.vms.memory_bytes:
            return self.policy.vms.memory_bytes
        for more in range(self.policy.vms.count - len(self.stay), 0, -1):
            share = self.share_bytes(self._offer_bytes, len(self.sized) + more)
            if share >= LEAST_BYTES:
                return share
        return 0

    def resized_bytes(self, vm: Vm) -> int:
        """Return the memory that one should have."""
        if self.policy.vms.memory_bytes:
            return self.policy.vms.memory_bytes
        if not self._offered.whole:
            return vm.memory_bytes
        least = self.share_bytes(self._offered.least_bytes, len(self.sized))
        most = self.share_bytes(self._offered.most_bytes, len(self.sized))
        if least >= vm.memory_bytes * GROW:
            return least
        return max(most, LEAST_BYTES) if most <= vm.memory_bytes * SHRINK else vm.memory_bytes

    def placed(self, vm: Vm) -> tuple[float, int]:
        """Return the processors and the memory that the replicas on a virtual machine ask for."""
        cpus = memory = 0
        for replica in self.snapshot.replicas_by_node.get(vm.node_id, ()) if vm.node_id else ():
            template = self.snapshot.templates.get(replica.template_id)
            if template is not None:
                asked = reservation(template.container.resources)
                cpus, memory = cpus + asked[0], memory + asked[1]
        return cpus / NANO, memory


def _surplus(site: _Site, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    for vm in site.surplus:
        told = event(
            new_id(), now, "loop:vms", "vm", vm.id, vm.name, "VmLeaving",
            f"virtual machine {vm.name} goes: its policy wants {site.policy.vms.count} by {site.policy.isolation}",
        )  # fmt: skip
        yield Step(
            puts=(msgspec.structs.replace(vm, draining=True, wanted=VmWish.ABSENT, updated_at=now), told),
            guards=(site.server,),
        )


def _missing(site: _Site, names: set[str], now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Yield one new virtual machine where one is missing; the next one follows once it is seen what is left."""
    cpus, memory, plan = site.cpus, site.new_bytes, site.policy.vms
    if len(site.stay) >= plan.count or site.full or not cpus or not memory:
        return
    members = site.snapshot.members
    taken = {*names, *(member.name for member in members.values()), *members}
    name = free_name(f"{site.server.name}-vm", taken.__contains__)[0]
    names.add(name)
    vm = Vm(
        id=f"vm{new_id()}",
        created_at=now,
        updated_at=now,
        name=name,
        server_id=site.server.id,
        isolation=site.policy.isolation,
        cpus=cpus,
        memory_bytes=memory,
        disk_bytes=plan.disk_bytes,
        image=plan.image,
        automatic=True,
        state_since=now,
    )
    told = event(
        new_id(), now, "loop:vms", "vm", vm.id, vm.name, "VmOrdered",
        f"virtual machine {name} is to be made on {site.server.name}: {cpus:g} processors, {format_bytes(memory)}",
    )  # fmt: skip
    yield Step(puts=(vm, told), guards=(site.server,))


def _resized(site: _Site, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    for vm in site.sized:
        placed_cpus, placed_bytes = site.placed(vm)
        cpus = max(site.cpus or vm.cpus, float(math.ceil(placed_cpus)))
        memory = max(site.resized_bytes(vm), -(-placed_bytes // GRAIN_BYTES) * GRAIN_BYTES)
        if (cpus, memory) == (vm.cpus, vm.memory_bytes):
            continue
        told = event(
            new_id(), now, "loop:vms", "vm", vm.id, vm.name, "VmResized",
            f"virtual machine {vm.name} on {site.server.name} gets {cpus:g} processors and {format_bytes(memory)}, "
            f"had {vm.cpus:g} and {format_bytes(vm.memory_bytes)}",
        )  # fmt: skip
        yield Step(
            puts=(msgspec.structs.replace(vm, cpus=cpus, memory_bytes=memory, updated_at=now), told),
            guards=(site.server,),
        )
