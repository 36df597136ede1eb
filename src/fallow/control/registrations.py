"""The loop that decides about machines that ask, and what people decide about those that wait for approval."""

from collections.abc import Callable
from functools import partial

import msgspec

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import not_found, refuse
from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.events import event
from fallow.decide.leases import LeaseBook, LeaseDefaults
from fallow.decide.plan import Plan, Step
from fallow.decide.registrations import PENDING_SECONDS, Rules, admit, proposed_name
from fallow.decide.snapshot import Snapshot
from fallow.model.labels import is_label
from fallow.model.members import Member
from fallow.model.meta import is_name
from fallow.model.problems import Problem
from fallow.model.registrations import Approval, Registration, RegistrationState, RegistrationView, Rejection
from fallow.model.tokens import JoinToken
from fallow.store.applier import BATCH_BYTES, Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store

ID_LENGTH = 8
MAX_LABELS = 64
RECORDS_AT_ONCE = 2000  # so that one step is soon over


def registrations_controller(store: Store, settings: Settings) -> Controller:
    """Return the loop of the process that leads."""
    rules = Rules(
        certificate_seconds=settings.certificate_seconds,
        max_records=min(RECORDS_AT_ONCE, store.max_operations - 1),  # one check is the fence
        max_bytes=min(BATCH_BYTES, store.max_bytes),
    )
    defaults = LeaseDefaults(host_ports=settings.host_ports, host_ports_per_node=settings.host_ports_per_node)
    make_id = partial(new_id, ID_LENGTH)
    book: LeaseBook | None = None

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal book
        book = LeaseBook(snapshot, now, defaults, before=book)
        return admit(snapshot, now, rules, book, make_id)

    return Controller(
        name="registrations",
        kinds=frozenset({"registrations"}),
        every_seconds=30.0,
        decide=decide,
    )


