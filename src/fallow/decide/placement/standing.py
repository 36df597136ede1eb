"""What one server that lends may still take: the second of the two conditions, by what it said last.

The first is that the virtual machine has room. A server is at its `used` share of the capacity; what was placed and
has not run for long enough to be measured comes on top of that. All its virtual machines share what is left.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fallow.decide.harvest.heard import HeardServer, HeardServers
from fallow.decide.harvest.pools import pool_of
from fallow.decide.placement import phrases
from fallow.decide.placement.request import MOST, NANO, Request, going, reservation
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState, Template
from fallow.model.members import Member, Scheduling
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import ServerReport
from fallow.model.vms import SERVER_LABEL, Vm, VmState, VmUse, VmWish

LEAST_CPUS = NANO // 10  # what reserves less counts as this much on a server: nothing runs on nothing
LEAST_MEMORY = 64 * 2**20
SETTLE_SECONDS = 5.0  # so long, and a window of the server's report, a replica runs until it counts as measured
CLOCKS_APART_SECONDS = 5.0  # a moment that lies further ahead is from before the clock was set back
_STOPS = (VmState.STOPPING, VmState.STOPPED)

Kind = str  # of a refusal; those of one kind are told together


class Need(NamedTuple):
    """Billionths of a processor, and bytes."""

    cpus: int
    memory: int


NOTHING = Need(0, 0)


@dataclass(frozen=True, slots=True)
class Amount:
    """Processors (in billionths) or memory (in bytes) of one server.

    `coming` is placed and not measured yet, `placed` all that its replicas may ask for, `most` capacity x threshold.
    """

    capacity: int = 0
    threshold: float = 0.0
    used: int = 0
    coming: int = 0
    placed: int = 0
    offered: int = 0

    @property
    def most(self) -> int:
        """Return up to how much may be used."""
        return int(self.capacity * self.threshold)

    @property
    def free(self) -> int:
        """Return how much more may be asked for; negative when it is too much already."""
        return min(self.most - self.used - self.coming, self.offered - self.placed)


@dataclass(frozen=True, slots=True)
class Standing:
    """A server's room, and why nothing may go there whatever the room: `kind` and `text`, empty when it may."""

    name: str
    kind: Kind = ""
    text: str = ""
    cpus: Amount = field(default_factory=Amount)
    memory: Amount = field(default_factory=Amount)

    def refusal(self, need: Need, taken: Need = NOTHING) -> tuple[str, str]:
        """Return (code, text) of why `need` does not fit beside what was `taken` since; empty when it does."""
        if self.kind:
            return "ServerNotLending", self.text
        for code, amount, wanted, gone, say in (
            ("ServerCpu", self.cpus, need.cpus, taken.cpus, phrases.server_cpus),
            ("ServerMemory", self.memory, need.memory, taken.memory, phrases.server_memory),
        ):
            if wanted > amount.free - gone:
                return code, said(self.name, amount, wanted, gone, say)
        return "", ""


def said(name: str, amount: Amount, wanted: int, gone: int, say: Callable[..., str]) -> str:
    """Say by which of the two bounds an amount is refused: the threshold first, as it is what hurts the primary."""
    used = amount.used + amount.coming + gone + wanted
    threshold = (used, amount.capacity, amount.threshold) if used > amount.most else None
    return say(name, wanted, threshold, amount.offered, amount.placed + gone)


@dataclass(frozen=True)
class Lenders:
    """Finds out how servers stand; a template's need is looked up once."""

    snapshot: Snapshot
    heard: HeardServers
    now: float
    _needs: dict[str, Need] = field(default_factory=dict)

    def standing(self, server_id: str) -> Standing:
        """Return how a server stands; whoever is not known, or silent, is full."""
        server = self.snapshot.members.get(server_id)
        if server is None:
            return Standing(name=server_id, kind="gone", text=phrases.SERVER_GONE)
        heard = self.heard.get(server_id)
        pool, policy = pool_of(self.snapshot, server)
        kind, text = self._shut(server, heard, pool, policy)
        if heard is None:
            return Standing(name=server.name, kind=kind, text=text)
        cpus, memory = self._amounts(server_id, heard, policy)
        return Standing(name=server.name, kind=kind, text=text, cpus=cpus, memory=memory)

    def need(self, replica: Replica) -> Need:
        """Return what a replica counts for on a server."""
        found = self._needs.get(replica.template_id)
        if found is None:
            found = self._needs[replica.template_id] = need_of(self.snapshot.templates.get(replica.template_id))
        return found

    def _shut(  # noqa: PLR0911 - a list of reasons
        self, server: Member, heard: HeardServer | None, pool: str, policy: LendingPolicy
    ) -> tuple[Kind, str]:
        """Return why a server takes nothing at all."""
        lending = self.snapshot.lendings.get(server.id)
        if lending is not None and lending.closed:
            return "closed", phrases.server_closed(server.name, lending.closed)
        if server.scheduling is not Scheduling.ACTIVE:
            return "drained", phrases.server_unscheduled(server.name, server.scheduling is Scheduling.DRAINING)
        if not policy.lends:
            return "policy", phrases.server_pool_keeps(server.name, pool)
        if heard is None or not heard.fresh:
            return "silent", phrases.server_silent(server.name, heard is not None)
        if not heard.report.lends:
            return "not-now", phrases.server_keeps(server.name, heard.report.why_not)
        if lending is not None and lending.backoff_until > self.now:
            return "backoff", phrases.server_backs_off(server.name, lending.backoff_until)
        return "", ""

    def _amounts(self, server_id: str, heard: HeardServer, policy: LendingPolicy) -> tuple[Amount, Amount]:
        report = heard.report
        placed, coming = self._held(server_id, SETTLE_SECONDS + report.window_seconds + heard.age_seconds)
        cpus = Amount(
            capacity=round(report.cpus * NANO),
            threshold=policy.cpu_threshold,
            used=round(report.used_cpus * NANO),
            coming=coming.cpus,
            placed=placed.cpus,
            offered=round(report.offer_cpus * NANO),
        )
        memory = Amount(
            capacity=report.memory_bytes,
            threshold=policy.memory_threshold,
            used=report.used_memory_bytes,
            coming=coming.memory,
            placed=placed.memory,
            offered=report.offer_memory_bytes,
        )
        return cpus, memory

    def _held(self, server_id: str, unmeasured_seconds: float) -> tuple[Need, Need]:
        """Return what all replicas on a server's virtual machines count for, and those that are not measured yet."""
        cpus = memory = new_cpus = new_memory = 0
        for replica in replicas_on(self.snapshot, server_id):
            need = self.need(replica)
            cpus += need.cpus
            memory += need.memory
            if not measured(replica, self.now, unmeasured_seconds):
                new_cpus += need.cpus
                new_memory += need.memory
        return Need(min(cpus, MOST), min(memory, MOST)), Need(min(new_cpus, MOST), min(new_memory, MOST))


