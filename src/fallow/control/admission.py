"""Admission: what any process of the control plane does with a machine that asks to become a member.

It checks the bundle, stores it as a registration, waits until the process that leads has decided (`registrations`), and
answers with a certificate for the key that signed. Nothing is kept here: when this process is killed in between, the
machine asks another one, with the same key, and is told the same. Certificates of members are renewed here, too.
"""

import asyncio
import contextlib
import hmac
from collections.abc import Callable

import msgspec

from fallow.control.bundles import Bundles, Proved
from fallow.control.changed import Changed
from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, refuse
from fallow.control.renewals import Renewals
from fallow.control.settings import Settings
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.tokens import used_up, utc
from fallow.drivers.authority import Authority, AuthorityError, Issued, key_sha256_of_request
from fallow.model.members import Identity, Member, RenewRequest, Revocation
from fallow.model.problems import Problem
from fallow.model.registrations import JoinWaiting, MemberKey, Registration, RegistrationState, SignedBundle
from fallow.model.tokens import JoinToken
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict

__all__ = ["Admission", "Refused"]

DECISION_SECONDS = 10.0  # so long a machine waits for the process that leads
APPROVAL_SECONDS = 20.0  # so long the connection of a machine is held that waits for a person
MAX_HELD = 500  # such connections; the machines beyond are told at once to ask again
MAX_STORED = 5000  # registrations at a time
ASK_AGAIN_SECONDS = 5.0