class Registrations:
    """What people see and decide of machines that wait. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock

    def pending(self) -> tuple[RegistrationView, ...]:
        """Return the machines that wait for approval, the one that waits longest first."""
        snapshot = self._cache.snapshot()
        found = [asks for asks in snapshot.registrations.values() if asks.state is RegistrationState.PENDING]
        return tuple(_view(snapshot, asks) for asks in sorted(found, key=lambda asks: (asks.created_at, asks.id)))

    async def approve(self, reference: str, approval: Approval, actor: str) -> RegistrationView:
        """Let a machine in; the process that leads makes it a member at once. Raises Refused."""
        if approval.name and not is_name(approval.name):
            raise refuse(400, "name-invalid", "Not a usable name", f"{approval.name!r} is not a DNS label")
        for key, value in approval.labels.items():
            if not is_label(key, value):
                raise refuse(400, "bad-request", "Not a usable label", f"{key!r}={value!r}")

        def decide() -> tuple[Step, Registration]:
            snapshot = self._cache.snapshot()
            asks = pending_called(snapshot, reference)
            token = snapshot.join_tokens.get(asks.token_id)
            name = approval.name or asks.name
            fixed = token.name if token is not None else ""
            if approval.name and (fixed or (token is not None and token.replaces)):
                raise refuse(
                    409,
                    "name-fixed",
                    "Name fixed by the token",
                    f"the token {asks.token_id} says what its machine is called",
                    "approve it without --name",
                )
            if len({**(token.labels if token is not None else {}), **approval.labels}) > MAX_LABELS:
                raise refuse(400, "bad-request", "Too many labels", f"a member has at most {MAX_LABELS}")
            replaces = token is not None and token.replaces
            if not replaces and (taken := _taken(snapshot, fixed or name)):
                raise refuse(
                    409,
                    "name-taken",
                    "Name taken",
                    f"{taken.role} {taken.id} is called {taken.name}",
                    "choose another one: fallow node approve ID --name NAME",
                )
            now = self._clock()
            approved = msgspec.structs.replace(
                asks,
                state=RegistrationState.WAITING,
                approved_by=actor,
                name=name,
                labels=approval.labels,
                updated_at=now,
            )
            told = event(
                new_id(), now, actor, "registration", asks.id, proposed_name(approved, token), "RegistrationApproved",
                f"{asks.role} {proposed_name(approved, token)} at {asks.source_address} may join",
            )  # fmt: skip
            return Step(puts=(approved, told)), approved

        approved = await commit_again(self._applier, decide)
        return _view(self._cache.snapshot(), approved)

    async def reject(self, reference: str, rejection: Rejection, actor: str) -> None:
        """Turn a machine away; its token has its use back. Raises Refused."""
        if not rejection.reason.isprintable():
            raise refuse(400, "bad-request", "A reason must be printable text")

        def decide() -> tuple[Step, None]:
            snapshot, now = self._cache.snapshot(), self._clock()
            asks = pending_called(snapshot, reference)
            token = snapshot.join_tokens.get(asks.token_id)
            name = proposed_name(asks, token)
            reason = rejection.reason or "no reason was given"
            problem = Problem(
                type="urn:fallow:rejected",
                title="Rejected",
                status=403,
                detail=f"{actor.removeprefix('api:')} turned this machine away: {reason}",
                hint="ask them, or join with another token",
            )
            rejected = msgspec.structs.replace(asks, state=RegistrationState.REJECTED, problem=problem, updated_at=now)
            told = event(
                new_id(), now, actor, "registration", asks.id, name, "RegistrationRejected",
                f"{asks.role} {name} at {asks.source_address} is turned away: {reason}",
            )  # fmt: skip
            back = () if token is None else (_given_back(token, now),)
            return Step(puts=(rejected, *back, told)), None

        await commit_again(self._applier, decide)


def pending_called(snapshot: Snapshot, reference: str) -> Registration:
    """Return the machine that waits under an id, the beginning of one, or a name. Raises Refused."""
    waiting = [asks for asks in snapshot.registrations.values() if asks.state is RegistrationState.PENDING]
    found = [asks for asks in waiting if asks.id == reference]
    if not found and len(reference) >= 4:
        found = [asks for asks in waiting if asks.id.startswith(reference)]
    if not found:
        tokens = snapshot.join_tokens
        found = [asks for asks in waiting if proposed_name(asks, tokens.get(asks.token_id)) == reference]
    if not found:
        raise not_found(f"machine {reference[:80]!r} that waits for approval", "fallow node pending shows all")
    if len(found) > 1:
        ids = ", ".join(sorted(asks.id[:12] for asks in found)[:5])
        raise refuse(409, "ambiguous", "Which one?", f"{len(found)} machines are called so: {ids}", "name it by its id")
    return found[0]


def _given_back(token: JoinToken, now: float) -> JoinToken:
    return msgspec.structs.replace(token, used=max(0, token.spent - 1), used_by={}, updated_at=now)


def _taken(snapshot: Snapshot, name: str) -> Member | None:
    if not name:
        return None
    return next((member for member in snapshot.members.values() if name in (member.name, member.id)), None)


def _view(snapshot: Snapshot, asks: Registration) -> RegistrationView:
    token = snapshot.join_tokens.get(asks.token_id)
    replaced = snapshot.members.get(token.replaces) if token is not None else None
    labels = replaced.labels if replaced is not None else token.labels if token is not None else {}
    return RegistrationView(
        id=asks.id,
        state=asks.state,
        name=replaced.name if replaced is not None else proposed_name(asks, token),
        role=asks.role,
        source_address=asks.source_address,
        temporary_address=asks.temporary_address,
        temporary_port=asks.temporary_port,
        address=asks.address,
        function=asks.function,
        facts=asks.facts,
        variables=asks.variables,
        labels=labels | asks.labels,
        token_id=asks.token_id,
        token_created_by=token.created_by if token is not None else "",
        requested_at=asks.created_at,
        expires_at=asks.created_at + PENDING_SECONDS,
        problem=asks.problem,
    )
