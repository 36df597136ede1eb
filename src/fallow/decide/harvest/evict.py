"""Which replicas leave a server that needs back what it lent, and until when their replacements are waited for.

A server's own agent holds what is lent within its limit, every second. Here it is decided who goes when that is not
enough: just enough of them, lowest class first, and nobody comes back for a while. What was freed is counted from the
moment it is decided until the server has had time to measure it, so that nothing goes for the same need twice.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import msgspec

from fallow.decide.events import event
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.hours import HoursError, lends_at
from fallow.decide.harvest.pools import pool_of
from fallow.decide.harvest.redated import MOVABLE, lending_redated, moves_redated
from fallow.decide.placement.phrases import processors
from fallow.decide.placement.request import NANO, going
from fallow.decide.placement.standing import SETTLE_SECONDS, Lenders, Need, replicas_on
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.events import Event
from fallow.model.members import Member, Scheduling
from fallow.model.meta import Reason, Record
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import Lending, ServerReport
from fallow.model.units import format_bytes, format_duration

AT_ONCE = 50  # replicas of one server in one step
IN_ALL = 1000  # replicas in one plan
REST_SECONDS = 10.0  # between two choices of one server, unless it is urgent
URGENT_SECONDS = 5.0  # so long a replica waits for its replacement when it is urgent
NEEDED = "ServerNeeds"  # codes of Replica.move
CLOSES = "ServerCloses"

_RANKS = {"spot": 0, "harvest": 1, "": 1, "standard": 2}  # the lowest goes first


def evict(snapshot: Snapshot, servers: HeardServers, now: float, new_id: Callable[[], str]) -> Plan:
    """Return what makes replicas leave servers that need back what they lent, or stay where that is over.

    Of a server that is closed, drained, or outside its hours all replicas leave; of one whose fresh report asks for
    relief just enough. Of a silent server nothing is known: what becomes of its nodes is decided by whether they live.
    """
    world = _World(snapshot, servers, now, new_id)
    steps: list[Step] = []
    left = IN_ALL
    for server in world.lending():
        step, count = world.step(server, left)
        left -= count
        if step is not None:
            steps.append(step)
    return Plan(steps=steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    member: Member
    policy: LendingPolicy
    lending: Lending | None
    report: ServerReport | None  # None: there is none that may be believed
    replicas: tuple[Replica, ...]
    now: float
    dated: tuple[Record, ...] = ()  # what is dated anew among these, as the clock was set back

    @property
    def relief(self) -> Need:
        """Return what should go."""
        if self.report is None:
            return Need(0, 0)
        return Need(round(self.report.relief_cpus * NANO), self.report.relief_memory_bytes)

    @property
    def urgent(self) -> bool:
        """Say whether there is no time to wait for replacements."""
        return self.report is not None and self.report.urgent

    @property
    def patient(self) -> bool:
        """Say whether replicas may wait for their replacements for as long as it takes: an operator drains it."""
        leaving = self.lending is not None and self.lending.leaving
        return self.member.scheduling is Scheduling.DRAINING and not leaving and not self.urgent

    @property
    def closing(self) -> str:
        """Return why all replicas should leave; empty: they may stay.

        A server that does not lend because a primary is not found, or nothing can be measured, keeps what it has: it
        gets nothing new, and is held within its limit. Otherwise each restart of a primary would move everything.
        """
        if self.lending is not None and self.lending.closed:
            return self.lending.closed
        if self.member.scheduling is Scheduling.DRAINING:
            return "it is being drained"
        if not self.policy.lends:
            return "its server pool does not lend any more"
        return self._outside()

    def _outside(self) -> str:
        """Return what a server says that lends no more because its hours have ended, as they have."""
        if self.report is None or self.report.lends or not self.policy.hours:
            return ""
        try:
            within = lends_at(self.policy.hours, self.policy.timezone, self.now)
        except HoursError:
            return ""
        return "" if within else self.report.why_not or "outside its hours"


@dataclass
class _World:
    """One run: what it looks at, and which replicas it lets go."""

    snapshot: Snapshot
    servers: HeardServers
    now: float
    new_id: Callable[[], str]
    lost: Counter[str] = field(default_factory=Counter)  # deployment -> healthy replicas that were chosen in this run

    def __post_init__(self) -> None:
        self.lenders = Lenders(self.snapshot, self.servers, self.now)

    def lending(self) -> list[_Server]:
        """Return the servers with anything on them or decided about them, those in need first."""
        found = []
        for server_id in self.snapshot.vms_by_server:
            member = self.snapshot.members.get(server_id)
            replicas = {each.id: each for each in replicas_on(self.snapshot, server_id)} if member is not None else {}
            lending = self.snapshot.lendings.get(server_id)
            if member is None or not (replicas or lending):
                continue
            policy = pool_of(self.snapshot, member)[1]
            moves = tuple(moves_redated(replicas.values(), policy, self.now))
            replicas |= {each.id: each for each in moves}
            backing = lending_redated(lending, policy, self.now)
            heard = self.servers.get(server_id)
            found.append(
                _Server(
                    member=member,
                    policy=policy,
                    lending=backing or lending,
                    report=heard.report if heard is not None and heard.fresh else None,
                    replicas=tuple(replicas.values()),
                    now=self.now,
                    dated=(*moves, backing) if backing is not None else moves,
                )
            )
        return sorted(found, key=lambda server: (not server.urgent, not any(server.relief), server.member.id))

    def step(self, server: _Server, most: int) -> tuple[Step | None, int]:
        """Return what changes on one server, and how many replicas leave by it."""
        step, count = self._decided(server, most)
        if server.dated:
            changed = {record.id: record for record in (*server.dated, *(step.puts if step is not None else ()))}
            step = Step(puts=tuple(changed.values()))
        return step, count

    def _decided(self, server: _Server, most: int) -> tuple[Step | None, int]:
        most = min(most, AT_ONCE)
        if server.closing:
            return self._emptying(server, most)
        if not any(server.relief):
            return self._staying(server), 0
        chosen = self._relieving(server, most)
        if not chosen:
            return None, 0
        why = self._need_text(server)
        moves = [self._leaving(server, found, NEEDED, why) for found in chosen]
        since = server.report.relief_seconds if server.report is not None else 0.0
        text = f"{why}, for {format_duration(since)} now: {_names(moves)} to move"
        told = self._event(server, "ReplicasEvicted", text, "warning")
        return Step(puts=(*moves, self._backing_off(server, len(moves)), told)), len(moves)

    def _emptying(self, server: _Server, most: int) -> tuple[Step | None, int]:
        """Let everything leave a server that lends nothing any more."""
        why = f"server {server.member.name} lends nothing any more: {server.closing}"
        moves = [
            self._leaving(server, found, CLOSES, why)
            for found in server.replicas
            if found.state in MOVABLE and (found.move is None or not (found.move_by or server.patient))
        ][:most]
        if not moves:
            return None, 0
        told = self._event(server, "ServerEmptied", f"{why}; {_names(moves)} to move")
        return Step(puts=(*moves, told)), len(moves)

    def _staying(self, server: _Server) -> Step | None:
        """Let replicas stay that were to leave, once the server is well again, unless another has a node already.

        Nobody need be stopped then for a peak that has passed; what has begun to move goes on, so that nothing flaps.
        """
        report, lending = server.report, server.lending
        if report is None or not report.lends:
            return None
        if self._rests(lending):
            return None
        stay = [
            msgspec.structs.replace(found, move=None, move_by=0.0, updated_at=self.now)
            for found in server.replicas
            if found.move is not None
            and found.state in MOVABLE
            and (not found.move_by or found.move_by > self.now)
            and not self._replacing(found)
        ][:AT_ONCE]
        if not stay:
            return None
        text = f"server {server.member.name} is well again: {_names(stay)} to stay after all"
        return Step(puts=(*stay, self._event(server, "ReplicasStay", text)))

    def _rests(self, lending: Lending | None) -> bool:
        """Say whether a choice was made just now; one that lies ahead is from before the clock was set back."""
        return lending is not None and 0 <= self.now - lending.evicted_at < REST_SECONDS

    def _replacing(self, replica: Replica) -> bool:
        """Say whether a replacement has a node already."""
        others = self.snapshot.replicas_by_deployment.get(replica.deployment_id, ())
        return any(found.replaces == replica.id and found.node_id and not found.ended for found in others)

    # who goes

    def _relieving(self, server: _Server, most: int) -> list[Replica]:
        """Return the replicas that have to go so that the server has what it needs; none while that is on its way."""
        leaving = [found for found in server.replicas if going(found) or (found.move is not None and found.move_by)]
        freed = self._freed(server)
        need = _less(server.relief, (freed[found.id] for found in leaving))
        if not any(need):
            return []
        if not server.urgent and self._rests(server.lending):
            return []
        need = _less(need, (self.lenders.need(found) for found in self._gone.get(server.member.id, ())))
        there = {found.id for found in leaving}
        candidates = [found for found in server.replicas if found.state in MOVABLE and found.id not in there]
        return self._chosen(candidates, freed, need, most)

    def _chosen(self, candidates: list[Replica], freed: dict[str, Need], need: Need, most: int) -> list[Replica]:
        chosen: list[Replica] = []
        while any(need) and candidates and len(chosen) < most:
            wanted = need
            best = min(candidates, key=lambda found: self._cost(found, freed[found.id], wanted))
            candidates.remove(best)
            chosen.append(best)
            self.lost[best.deployment_id] += best.healthy
            need = _less(need, [freed[best.id]])
        return chosen

    def _cost(self, replica: Replica, freed: Need, need: Need) -> tuple[object, ...]:
        """Return what compares replicas, the smallest goes first.

        By class, then not the last that serves, then what serves nothing yet; then the smallest of those that suffice
        alone, or else the largest, so that as few as possible go; then the youngest.
        """
        covered = [have / want for have, want in zip(freed, need, strict=True) if want > 0]
        enough = min(covered) >= 1
        size = sum(covered) if enough else -sum(min(1.0, part) for part in covered)
        last = replica.healthy and self._healthy[replica.deployment_id] - self.lost[replica.deployment_id] <= 1
        return (self._rank(replica), last, replica.healthy, not enough, size, -replica.created_at, replica.id)

    def _rank(self, replica: Replica) -> int:
        template = self.snapshot.templates.get(replica.template_id)
        return _RANKS[template.placement.service_class] if template is not None else 1

    @cached_property
    def _healthy(self) -> Counter[str]:
        """Return how many replicas of each deployment serve and stay."""
        return Counter(
            found.deployment_id for found in self.snapshot.replicas.values() if found.healthy and found.move is None
        )

    @cached_property
    def _gone(self) -> dict[str, list[Replica]]:
        """Return the replicas of each server that ended so lately that it may still measure them."""
        found: dict[str, list[Replica]] = defaultdict(list)
        for replica in self.snapshot.replicas.values():
            vm = self.snapshot.vms_by_node.get(replica.node_id) if replica.ended else None
            if vm is not None and replica.state is ReplicaState.STOPPED:
                heard = self.servers.get(vm.server_id)
                settled = SETTLE_SECONDS + (heard.report.window_seconds if heard is not None else 0.0)
                if 0 <= self.now - replica.state_since < settled:
                    found[vm.server_id].append(replica)
        return found

    def _freed(self, server: _Server) -> dict[str, Need]:
        """Return what each replica would free: what it reserves, or its part of what its virtual machine uses."""
        uses = {use.vm_id: use for use in server.report.vms} if server.report is not None else {}
        found: dict[str, Need] = {}
        for vm in self.snapshot.vms_by_server.get(server.member.id, ()):
            replicas = self.snapshot.replicas_by_node.get(vm.node_id, ()) if vm.node_id else ()
            needs = {replica.id: self.lenders.need(replica) for replica in replicas}
            running = [needs[replica.id] for replica in replicas if replica.state is not ReplicaState.PLACED]
            cpus, memory = sum(need.cpus for need in running) or 1, sum(need.memory for need in running) or 1
            use = uses.get(vm.id)
            for replica in replicas:
                need = needs[replica.id]
                if use is not None and replica.state is not ReplicaState.PLACED:
                    need = Need(
                        max(need.cpus, round(use.cpus * NANO * need.cpus / cpus)),
                        max(need.memory, round(use.memory_bytes * need.memory / memory)),
                    )
                found[replica.id] = need
        return found

    # what is written

    def _leaving(self, server: _Server, replica: Replica, code: str, text: str) -> Replica:
        """Return the replica as it has to leave; one of an operator's drain waits for as long as it takes."""
        move_by = self.now + server.policy.move_seconds
        if self._rank(replica) == _RANKS["spot"]:
            move_by = self.now
        elif server.urgent:
            move_by = self.now + min(URGENT_SECONDS, server.policy.move_seconds)
        elif code == CLOSES and server.patient:
            move_by = 0.0
        return msgspec.structs.replace(replica, move=Reason(code=code, text=text), move_by=move_by, updated_at=self.now)

    def _backing_off(self, server: _Server, count: int) -> Lending:
        before = server.lending or Lending(id=server.member.id, created_at=self.now, updated_at=self.now)
        return msgspec.structs.replace(
            before,
            backoff_until=max(before.backoff_until, self.now + server.policy.backoff_seconds),
            evictions=before.evictions + count,
            evicted_at=self.now,
            reason=self._need_text(server),
            updated_at=self.now,
        )

    def _need_text(self, server: _Server) -> str:
        relief = server.relief
        parts = [f"{processors(relief.cpus)} processors"] if relief.cpus else []
        parts += [f"{format_bytes(relief.memory)} of memory"] if relief.memory else []
        return f"server {server.member.name} needs back {' and '.join(parts)}"

    def _event(self, server: _Server, reason: str, text: str, level: Literal["info", "warning"] = "info") -> Event:
        member = server.member
        return event(self.new_id(), self.now, "loop:evictions", "member", member.id, member.name, reason, text, level)


def _less(need: Need, freed: Iterable[Need]) -> Need:
    """Return what of a need is left, never below nothing."""
    cpus, memory = need
    for found in freed:
        cpus, memory = cpus - found.cpus, memory - found.memory
    return Need(max(cpus, 0), max(memory, 0))


def _names(replicas: Sequence[Replica]) -> str:
    """Name a few replicas, and count many."""
    ids = [replica.id for replica in replicas]
    if len(ids) == 1:
        return f"{ids[0]} is"
    return f"{', '.join(ids)} are" if len(ids) <= 3 else f"{len(ids)} replicas ({', '.join(ids[:3])} ...) are"
