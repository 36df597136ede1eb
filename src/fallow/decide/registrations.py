"""Who of the machines that ask becomes a member: names, leases and uses of tokens given in one step, nobody twice.

Pure: the process that leads calls it with what waits, and commits the one step it returns. Since that step is checked
against the leader's record, and only the leader makes members, two machines never get the same name or port.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import msgspec

from fallow.decide.events import event
from fallow.decide.joining import free_name, name_from_hostname
from fallow.decide.leases import LeaseBook, LeaseRefused, LeaseWish
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.tokens import token_ended, unfit_token, used_up, utc
from fallow.model.events import Event
from fallow.model.members import Lease, Member, Revocation, Role
from fallow.model.meta import Record, is_name
from fallow.model.pools import NetworkMode
from fallow.model.problems import Problem
from fallow.model.registrations import MemberKey, Registration, RegistrationState
from fallow.model.tokens import Approve, JoinToken

PENDING_SECONDS = 24 * 3600.0  # so long a machine waits for a person
KEEP_REFUSED_SECONDS = 600.0
KEEP_REJECTED_SECONDS = 24 * 3600.0
MAX_PENDING = 1000
RECORDS_EACH = 6  # written for one machine at most: member, key, revocation, event, registration, virtual machine
BYTES_EACH = 256  # of what is written beside the member


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a cluster gives its members, and how much one commit takes."""

    certificate_seconds: float
    max_records: int
    max_bytes: int


def admit(snapshot: Snapshot, now: float, rules: Rules, book: LeaseBook, new_id: Callable[[], str]) -> Plan:
    """Return one step that decides about the machines that have waited longest, as many as a commit takes.

    `book` gives their leases, and is of this very snapshot. `new_id` makes ids of members and events. What does not
    fit into the commit is decided in the next run, at once.
    """
    waiting = [asks for asks in snapshot.registrations.values() if asks.state is RegistrationState.WAITING]
    waiting.sort(key=lambda asks: (asks.created_at, asks.id))
    intake = Intake(snapshot, now, rules, book, new_id)
    left = intake.tidy() + sum(not intake.decide(asks) for asks in waiting)
    step = intake.step()
    wake = 0.0 if left and step is not None else intake.next_end()
    return Plan(steps=(step,) if step is not None else (), wake_after_seconds=wake)


def proposed_name(asks: Registration, token: JoinToken | None) -> str:
    """Return what a machine would be called if nobody else were: as its token says, as proposed, or derived."""
    fixed = token.name if token is not None else ""
    return fixed or asks.name or name_from_hostname(asks.facts.hostname, asks.role)


