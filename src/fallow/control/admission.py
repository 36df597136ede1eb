"""Admission: a machine with a join token and a key of its own becomes a member; a member's certificate is renewed.

Identity is the key: a token is bound to the key that used it, so a machine whose answer was lost asks again and gets
the same identity. Names and ports are given one at a time: under a lock in this process, and by the members' roster
among several. The token's revision guards its uses. Machines that ask at the same time are admitted by one commit: a
fleet of thousands joins with one token, which every commit stores whole.
"""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from fallow.control.arrivals import Draft
from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.pools import refused_pool
from fallow.control.refusals import Refused, refuse
from fallow.control.renewals import Renewals
from fallow.control.rosters import guarded
from fallow.control.settings import Settings
from fallow.control.tokens import matches_secret
from fallow.decide.events import event
from fallow.decide.joining import free_name, lease_address, name_from_hostname
from fallow.decide.leases import LeaseBook, LeaseDefaults, LeaseRefused, LeaseWish
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.drivers.authority import Authority, AuthorityError, Issued, key_sha256_of_request
from fallow.model.credentials import JoinCredential, parse_join_credential
from fallow.model.labels import variables_problem
from fallow.model.members import Identity, JoinRequest, Lease, Member, RenewRequest, Revocation, Role
from fallow.model.meta import is_name
from fallow.model.tokens import JoinToken
from fallow.store.applier import Applier
from fallow.store.cache import Cache

__all__ = ["Admission", "Refused"]

ID_LENGTH = 8
JOINS_AT_ONCE = 32  # in one commit


@dataclass(eq=False, slots=True)
class _Arrival:
    """A machine that waits to be admitted, and what came of it."""

    request: JoinRequest
    credential: JoinCredential
    address: str
    outcome: tuple[Member, Issued] | Refused | None = None