class Admission:
    """Takes machines in and renews certificates. `clock` gives UTC seconds, `led` whether some process leads."""

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        authority: Authority,
        settings: Settings,
        clock: Callable[[], float],
        led: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._authority = authority
        self._settings = settings
        self._clock = clock
        self._led = led
        self._renewals = Renewals()
        self._bundles = Bundles(cache, authority, settings, clock)
        self._changed = Changed(cache, "registrations")
        self._held = 0

    async def join(self, signed: SignedBundle, source_address: str) -> Identity | JoinWaiting:
        """Make a member of a machine that called from `source_address`, or repeat what was decided about its key.

        Raises Refused, and StoreError.
        """
        proved = await self._bundles.checked(signed, source_address)
        with self._changed.watched(proved.asks.id) as changed:
            found = await self._answer(proved)
            if found is None:
                await self._register(proved)
                found = await self._decision(proved, changed)
            if isinstance(found, JoinWaiting) and self._held < MAX_HELD:
                self._held += 1
                try:
                    found = await self._approval(proved, changed, found)
                finally:
                    self._held -= 1
        return found

    async def renew(self, request: RenewRequest) -> Identity:
        """Return a new certificate for a member's own key, even when the old one has expired. Raises Refused."""

        try:
            key_sha256 = key_sha256_of_request(request.csr_pem)
        except AuthorityError as error:
            raise refuse(400, "bad-csr", "Bad certificate signing request", str(error)) from error

        def decide() -> tuple[Step, tuple[Member, Issued]]:
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
            now = self._clock()
            self._renewals.check(key_sha256, now)
            issued = self._authority.issue_member(
                request.csr_pem, member.role, member.id, now, self._settings.certificate_seconds
            )
            return self._renewed(member, issued, now), (member, issued)

        if await self._cache.latest("members", request.member_id) is None:
            await self._cache.latest("revocations", key_sha256)
        member, issued = await commit_again(self._applier, decide)
        self._renewals.note(key_sha256, self._clock())
        return self._identity(member, issued)

    def _check_not_revoked(self, key_sha256: str) -> None:
        """Refuse the key of a member that was removed or replaced, and tell its machine what to do."""
        found = self._cache.get("revocations", key_sha256)
        if isinstance(found, Revocation):
            problem = _removed().problem
            raise Refused(msgspec.structs.replace(problem, detail=found.reason, clean=not found.keep_containers))

    async def _register(self, proved: Proved) -> None:
        """Store the registration, unless one is stored that waits for its decision. Raises Refused."""
        asks = proved.asks
        found = await self._cache.latest("registrations", asks.id)
        stored = found if isinstance(found, Registration) else None
        if stored is not None and stored.state in (RegistrationState.WAITING, RegistrationState.PENDING):
            return
        problem = await self._spent(proved.token.id)
        if problem is not None:
            raise Refused(problem)
        if not self._led():
            raise _not_decided()
        if len(self._cache.records("registrations")) >= MAX_STORED:
            raise refuse(
                503, "busy", "Too many machines ask at once", f"{MAX_STORED} ask already", "try again in a minute"
            )
        asks = msgspec.structs.replace(asks, revision=stored.revision if stored is not None else 0)
        with contextlib.suppress(Conflict):  # it asks twice at once: what the other call stored is waited for
            await self._applier.commit(Step(puts=(asks,)))

    async def _spent(self, token_id: str) -> Problem | None:
        """Return why the token lets no further machine in, as far as others have not just changed it."""
        looked = False
        while True:
            found = self._cache.get("join-tokens", token_id)
            members = self._cache.snapshot().members.values()
            problem = used_up(found, self._clock(), members) if isinstance(found, JoinToken) else None
            if problem is None or looked or not await self._applier.catch_up():
                return problem
            looked = True

    async def _decision(self, proved: Proved, changed: asyncio.Event) -> Identity | JoinWaiting:
        """Wait for the process that leads. Raises Refused."""
        found = await self._until(proved, changed, DECISION_SECONDS, None)
        if found is None:
            raise _not_decided()
        return found

    async def _approval(self, proved: Proved, changed: asyncio.Event, waiting: JoinWaiting) -> Identity | JoinWaiting:
        """Wait for a person, for as long as a connection is held. Raises Refused."""
        return await self._until(proved, changed, APPROVAL_SECONDS, waiting) or waiting

    async def _until(
        self, proved: Proved, changed: asyncio.Event, seconds: float, known: JoinWaiting | None
    ) -> Identity | JoinWaiting | None:
        """Return the next answer that is another than `known`; None when there is none in time. Raises Refused."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            changed.clear()
            found = await self._answer(proved)
            if found is not None and found != known:
                return found
            try:
                async with asyncio.timeout_at(until):
                    await changed.wait()
            except TimeoutError:
                return None

    async def _answer(self, proved: Proved) -> Identity | JoinWaiting | None:
        """Return what is decided about this key; None: nothing yet. Raises Refused.

        A bundle that is no newer than the one a refusal was about is that one again, whoever sends it.
        """
        asks = proved.asks
        self._check_not_revoked(asks.id)
        key = self._cache.get("member-keys", asks.id)
        if isinstance(key, MemberKey):
            return await self._known(proved, key)
        found = self._cache.get("registrations", asks.id)
        if not isinstance(found, Registration):
            return None
        same = found.token_id == asks.token_id
        if found.state is RegistrationState.PENDING:
            if not same:
                raise refuse(
                    409,
                    "waits-already",
                    "Waits already",
                    f"this machine waits for approval with the token {found.token_id}",
                    f"first: fallow node approve {asks.id[:12]}, or: fallow node reject {asks.id[:12]}",
                )
            return JoinWaiting(
                registration_id=asks.id,
                message=f"waits for approval: fallow node approve {asks.id[:12]}",
                retry_after_seconds=ASK_AGAIN_SECONDS,
            )
        final = found.state is RegistrationState.REJECTED or found.sent_at >= asks.sent_at
        if found.problem is not None and same and final:
            raise Refused(found.problem)
        return None

    async def _known(self, proved: Proved, key: MemberKey) -> Identity:
        """Return the identity of a machine that is a member already. Raises Refused."""
        member = self._cache.snapshot().members.get(key.member_id)
        if member is None or member.key_sha256 != key.id:
            raise _removed()
        # Who is to take this very member's place, and has its key still, had only not heard who it is.
        if proved.asks.token_id != key.token_id and proved.token.replaces != member.id:
            raise refuse(
                409,
                "key-known",
                "Already a member",
                f"this machine's key belongs to member {member.name}, which joined with another token",
                f"start its agent without a token, or first: fallow node remove {member.name}",
            )
        now = self._clock()
        if member.certificate_expires_at - now >= self._settings.certificate_seconds / 2:
            # Stored with the member: the same certificate again, in all that matters.
            return self._identity(member, self._issued(proved, member, now, member.certificate_expires_at))
        issued = self._issued(proved, member, now, now + self._settings.certificate_seconds)

        def decide() -> tuple[Step, Member]:
            newest = self._cache.snapshot().members.get(member.id)
            if newest is None or newest.key_sha256 != key.id:
                raise _removed()
            return self._renewed(newest, issued, now), newest

        return self._identity(await commit_again(self._applier, decide), issued)

    def _issued(self, proved: Proved, member: Member, now: float, expires_at: float) -> Issued:
        return self._authority.issue_for_key(proved.key, member.role, member.id, now, expires_at)

    def _renewed(self, member: Member, issued: Issued, now: float) -> Step:
        """Return the step that stores until when the member's new certificate is valid."""
        member = msgspec.structs.replace(member, certificate_expires_at=issued.expires_at, updated_at=now)
        told = event(
            new_id(),
            now,
            f"{member.role}:{member.name}",
            "member",
            member.id,
            member.name,
            "CertificateRenewed",
            f"{member.role} {member.name} at {member.lease.address} has a certificate until {utc(issued.expires_at)}",
        )
        return Step(puts=(member, told))

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


def _removed() -> Refused:
    return refuse(
        403,
        "member-removed",
        "Member removed",
        "this member was removed from the cluster; its key is not accepted any more",
        "delete the machine's state folder and join again with a new token",
    )


def _not_decided() -> Refused:
    return refuse(
        503,
        "not-decided",
        "Not decided yet",
        "no process of the control plane has decided about this machine yet; what it sent is kept if it was stored",
        "run the same command again: the machine's key makes sure that it joins once",
    )