@dataclass
class Intake:
    """One step in the making: everything decided so far counts for what is decided next."""

    snapshot: Snapshot
    now: float
    rules: Rules
    book: LeaseBook
    new_id: Callable[[], str]
    puts: list[Record] = field(default_factory=list)
    deletes: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with what is stored."""
        members = self.snapshot.members
        self._tokens: dict[str, JoinToken] = {}  # that change
        self._bytes = 0
        self._pending = sum(asks.state is RegistrationState.PENDING for asks in self.snapshot.registrations.values())
        # Commands take a name or an id: a name that is another member's id would lead them astray.
        self._names = {member.name for member in members.values()}
        self._replaced: set[str] = set()  # members that got a new key in this step
        self._joined: list[Member] = []
        self._vms = {vm.token_id: vm for vm in self.snapshot.vms.values() if vm.token_id}
        self._numbers: dict[str, int] = {}  # plain name -> the number up to which all are taken

    def step(self) -> Step | None:
        """Return everything decided as one step; None: nothing."""
        puts = (*self.puts, *self._tokens.values())
        if not puts and not self.deletes:
            return None
        return Step(puts=puts, deletes=tuple(self.deletes), guards=self.book.guards)

    def tidy(self) -> int:
        """End what has waited for a person for too long, and forget what was told; return how much is left to do."""
        left = 0
        for asks in self.snapshot.registrations.values():
            if asks.state is RegistrationState.WAITING or self._ends_at(asks) > self.now:
                continue
            if not self._room(asks):
                left += 1
            elif asks.state is RegistrationState.PENDING:
                self._lapse(asks)
            else:
                self.deletes.append(asks)
        return left

    def next_end(self) -> float | None:
        """Return after how many seconds the next registration ends by itself."""
        ends = [
            self._ends_at(asks)
            for asks in self.snapshot.registrations.values()
            if asks.state is not RegistrationState.WAITING
        ]
        return max(0.1, min(ends) - self.now) if ends else None

    def decide(self, asks: Registration) -> bool:
        """Decide about one machine; False: the commit has no more room."""
        if not self._room(asks):
            return False
        outcome = self._outcome(asks)
        if isinstance(outcome, Problem):
            self._refuse(asks, outcome)
        return True

    def _outcome(self, asks: Registration) -> Problem | None:
        """Admit a machine, or let it wait for a person; or return why not."""
        token = self._token(asks.token_id)
        if token is None:
            return _problem(403, "token-unknown", "Unknown token", "its token was deleted meanwhile", _ANOTHER)
        if self._known(asks):
            return None
        counted = asks.approved_by != ""  # since it began to wait for a person
        problem = unfit_token(token, asks.role, asks.source_address)
        if problem is None and not counted:
            problem = used_up(token, asks.created_at, chain(self.snapshot.members.values(), self._joined))
            if problem is None and token.approve is Approve.MANUAL:
                return self._await_approval(asks, token)
        if problem is None:
            problem = self._replace(asks, token) if token.replaces else self._make(asks, token)
        if counted != (problem is None):  # a use is taken when it begins to wait, or else when it is admitted
            self._tokens[token.id] = self._used(token, -1 if counted else 1)
        return problem

    def _make(self, asks: Registration, token: JoinToken) -> Problem | None:
        name = self._name(asks, token)
        if isinstance(name, Problem):
            return name
        lease = self._lease(asks, token)
        if isinstance(lease, Problem):
            return lease
        member = Member(
            id=self._member_id(asks.role),
            created_at=self.now,
            updated_at=self.now,
            name=name,
            role=asks.role,
            labels=token.labels | asks.labels,
            key_sha256=asks.id,
            token_id=token.id,
            certificate_expires_at=0.0,
            lease=lease,
            state_since=self.now,
            state_reason="it has an identity and has not yet opened a session",
        )
        self._admitted(asks, member, "MemberJoined", f"{member.role} {name} at {lease.address} joined")
        return None

    def _lease(self, asks: Registration, token: JoinToken) -> Lease | Problem:
        if asks.role in (Role.CLUSTER, Role.SERVER):
            return Lease(address=asks.source_address)  # shown, never dialled: its nodes have addresses of their own
        wish = LeaseWish(role=asks.role, source_address=asks.source_address, address=asks.address, pool=token.pool)
        try:
            return self.book.allocate(wish)
        except LeaseRefused as refused:
            status = 400 if refused.code == "bad-address" else 409
            return _problem(status, refused.code, refused.title, refused.detail, refused.hint)

    def _replace(self, asks: Registration, token: JoinToken) -> Problem | None:
        """Let a machine take a member's place: id, name, lease and labels stay, the old key ends."""
        member = self.snapshot.members.get(token.replaces)
        if member is None or member.id in self._replaced:
            return token_ended(
                "replaced-gone", "Nothing to replace", f"the member {token.replaces} is gone or just replaced", token
            )
        lease = member.lease
        # Without an overlay the address is the machine's own.
        if lease.mode is NetworkMode.DIRECT and lease.address != asks.source_address:
            given = self._lease(asks, token)
            if isinstance(given, Problem):
                return given
            lease = given
        self.puts.append(self._revocation(member))
        labels = member.labels | asks.labels
        member = msgspec.structs.replace(
            member, key_sha256=asks.id, token_id=token.id, lease=lease, labels=labels, fence="", runs=()
        )
        self._replaced.add(member.id)
        message = f"{member.role} {member.name} at {lease.address} has a new key; the old one is not accepted any more"
        self._admitted(asks, member, "MemberReplaced", message)
        return None

    def _revocation(self, member: Member) -> Revocation:
        """Return what the machine with the member's old key is told, should it come back."""
        before = self.snapshot.revocations.get(member.key_sha256)
        return Revocation(
            id=member.key_sha256,
            created_at=self.now,
            updated_at=self.now,
            revision=before.revision if before is not None else 0,
            member_id=member.id,
            name=member.name,
            role=member.role,
            reason=f"another machine took the place of {member.name}; join with a new token to use this one again",
        )

    def _admitted(self, asks: Registration, member: Member, reason: str, message: str) -> None:
        expires_at = float(int(self.now + self.rules.certificate_seconds))
        member = msgspec.structs.replace(
            member,
            updated_at=self.now,
            certificate_expires_at=expires_at,
            function=asks.function,
            facts=asks.facts,
            variables=asks.variables,
            temporary_address=asks.temporary_address,
            temporary_port=asks.temporary_port,
            reported_at=self.now,
            requested_at=asks.created_at,
            observed_address=asks.source_address,
        )
        by = f", approved by {asks.approved_by}" if asks.approved_by else ""
        actor = f"{member.role}:{member.name}"
        key = MemberKey(
            id=asks.id,
            created_at=self.now,
            updated_at=self.now,
            member_id=member.id,
            token_id=member.token_id,
            source_address=asks.source_address,
        )
        told = self._event(actor, member, reason, f"{message}{by}; its certificate ends at {utc(expires_at)}")
        self._names.add(member.name)
        self._joined.append(member)
        self.puts += (member, key, told)
        # In the same commit: nobody may take the node for a machine of its own, not even for a moment.
        vm = self._vms.get(member.token_id)
        if vm is not None:
            self.puts.append(msgspec.structs.replace(vm, node_id=member.id, updated_at=self.now))
        self.deletes.append(asks)

    def _await_approval(self, asks: Registration, token: JoinToken) -> Problem | None:
        if self._pending >= MAX_PENDING:
            return _problem(
                429,
                "too-many-pending",
                "Too many machines wait for approval",
                f"{MAX_PENDING} machines wait already",
                "decide about some of them: fallow node pending",
            )
        self._pending += 1
        self._tokens[token.id] = self._used(token, 1)
        self.puts.append(
            msgspec.structs.replace(asks, state=RegistrationState.PENDING, updated_at=self.now, problem=None)
        )
        name = proposed_name(asks, token)
        message = f"{asks.role} {name} at {asks.source_address} waits for approval: fallow node approve {asks.id[:12]}"
        self.puts.append(self._told(asks, name, "ApprovalNeeded", message))
        return None

    def _lapse(self, asks: Registration) -> None:
        """Nobody has decided: the machine is told so, and its token has its use back."""
        token = self._token(asks.token_id)
        if token is not None:
            self._tokens[token.id] = self._used(token, -1)
        ended = self._ends_at(asks) == 0.0
        why = "its token was revoked" if ended else f"nobody approved it since {utc(asks.created_at)}"
        problem = _problem(403, "approval-expired", "Not approved in time", why, "ask again: fallow join")
        self._refuse(asks, problem)
        name = proposed_name(asks, token)
        self.puts.append(self._told(asks, name, "ApprovalExpired", f"{asks.role} {name}: {why}", "warning"))

    def _refuse(self, asks: Registration, problem: Problem) -> None:
        self.puts.append(
            msgspec.structs.replace(
                asks, state=RegistrationState.REFUSED, problem=problem, approved_by="", updated_at=self.now
            )
        )

    def _known(self, asks: Registration) -> bool:
        """Forget a machine that was admitted before: it is told who it is, or why not, from its key's record."""
        if asks.id not in self.snapshot.member_keys:
            return False
        self.deletes.append(asks)
        return True

    def _name(self, asks: Registration, token: JoinToken) -> str | Problem:
        wished = token.name or asks.name
        if not wished:
            plain = name_from_hostname(asks.facts.hostname, asks.role)
            name, self._numbers[plain] = free_name(plain, self._is_taken, self._numbers.get(plain, 1))
            return name
        if not is_name(wished):
            return _problem(
                400,
                "name-invalid",
                "Not a usable name",
                f"{wished!r} is not a DNS label: a-z, 0-9 and dashes, at most 40 of them, a letter first",
                "",
            )
        if self._is_taken(wished):
            return _problem(
                409,
                "name-taken",
                "Name taken",
                f"another member is called {wished}",
                f"choose another name, or first remove what is gone: fallow node remove {wished}; a machine that was "
                f"installed anew gets its name back with: fallow token create --replace {wished}",
            )
        return wished

    def _is_taken(self, name: str) -> bool:
        return name in self._names or name in self.snapshot.members

    def _member_id(self, role: Role) -> str:
        while (found := f"{role[0]}-{self.new_id()}") in self.snapshot.members or found in self._names:
            pass
        return found

    def _token(self, token_id: str) -> JoinToken | None:
        return self._tokens.get(token_id) or self.snapshot.join_tokens.get(token_id)

    def _used(self, token: JoinToken, more: int) -> JoinToken:
        spent = max(0, token.spent + more)
        at = self.now if more > 0 else token.used_at
        return msgspec.structs.replace(token, used=spent, used_by={}, used_at=at, updated_at=self.now)

    def _ends_at(self, asks: Registration) -> float:
        if asks.state is RegistrationState.PENDING:
            token = self.snapshot.join_tokens.get(asks.token_id)
            gone = token is None or token.revoked
            return 0.0 if gone else asks.created_at + PENDING_SECONDS
        kept = KEEP_REJECTED_SECONDS if asks.state is RegistrationState.REJECTED else KEEP_REFUSED_SECONDS
        return asks.updated_at + kept

    def _room(self, asks: Registration) -> bool:
        """Say whether the commit holds one more machine; the first always."""
        self._bytes += 2 * len(msgspec.msgpack.encode(asks)) + RECORDS_EACH * BYTES_EACH
        records = len(self.puts) + len(self.deletes) + len(self._tokens) + RECORDS_EACH + 1 + len(self.book.guards)
        empty = not self.puts and not self.deletes
        return empty or (records <= self.rules.max_records and self._bytes <= self.rules.max_bytes)

    def _event(self, actor: str, member: Member, reason: str, message: str) -> Event:
        return event(self.new_id(), self.now, actor, "member", member.id, member.name, reason, message)

    def _told(
        self, asks: Registration, name: str, reason: str, message: str, level: Literal["info", "warning"] = "info"
    ) -> Event:
        actor, id_ = "loop:registrations", asks.id
        return event(self.new_id(), self.now, actor, "registration", id_, name, reason, message, level)


_ANOTHER = "create another: fallow token create"


def _problem(status: int, code: str, title: str, detail: str, hint: str) -> Problem:
    return Problem(type=f"urn:fallow:{code}", title=title, status=status, detail=detail, hint=hint)