def replicas_on(snapshot: Snapshot, server_id: str) -> Iterable[Replica]:
    """Yield the replicas that occupy a server's virtual machines."""
    for vm in snapshot.vms_by_server.get(server_id, ()):
        if vm.node_id:
            yield from snapshot.replicas_by_node.get(vm.node_id, ())


def measured(replica: Replica, now: float, seconds: float) -> bool:
    """Say whether a replica has run for so long that what it uses is part of what its server measures, or goes."""
    if going(replica):
        return True
    since = replica.state_since
    return replica.state is ReplicaState.RUNNING and (since > now + CLOCKS_APART_SECONDS or now - since >= seconds)


def need_of(template: Template | None) -> Need:
    """Return what a replica of a template counts for on a server; nothing more is known without the template."""
    return least(*reservation(template.container.resources)) if template is not None else Need(LEAST_CPUS, LEAST_MEMORY)


def needed(request: Request) -> Need:
    """Return what a request counts for on a server."""
    return least(request.cpus, request.memory_bytes)


def least(cpus: int, memory_bytes: int) -> Need:
    """Return a reservation as it counts on a server."""
    return Need(max(cpus, LEAST_CPUS), max(memory_bytes, LEAST_MEMORY))


def is_stray(snapshot: Snapshot, node: Member) -> bool:
    """Say whether a node joined as a virtual machine's, by its token's label, and is known to be none's.

    It has just joined and is not linked yet, or its machine is gone: it gets nothing, as nobody knows on which server.
    """
    return SERVER_LABEL in node.labels and node.id not in snapshot.vms_by_node


def capacity_of(node: Member, vm: Vm | None, report: ServerReport | None = None) -> Need:
    """Return what a node has: on lent capacity no more than its virtual machine was given, and has now."""
    cpus, memory = round(node.facts.cpus * NANO), node.facts.memory_bytes
    if vm is None:
        return Need(cpus, memory)
    given = Need(round(vm.cpus * NANO), vm.memory_bytes)
    if vm.isolation == "cgroup":  # its node saw the limit that all which is lent had at that moment
        cpus, memory = given
    else:
        cpus, memory = min(cpus, given.cpus), min(memory, given.memory)
    use = _use_of(report, vm)
    if use is not None and use.memory_limit_bytes:
        memory = min(memory, use.memory_limit_bytes)  # its balloon holds the rest
    return Need(cpus, memory)


def vm_trouble(vm: Vm, report: ServerReport | None) -> str:
    """Return why a virtual machine gets nothing more, whatever its node says; empty: it may.

    Its server may still stop it as it was told before, so what that reports counts beside what is wanted now.
    """
    if vm.wanted is not VmWish.RUNNING:
        return phrases.vm_unwanted(vm.name, vm.wanted)
    if vm.draining:
        return phrases.vm_drained(vm.name)
    use = _use_of(report, vm)
    return phrases.vm_stops(vm.name, use.state) if use is not None and use.state in _STOPS else ""


def _use_of(report: ServerReport | None, vm: Vm) -> VmUse | None:
    return next((found for found in report.vms if found.vm_id == vm.id), None) if report is not None else None


def report_of(heard: HeardServers, vm: Vm | None) -> ServerReport | None:
    """Return the newest report of the server that a virtual machine is on, if it may be believed."""
    found = heard.get(vm.server_id) if vm is not None else None
    return found.report if found is not None and found.fresh else None


NOBODY: Mapping[str, HeardServer] = {}
