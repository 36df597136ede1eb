"""What must hold of servers that lend, told from what they really use and were told, not from what is believed."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from fallow.control.settings import Settings
from fallow.decide.harvest.pools import pool_of
from fallow.decide.placement import place
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState, Template
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import ServerReport
from fallow.model.tokens import JoinToken
from fallow.model.vms import SERVER_LABEL, VM_LABEL, Vm, VmWish
from fallow.store.contract import Write
from simulation.hosting.limits import LimitWatch
from simulation.hosting.servers import Guest, Server
from simulation.invariants import DECIDED_SECONDS, NEVER, STALE_SECONDS, Watch
from simulation.story import Story

SEEN = ("vms", "lendings", "server-pools")
FRESH_SECONDS = 5.0  # a report is believed for so long
UNMEASURED_SECONDS = 6.0  # so long at least a new replica counts on top of what is measured
LEAST_CPUS, LEAST_BYTES = 0.1, 64 * 2**20
RANKS = {"spot": 0, "harvest": 1, "": 1, "standard": 2}
NEEDED = "ServerNeeds"
GOING = (ReplicaState.LEAVING, ReplicaState.STOPPING)
MOVABLE = (ReplicaState.PLACED, ReplicaState.RUNNING)
SLACK_SECONDS = 1.0

ADMITTED = "no more is admitted than a server has room for"
SILENT = "a server that is not heard gets nothing"
BACKOFF = "nothing goes back to a server that backs off"
STANDARD = "standard never runs on lent capacity"
ENOUGH = "no more is evicted than is needed"
LOWEST = "the lowest class goes first"
ONE_VM = "one machine and one node for a VM"
ONE_USE = "a token of a VM is used once"
EMPTY = "a machine stops only once it is empty"


@dataclass(frozen=True, slots=True)
class _Heard:
    """A report, and when it arrived at a control plane."""

    at: float
    report: ServerReport


class HostingWatch(Watch):
    """Sees every commit, every report and every machine of servers."""

    seen = frozenset({*Watch.seen, *SEEN})
    roomy = False
    kept_for_snapshots = (*Watch.kept_for_snapshots, *SEEN)

    def __init__(self, story: Story, now: Callable[[], float], settings: Settings, seed: int) -> None:
        super().__init__(story, now, settings, seed)
        self.servers: dict[str, Server] = {}
        self.world: Any = None
        self.limits = LimitWatch(story.broke, now)
        self.clock_set_at = NEVER  # the control planes', last
        self.store_slow_at = NEVER
        self._heard: dict[str, deque[_Heard]] = defaultdict(lambda: deque(maxlen=64))
        self._ran_since: dict[str, float] = {}  # replicas
        self._placed_at: dict[str, float] = {}
        self._moved_at: dict[str, float] = {}  # replicas by when they last had to move
        self._evicted: dict[str, tuple[float, float]] = {}  # servers: when, and for how long nothing may come back
        self._chosen: Counter[str] = Counter()  # servers by how often something was chosen to leave
        self._policies: deque[tuple[float, Mapping[str, Any]]] = deque(maxlen=16)  # pools as they were until when
        self._spent: dict[str, str] = {}  # tokens of VMs by who joined with them
        self._emergency_at: dict[str, float] = {}

    # what is stored

    def vms(self) -> Mapping[str, Vm]:
        """Return virtual machines by id."""
        return self.records["vms"]  # type: ignore[return-value]

    def unplaced(self) -> Set[str]:
        """Return the templates of which some replica fits nowhere, by what the process that leads has heard."""
        leader = self.world.leader()
        if leader is None:
            return set()
        found = place(self.snapshot(), self.world.clock(), servers=leader.hub.servers())
        return {each.template_id for each in found.rejections}

    def policy(self, server_id: str) -> LendingPolicy:
        """Return how a server should lend."""
        return pool_of(self.snapshot(), self.members()[server_id])[1]

    def guest_of(self, member_id: str) -> Guest | None:
        """Return the machine that a node is in."""
        for server in self.servers.values():
            for guest in server.guests.values():
                if guest.member_id and guest.member_id == member_id:
                    return guest
        return None

    def reported(self, server_id: str, report: ServerReport) -> None:
        """Note that a report has arrived at a control plane."""
        self._heard[server_id].append(_Heard(self._now(), report))

    def committed(self, revision: int, writes: Sequence[Write]) -> None:
        """Take in one commit, with all that it says of servers."""
        before: dict[str, dict[str, Any]] = defaultdict(dict)
        for write in writes:
            kind, _, id_ = write.key.partition("/")
            if kind in self.seen:
                before[kind][id_] = self.records[kind].get(id_)
        if "server-pools" in before:
            self._policies.append((self._now(), dict(self.records["server-pools"])))
        held = {id_: self._held_by(id_) for id_ in self.servers} if "replicas" in before else {}
        super().committed(revision, writes)
        for id_, old in before["members"].items():
            if old is None:
                self._joined(self.members().get(id_))
        if before["vms"]:
            self._check_vms(before["vms"])
        changed = [(old, self.replicas()[id_]) for id_, old in before["replicas"].items() if id_ in self.replicas()]
        self._check_placed(changed)
        self._check_evicted(changed, held)

    # machines

    def _joined(self, member: Member | None) -> None:
        if member is None:
            return
        token = self.records["join-tokens"].get(member.token_id)
        if isinstance(token, JoinToken) and token.created_by.startswith("server:"):
            if member.token_id in self._spent:
                self.broke(ONE_USE, f"{self._spent[member.token_id]} and {member.name} joined with {member.token_id}")
            self._spent[member.token_id] = member.name
        label = member.labels.get(VM_LABEL, "")
        for other in self.members().values() if label else ():
            if other.id != member.id and (other.labels.get(VM_LABEL), other.labels.get(SERVER_LABEL)) == (
                label,
                member.labels.get(SERVER_LABEL),
            ):
                self.broke(ONE_VM, f"{other.name} and {member.name} are both {label}")

    def _check_vms(self, before: Mapping[str, Vm | None]) -> None:
        nodes = [vm.node_id for vm in self.vms().values() if vm.node_id]
        if len(nodes) != len(set(nodes)):
            self.broke(ONE_VM, f"a node is in two of them: {nodes}")
        for id_, old in before.items():
            new = self.vms().get(id_)
            if old is None and new is not None:
                self._story.tell("store", f"VM {new.name} ({id_}) is to be on {self._name(new.server_id)}")
            elif new is None:
                self._story.tell("store", f"VM {old.name if old else id_} is gone")
            elif old is not None and (old.state, old.wanted, old.draining) != (new.state, new.wanted, new.draining):
                leaves = " draining" if new.draining else ""
                self._story.tell("store", f"VM {new.name} is {new.state}, wanted {new.wanted}{leaves} {new.problem}")

    def vm_boots(self, server: Server, guest: Guest) -> None:
        """Check that a machine which starts is the only one of its VM."""
        self._story.tell(server.name, f"{guest.vm_id} starts, disk {guest.number}, {guest.member_id or 'not joined'}")
        for other in self.servers.values():
            twin = other.guests.get(guest.vm_id)
            if twin is not None and twin is not guest and twin.process is not None:
                self.broke(ONE_VM, f"{guest.vm_id} runs on {other.name} and {server.name}")
        vm = self.vms().get(guest.vm_id)
        if vm is not None and vm.server_id != server.id:
            self.broke(ONE_VM, f"{guest.vm_id} is not one of {server.name}'s")

    def vm_ends(self, server: Server, guest: Guest, how: str) -> None:
        """Check that a machine which is stopped holds nothing, but in an emergency."""
        self._story.tell(server.name, f"{guest.vm_id} is {how}")
        lately = self._now() - self._emergency_at.get(server.id, NEVER) < 2 * UNMEASURED_SECONDS
        if how.startswith("crashed") or lately or server.shuts_down or server.id in self.removed:
            return
        running = guest.machine.running() if guest.machine is not None else []
        states = {id_: found.state for id_ in running if (found := self.replicas().get(id_)) is not None}
        kept = [id_ for id_, state in states.items() if state in (*MOVABLE, ReplicaState.LEAVING)]
        if kept and guest.member_id not in self.removed:
            self.broke(EMPTY, f"{guest.vm_id} is {how} with {', '.join(sorted(kept))}")

    def emergency(self, server: Server) -> None:
        """Note that an agent stops a machine for want of memory, which must be scarce indeed."""
        self._story.tell(server.name, "stops a machine: memory is far above its ceiling")
        self._emergency_at[server.id] = self._now()
        used = server.own_memory + server.lent_memory()
        if used < 0.9 * server.memory_bytes:
            self.broke("only an emergency stops a machine", f"{server.name} uses {used / server.memory_bytes:.0%}")

    def agent_started(self, server: Server) -> None:
        """Note that an agent begins anew."""
        self.limits.began(server)

    # what is placed

    def _lookback(self) -> float:
        """Return how much older than its commit a decision may be."""
        slow = self._now() - self.store_slow_at < STALE_SECONDS
        return self._longest_held() + (STALE_SECONDS if slow else DECIDED_SECONDS)

    def _believable(self, server_id: str) -> list[_Heard]:
        """Return the reports that a decision committed now may have been made by, oldest first."""
        since, found = self._now() - self._lookback() - self._slack, list(self._heard[server_id])
        newest = [heard for heard in found if heard.at <= since][-1:]
        return [
            heard
            for heard in (*newest, *(heard for heard in found if heard.at > since))
            if heard.at >= since - FRESH_SECONDS
        ]

    def _policies_of(self, server_id: str) -> list[LendingPolicy]:
        """Return how a server should lend, now and when what is committed now may have been decided."""
        member = self.members()[server_id]
        snapshots = [self.snapshot()]
        for at, pools in self._policies:
            if self._now() - at <= self._lookback() + self._slack:
                snapshots.append(Snapshot(server_pools=pools))
        return [pool_of(snapshot, member)[1] for snapshot in snapshots]

    def _need(self, replica: Replica) -> tuple[float, int]:
        template = self.records["templates"].get(replica.template_id)
        asked = template.container.resources if isinstance(template, Template) else None
        if asked is None:
            return LEAST_CPUS, LEAST_BYTES
        return max(asked.cpus, LEAST_CPUS), max(asked.memory_bytes, LEAST_BYTES)

    def _class(self, replica: Replica) -> str:
        template = self.records["templates"].get(replica.template_id)
        return template.placement.service_class if isinstance(template, Template) else ""

    def _on(self) -> dict[str, str]:
        """Return the server of every node in a VM."""
        return {vm.node_id: vm.server_id for vm in self.vms().values() if vm.node_id}

    def _held_by(self, server_id: str) -> list[Replica]:
        on = self._on()
        return [found for found in self.replicas().values() if on.get(found.node_id) == server_id and not found.ended]

    def asked_cpus(self, server_id: str) -> float:
        """Return the processors that replicas on a server asked for, without those that leave."""
        return sum(self._need(found)[0] for found in self._held_by(server_id) if found.state in MOVABLE)

    def evictions(self, server_id: str) -> int:
        """Return how often it was chosen what leaves a server that needs back what it lent."""
        return self._chosen[server_id]

    def _check_placed(self, changed: Iterable[tuple[Replica | None, Replica]]) -> None:
        on, now = self._on(), self._now()
        for old, new in changed:
            if new.state is ReplicaState.RUNNING and (old is None or old.state is not ReplicaState.RUNNING):
                self._ran_since[new.id] = now
            if new.state is not ReplicaState.PLACED or (old is not None and old.state is not ReplicaState.PENDING):
                continue
            self._placed_at[new.id] = now
            node, server_id = self.members().get(new.node_id), on.get(new.node_id, "")
            lent = server_id or (node is not None and SERVER_LABEL in node.labels)
            if lent and self._class(new) == "standard":
                self.broke(STANDARD, f"{new.id} is placed on {new.node_id}")
            if lent and not server_id:
                self.broke(ADMITTED, f"{new.id} is placed on {new.node_id}, which is in no VM that is known")
            elif server_id:
                self._check_admitted(new, server_id)

    def _check_admitted(self, placed: Replica, server_id: str) -> None:
        name, now = self._name(server_id), self._now()
        heard = self._believable(server_id)
        if not heard:
            self.broke(SILENT, f"{placed.id} is placed on {name}, of which nothing is known")
        elif not any(each.report.lends for each in heard):
            self.broke(SILENT, f"{placed.id} is placed on {name}, which does not lend: {heard[-1].report.why_not}")
        elif all(self._too_much(server_id, each.report) for each in heard):
            self.broke(ADMITTED, f"{placed.id} on {name}: {self._too_much(server_id, heard[-1].report)}")
        at, seconds = self._evicted.get(server_id, (NEVER, 0.0))
        if self._lookback() < now - at < seconds - SLACK_SECONDS and now - self.clock_set_at > seconds:
            self.broke(BACKOFF, f"{placed.id} is placed on {name} {now - at:.1f} s after it sent replicas away")

    def _too_much(self, server_id: str, report: ServerReport) -> str:
        """Say in which way all that is placed on a server is more than it had room for; empty: it is not."""
        cpus = coming_cpus = 0.0
        memory = coming_memory = 0
        jumped = self._now() - self.clock_set_at < 2 * UNMEASURED_SECONDS
        for replica in self._held_by(server_id):
            need = self._need(replica)
            cpus, memory = cpus + need[0], memory + need[1]
            new = self._now() - self._ran_since.get(replica.id, self._now()) < UNMEASURED_SECONDS
            if replica.state is ReplicaState.PLACED or (replica.state is ReplicaState.RUNNING and new and not jumped):
                coming_cpus, coming_memory = coming_cpus + need[0], coming_memory + need[1]
        if cpus > report.offer_cpus + 1e-6:
            return f"{cpus:.2f} processors are placed, {report.offer_cpus:.2f} were offered"
        if memory > report.offer_memory_bytes:
            return f"{memory} bytes are placed, {report.offer_memory_bytes} were offered"
        policies = self._policies_of(server_id)
        most = max(policy.cpu_threshold for policy in policies) * report.cpus
        most_memory = max(policy.memory_threshold for policy in policies) * report.memory_bytes
        if report.used_cpus + coming_cpus > most + 1e-6:
            return f"{report.used_cpus:.2f} and {coming_cpus:.2f} coming are above {most:.2f} processors"
        if report.used_memory_bytes + coming_memory > most_memory:
            return f"{report.used_memory_bytes} and {coming_memory} coming are above {most_memory:.0f} bytes"
        return ""

    # what leaves

    def _check_evicted(
        self, changed: Iterable[tuple[Replica | None, Replica]], held: Mapping[str, list[Replica]]
    ) -> None:
        chosen: dict[str, list[Replica]] = defaultdict(list)
        on = self._on()
        for old, new in changed:
            if old is not None and old.move is not None:
                self._moved_at[new.id] = self._now()
            if new.move is not None and old is not None and old.move is None:
                self._story.tell("store", f"replica {new.id} is to move: {new.move.text}")
                if new.move.code == NEEDED:
                    chosen[on.get(new.node_id, "")].append(new)
        for server_id, replicas in chosen.items():
            if server_id not in self.servers:
                continue
            seconds = min(policy.backoff_seconds for policy in self._policies_of(server_id))
            # A process that was held up may have chosen so much earlier than it stored that.
            self._evicted[server_id] = (self._now(), seconds - self._longest_held())
            self._chosen[server_id] += 1
            self._check_enough(server_id, replicas, held[server_id])
            self._check_lowest(server_id, replicas, held[server_id])

    def _check_enough(self, server_id: str, chosen: list[Replica], before: list[Replica]) -> None:
        reports = [heard.report for heard in self._believable(server_id)]
        going = [found for found in before if found.state in GOING or (found.move is not None and found.move_by)]
        last = max(RANKS[self._class(found)] for found in chosen)  # the class that was chosen from last
        for part, relief in (
            (0, max((report.relief_cpus for report in reports), default=0.0)),
            (1, max((report.relief_memory_bytes for report in reports), default=0)),
        ):
            needs = {found.id: self._need(found)[part] for found in chosen}
            most = max(needs[found.id] for found in chosen if RANKS[self._class(found)] == last)
            left = relief - sum(self._need(found)[part] for found in going)
            if left > 1e-6 and sum(needs.values()) - most < left + 1e-6:
                return
        names = ", ".join(found.id for found in chosen)
        self.broke(ENOUGH, f"{names} leave {self._name(server_id)}, {len(going)} others leave already")

    def _check_lowest(self, server_id: str, chosen: list[Replica], before: list[Replica]) -> None:
        ids = {found.id for found in chosen}
        highest = max(RANKS[self._class(found)] for found in chosen)
        for found in before:
            new = self._now() - self._placed_at.get(found.id, NEVER) < self._lookback() + SLACK_SECONDS
            stays = found.id not in ids and found.move is None and found.state in MOVABLE and not new
            if stays and RANKS[self._class(found)] < highest:
                self.broke(LOWEST, f"{found.id} ({self._class(found)}) stays, {', '.join(sorted(ids))} leave")

    def _excused(self, replica: Replica) -> bool:
        """Say whether a replica may be stopped before another serves: its time to move is over."""
        if replica.move is None or not replica.move_by:
            return False
        clock = self.world.clock() if self._now() - self.clock_set_at > STALE_SECONDS else float("inf")
        return replica.move_by <= clock

    def _draining(self, replica: Replica) -> bool:
        """Say whether a replica has to leave where it is, or had to when this may have been decided."""
        moved = self._may_not_know(self._moved_at.get(replica.id, NEVER))
        return moved or replica.move is not None or super()._draining(replica)

    def _name(self, member_id: str) -> str:
        member = self.members().get(member_id)
        return member.name if member is not None else member_id

    def lending(self) -> list[Member]:
        """Return the servers that should lend, as nobody keeps them from it."""
        return [
            found
            for found in self.members().values()
            if found.id in self.servers
            and found.scheduling is Scheduling.ACTIVE
            and found.state is MemberState.READY
            and self.policy(found.id).lends
        ]

    def automatic(self, server_id: str) -> list[Vm]:
        """Return the machines of a server's policy, without those that leave."""
        found = [vm for vm in self.vms().values() if vm.server_id == server_id and vm.automatic]
        return [vm for vm in found if vm.wanted is not VmWish.ABSENT]