class Admission:
    """Admits members and renews their certificates. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, authority: Authority, settings: Settings, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._authority = authority
        self._settings = settings
        self._clock = clock
        self._lock = asyncio.Lock()
        self._renewals = Renewals()
        self._arrivals: list[_Arrival] = []
        self._lease_defaults = LeaseDefaults(
            host_ports=settings.host_ports, host_ports_per_node=settings.host_ports_per_node
        )
        self._book = LeaseBook(Snapshot(), 0.0)

    async def join(self, request: JoinRequest, source_address: str) -> Identity:
        """Make a member of a machine that called from `source_address`, or repeat the answer to its earlier call.

        Raises Refused.
        """
        problem = variables_problem(request.variables)
        if problem:
            raise refuse(400, "bad-variable", "Not a usable variable", problem, "correct it, then join again")
        credential = self._credential(request)
        try:
            address = lease_address(source_address)
        except ValueError as error:
            raise refuse(400, "bad-address", "No usable source address", str(error)) from error

        await self._cache.latest("join-tokens", credential.token_id)
        arrival = _Arrival(request, credential, address)
        self._arrivals.append(arrival)
        try:
            async with self._lock:
                while arrival.outcome is None:  # else whoever had the lock before has seen to it
                    await self._admit_waiting()
        finally:
            self._arrivals.remove(arrival)
        if isinstance(arrival.outcome, Refused):
            raise arrival.outcome
        return self._identity(*arrival.outcome)

    async def _admit_waiting(self) -> None:
        """Decide about the machines that have waited longest. A commit that fails is told to the caller alone."""
        batch = [arrival for arrival in self._arrivals if arrival.outcome is None][:JOINS_AT_ONCE]

        def decide() -> tuple[Step | None, list[tuple[Member, Issued] | Refused]]:
            draft, now = Draft(self._cache.snapshot()), self._clock()
            self._book = LeaseBook(self._cache.snapshot(), now, self._lease_defaults, self._book)
            outcomes = [self._decide(draft, arrival) for arrival in batch]
            step = draft.step()
            if step is None:
                return None, outcomes
            return guarded(self._cache, replace(step, guards=self._book.guards), "members", now), outcomes

        for arrival, outcome in zip(batch, await commit_again(self._applier, decide), strict=True):
            arrival.outcome = outcome

    def _decide(self, draft: Draft, arrival: _Arrival) -> tuple[Member, Issued] | Refused:
        """Admit one machine, or say why not."""
        request = arrival.request
        try:
            token = self._checked_token(draft.tokens.get(arrival.credential.token_id), arrival.credential, request.role)
            key_sha256 = self._key_of(request.csr_pem)
            self._check_not_revoked(key_sha256)
            member = self._joined_before(draft, token, key_sha256)
            if member is not None:
                step, admitted = self._certify(member, request.csr_pem, "CertificateIssued", ())
            else:
                self._check_unused(draft, token)
                member = self._new_member(draft, request, token, key_sha256, arrival.address)
                token = msgspec.structs.replace(
                    token, used_by={**token.used_by, key_sha256: member.id}, updated_at=member.updated_at
                )
                step, admitted = self._certify(member, request.csr_pem, "MemberJoined", (token,))
        except Refused as refused:
            return refused
        draft.put(step)
        return admitted

    async def renew(self, request: RenewRequest) -> Identity:
        """Return a new certificate for a member's own key, even when the old one has expired. Raises Refused."""

        def decide() -> tuple[Step, tuple[Member, Issued]]:
            key_sha256 = self._key_of(request.csr_pem)
            member = self._cache.snapshot().members.get(request.member_id)
            if member is None or member.key_sha256 != key_sha256:
                self._check_not_revoked(key_sha256)
            if member is None:
                raise _removed()
            if not hmac.compare_digest(member.key_sha256, key_sha256):
                raise refuse(
                    403,
                    "key-mismatch",
                    "Another key",
                    f"member {member.name} has another key than the one that signed this request",
                    "use the key this machine joined with, or remove the member and join again with a new token",
                )
            if member.fence:
                raise refuse(409, "member-fenced", "Member fenced", member.fence)
            self._renewals.check(key_sha256, self._clock())
            return self._certify(member, request.csr_pem, "CertificateRenewed", ())

        if await self._cache.latest("members", request.member_id) is None:
            await self._cache.latest("revocations", self._key_of(request.csr_pem))
        member, issued = await commit_again(self._applier, decide)
        self._renewals.note(member.key_sha256, self._clock())
        return self._identity(member, issued)

    def _check_not_revoked(self, key_sha256: str) -> None:
        """Refuse the key of a member that was removed, and tell its machine what to do."""
        found = self._cache.get("revocations", key_sha256)
        if isinstance(found, Revocation):
            problem = _removed().problem
            raise Refused(msgspec.structs.replace(problem, detail=found.reason, clean=not found.keep_containers))

    def _credential(self, request: JoinRequest) -> JoinCredential:
        try:
            credential = parse_join_credential(request.token)
        except ValueError as error:
            raise refuse(400, "token-malformed", "Not a join token", str(error)) from error
        if not hmac.compare_digest(credential.ca_sha256, self._authority.ca_sha256):
            raise refuse(
                403,
                "wrong-ca",
                "A token of another cluster",
                f"the token is for the CA {credential.ca_sha256[:16]}..., this is {self._authority.ca_sha256[:16]}...",
                "check the address, or create a token here: fallow token create",
            )
        return credential

    def _checked_token(self, token: JoinToken | None, credential: JoinCredential, role: Role) -> JoinToken:
        """Return the token if it admits this role at all; whether it still does is told by `_check_unused`."""
        if not matches_secret(token, credential.secret) or token is None:
            raise refuse(
                403,
                "token-unknown",
                "Unknown token",
                "no such token is known here: it was mistyped, or deleted long after it had ended",
                "create another: fallow token create",
            )
        if token.revoked:
            raise _token_ended("token-revoked", "Token revoked", f"token {token.id} is revoked", token.role)
        if token.role != role:
            raise refuse(
                403,
                "token-role",
                "A token for another role",
                f"token {token.id} admits a {token.role}; this machine asked to be a {role}",
                f"create one for it: fallow token create --role {role}",
            )
        return token

    def _key_of(self, csr_pem: str) -> str:
        try:
            return key_sha256_of_request(csr_pem)
        except AuthorityError as error:
            raise refuse(400, "bad-csr", "Bad certificate signing request", str(error)) from error

    def _joined_before(self, draft: Draft, token: JoinToken, key_sha256: str) -> Member | None:
        """Return the member this key became with this very token."""
        if key_sha256 in token.used_by:
            member = draft.members.get(token.used_by[key_sha256])
            if member is None:
                raise _removed()
            return member
        member = draft.by_key.get(key_sha256)
        if member is not None:
            raise refuse(
                409,
                "key-known",
                "Already a member",
                f"this machine's key belongs to member {member.name}, which joined with another token",
                f"start its agent without a token, or first: fallow node remove {member.name}",
            )
        return None

    def _check_unused(self, draft: Draft, token: JoinToken) -> None:
        now = self._clock()
        if len(token.used_by) >= token.uses:
            users = [draft.members.get(id_) for id_ in token.used_by.values()]
            names = sorted(user.name for user in users if user is not None)
            by = ", ".join(names[:5]) or "members that were removed since"
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise _token_ended(
                "token-used", "Token used", f"token {token.id} was already used by {by}{more}", token.role
            )
        if token.expires_at <= now:
            raise _token_ended(
                "token-expired",
                "Token expired",
                f"token {token.id} expired at {_utc(token.expires_at)}; it is {_utc(now)} here",
                token.role,
            )

    def _new_member(
        self, draft: Draft, request: JoinRequest, token: JoinToken, key_sha256: str, address: str
    ) -> Member:
        now = self._clock()
        return Member(
            id=f"{request.role[0]}-{new_id(ID_LENGTH)}",
            created_at=now,
            updated_at=now,
            name=_name(draft, request),
            role=request.role,
            labels=token.labels,
            key_sha256=key_sha256,
            token_id=token.id,
            certificate_expires_at=0.0,
            lease=self._lease(request.role, address),
            function=request.function,
            facts=request.facts,
            variables=request.variables,
            state_since=now,
            state_reason="it has an identity and has not yet opened a session",
        )

    def _lease(self, role: Role, address: str) -> Lease:
        try:
            return self._book.allocate(LeaseWish(role=role, source_address=address))
        except LeaseRefused as refused:
            raise refused_pool(refused) from refused

    def _certify(
        self, member: Member, csr_pem: str, reason: str, others: tuple[JoinToken, ...]
    ) -> tuple[Step, tuple[Member, Issued]]:
        """Return the step that stores the member with a new certificate, and both."""
        now = self._clock()
        try:
            issued = self._authority.issue_member(
                csr_pem, member.role, member.id, now, self._settings.certificate_seconds
            )
        except AuthorityError as error:
            raise refuse(400, "bad-csr", "Bad certificate signing request", str(error)) from error
        member = msgspec.structs.replace(member, certificate_expires_at=issued.expires_at, updated_at=now)
        told = event(
            new_id(),
            now,
            f"{member.role}:{member.name}",
            "member",
            member.id,
            member.name,
            reason,
            f"{member.role} {member.name} at {member.lease.address} has a certificate until {_utc(issued.expires_at)}",
        )
        return Step(puts=(member, *others, told)), (member, issued)

    def _identity(self, member: Member, issued: Issued) -> Identity:
        return Identity(
            member_id=member.id,
            name=member.name,
            role=member.role,
            certificate_pem=issued.certificate_pem,
            ca_pem=self._authority.ca_pem,
            session_host=self._settings.session_host,
            session_port=self._settings.session_port,
            lease=member.lease,
            issued_at=self._clock(),
        )


def _name(draft: Draft, request: JoinRequest) -> str:
    """Return the new member's name: as proposed, or derived and made unique. Raises Refused."""
    if not request.name:
        return free_name(name_from_hostname(request.facts.hostname, request.role), draft.taken_names)
    if not is_name(request.name):
        raise refuse(
            400,
            "name-invalid",
            "Not a usable name",
            f"{request.name!r} is not a DNS label: lower case letters, digits and dashes, at most 40, a letter first",
        )
    if request.name in draft.taken_names:
        raise refuse(
            409,
            "name-taken",
            "Name taken",
            f"another member is called {request.name}",
            f"choose another name, or first remove what is gone: fallow node remove {request.name}",
        )
    return request.name


def _removed() -> Refused:
    return refuse(
        403,
        "member-removed",
        "Member removed",
        "this member was removed from the cluster; its key is not accepted any more",
        "delete the machine's state folder and join again with a new token",
    )


def _token_ended(code: str, title: str, detail: str, role: Role) -> Refused:
    return refuse(403, code, title, detail, f"create another: fallow token create --role {role}")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
