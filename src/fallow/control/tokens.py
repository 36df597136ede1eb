"""Tokens: creating, listing, revoking and checking them. Only the hash of a secret is ever stored."""

import hashlib
import heapq
import hmac
import ipaddress
import secrets
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.settings import Settings
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.registrations import proposed_name
from fallow.decide.snapshot import Snapshot
from fallow.decide.tokens import utc
from fallow.drivers.authority import Authority
from fallow.model.clusters import HERE_ID
from fallow.model.credentials import API_PREFIX, JoinCredential
from fallow.model.labels import is_label
from fallow.model.members import Member, Role
from fallow.model.meta import is_name
from fallow.model.registrations import MemberKey, RegistrationState
from fallow.model.tokens import (
    ApiRole,
    ApiToken,
    Approve,
    JoinToken,
    TokenChange,
    TokenRequest,
    TokenUse,
    TokenView,
)
from fallow.store.applier import Applier
from fallow.store.cache import Cache

SECRET_BYTES = 24
ID_LENGTH = 8
MAX_BEARER = 256
LISTED_USES = 3
SHOWN_USES = 1000
_NOBODY = hashlib.sha256(b"no token has this secret").hexdigest()


def secret_sha256(secret: str) -> str:
    """Return what is stored of a secret; it is random, so a fast hash without salt is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches_secret(token: JoinToken | ApiToken | None, secret: str) -> bool:
    """Say whether `secret` is the token's, in the same time whether there is such a token or not."""
    expected = token.secret_sha256 if token is not None else _NOBODY
    return hmac.compare_digest(expected, secret_sha256(secret)) and token is not None


class Tokens:
    """Join tokens and API tokens of one cluster. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, authority: Authority, settings: Settings, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._ca_sha256 = authority.ca_sha256
        self._settings = settings
        self._clock = clock

    async def create(self, request: TokenRequest, actor: str) -> TokenView:
        """Store a new token and return it with its secret, which cannot be shown again. Raises Refused."""
        if request.role in (Role.NODE, Role.GATEWAY, Role.SERVER, Role.CLUSTER) or request.replaces:
            return await self._create_join(request, actor)
        return await self._create_api(request, actor)

    def list(self) -> tuple[TokenView, ...]:
        """Return every token, oldest first, without secrets, each with the latest few of its users."""
        now, snapshot = self._clock(), self._cache.snapshot()
        users: dict[str, list[MemberKey]] = defaultdict(list)
        for key in snapshot.member_keys.values():
            users[key.token_id].append(key)
        views = [
            join_view(token, now, uses(snapshot, token, users[token.id], LISTED_USES))
            for token in snapshot.join_tokens.values()
        ]
        views += [_api_view(token, now) for token in snapshot.api_tokens.values()]
        return tuple(sorted(views, key=lambda view: (view.created_at, view.id)))

    def show(self, token_id: str) -> TokenView:
        """Return one token with those who used it, the latest first. Raises Refused."""
        now, snapshot = self._clock(), self._cache.snapshot()
        join, api = snapshot.join_tokens.get(token_id), snapshot.api_tokens.get(token_id)
        if join is not None:
            users = [key for key in snapshot.member_keys.values() if key.token_id == token_id]
            return join_view(join, now, uses(snapshot, join, users, SHOWN_USES))
        if api is None:
            raise _no_token(token_id)
        return _api_view(api, now)

    async def extend(self, token_id: str, change: TokenChange, actor: str) -> TokenView:
        """Let a join token last longer, even one that has expired but has uses left. Raises Refused."""

        def decide() -> tuple[Step, JoinToken]:
            now, snapshot = self._clock(), self._cache.snapshot()
            token = snapshot.join_tokens.get(token_id)
            if token is None:
                raise _no_token(token_id)
            if token.revoked or token.spent >= token.uses:
                raise refuse(
                    409,
                    "token-ended",
                    "Token ended",
                    f"token {token_id} is {'revoked' if token.revoked else 'used up'}",
                    f"create another: fallow token create --role {token.role}",
                )
            until = now + change.ttl_seconds
            if until < token.expires_at:
                raise refuse(
                    409,
                    "token-longer",
                    "It lasts longer already",
                    f"token {token_id} lasts until {utc(token.expires_at)}",
                    f"to end it at once: fallow token revoke {token_id}",
                )
            longer = msgspec.structs.replace(token, expires_at=until, updated_at=now)
            told = event(
                new_id(), now, actor, "token", token_id, token_id, "TokenExtended",
                f"token {token_id} lasts until {utc(until)}",
            )  # fmt: skip
            return Step(puts=(longer, told)), longer

        return join_view(await commit_again(self._applier, decide), self._clock())

    async def revoke(self, token_id: str, actor: str) -> None:
        """End a token at once. Raises Refused when it is unknown, or the last one that can create others."""

        def decide() -> tuple[Step, None]:
            now, snapshot = self._clock(), self._cache.snapshot()
            told = event(
                new_id(), now, actor, "token", token_id, token_id, "TokenRevoked", f"token {token_id} is revoked"
            )
            join, api = snapshot.join_tokens.get(token_id), snapshot.api_tokens.get(token_id)
            if join is not None:
                return Step(puts=(msgspec.structs.replace(join, revoked=True, updated_at=now), told)), None
            if api is None:
                raise _no_token(token_id)
            others = [token for token in self._admins(now) if token.id != token_id]
            if api.role is ApiRole.ADMIN and not others:
                raise refuse(
                    409,
                    "last-admin",
                    "The last admin token stays",
                    f"without {token_id} nobody could create tokens any more",
                    "create another admin token first: fallow token create --role admin",
                )
            guards = (others[0],) if api.role is ApiRole.ADMIN else ()
            return Step(puts=(told,), deletes=(api,), guards=guards), None

        await commit_again(self._applier, decide)

    def verify_bearer(self, text: str) -> ApiToken | None:
        """Return the API token that `fallow-api.ID.SECRET` stands for, or None.

        Looked up afresh each time, so a revoked token ends with the next request.
        """
        parts = text.split(".")
        if len(text) > MAX_BEARER or len(parts) != 3 or parts[0] != API_PREFIX:
            return None
        found = self._cache.get("api-tokens", parts[1])
        token = found if isinstance(found, ApiToken) else None
        if not matches_secret(token, parts[2]) or token is None or _expired(token.expires_at, self._clock()):
            return None
        return token

    async def ensure_admin(self, name: str) -> str | None:
        """Create an admin token called `name` when there is none that is valid, and return it; None: there is one."""
        if self._admins(self._clock()):
            return None
        view = await self._create_api(TokenRequest(role=ApiRole.ADMIN, name=name), "server")
        return view.secret

    def _admins(self, now: float) -> Sequence[ApiToken]:
        tokens = self._cache.snapshot().api_tokens.values()
        return [token for token in tokens if token.role is ApiRole.ADMIN and not _expired(token.expires_at, now)]

    async def _create_join(self, request: TokenRequest, actor: str) -> TokenView:
        now, secret = self._clock(), secrets.token_urlsafe(SECRET_BYTES)
        replaced = self._replaced(request)
        self._check_join(request)
        token = JoinToken(
            id=new_id(ID_LENGTH),
            created_at=now,
            updated_at=now,
            secret_sha256=secret_sha256(secret),
            role=replaced.role if replaced is not None else Role(request.role),
            labels=request.labels,
            uses=request.uses,
            expires_at=now + (request.ttl_seconds or self._settings.join_token_seconds),
            created_by=actor,
            name=request.name,
            networks=_networks(request.networks),
            pool=request.pool,
            approve=request.approve,
            replaces=replaced.id if replaced is not None else "",
        )
        what = f"to replace {replaced.role} {replaced.name}" if replaced else f"for {token.uses} {token.role}(s)"
        await self._store(token, f"join token {what}", actor)
        text = JoinCredential(token_id=token.id, secret=secret, ca_sha256=self._ca_sha256).text()
        return msgspec.structs.replace(join_view(token, now), secret=text)

    def _replaced(self, request: TokenRequest) -> Member | None:
        """Return the member whose place a token's machine takes. Raises Refused."""
        if not request.replaces:
            return None
        members = self._cache.snapshot().members.values()
        found = next((member for member in members if request.replaces in (member.id, member.name)), None)
        if found is None:
            raise not_found(f"member {request.replaces!r}", "fallow node list --role all shows all")
        if found.id == HERE_ID:
            raise refuse(400, "bad-request", "Nobody takes its place", f"{found.name} is this cluster itself")
        if request.labels or request.name or request.uses != 1 or request.pool:
            raise refuse(
                400,
                "bad-request",
                "A replacement keeps what the member has",
                f"{found.name} keeps its name, lease and labels, and one machine takes its place",
                "leave --name, --label, --uses and --pool out",
            )
        return found

    def _check_join(self, request: TokenRequest) -> None:
        """Raise Refused for what no join token can be."""
        for key, value in request.labels.items():
            if not is_label(key, value):
                raise refuse(400, "bad-request", "Not a usable label", f"{key!r}={value!r}")
        if request.name and not is_name(request.name):
            raise refuse(400, "name-invalid", "Not a usable name", f"{request.name!r} is not a DNS label")
        if request.name and request.uses != 1:
            raise refuse(
                400, "bad-request", "One name is for one machine", f"{request.uses} machines cannot share a name",
                "leave --name out, or make one token for each machine",
            )  # fmt: skip
        if request.role in (Role.CLUSTER, Role.SERVER) and request.pool:
            raise refuse(
                400, "bad-request", f"A {request.role} gets no address", "its nodes have their own", "leave --pool out"
            )
        if request.role == Role.CLUSTER and self._cache.records("hosts"):
            raise refuse(
                409,
                "nested-hosts",
                "A member has no members",
                "this cluster is a member of a host itself",
                "let the other cluster join that host; or leave it first: fallow cluster leave",
            )
        if request.pool and self._cache.get("pools", request.pool) is None:
            raise not_found(f"pool {request.pool!r}", "fallow pool list shows all")

    async def _create_api(self, request: TokenRequest, actor: str) -> TokenView:
        given = (request.labels, request.networks, request.pool, request.replaces)
        if any(given) or request.uses != 1 or request.approve is not Approve.AUTO:
            raise refuse(400, "bad-request", "An API token has no labels, uses, networks, pool or approval")
        # The name is in every event its holder causes; two that look alike must be one.
        if not request.name.isprintable() or not unicodedata.is_normalized("NFC", request.name):
            raise refuse(400, "bad-request", "A token's name must be printable text in Unicode's composed form (NFC)")
        now, secret, token_id = self._clock(), secrets.token_urlsafe(SECRET_BYTES), new_id(ID_LENGTH)
        token = ApiToken(
            id=token_id,
            created_at=now,
            updated_at=now,
            name=request.name or token_id,
            secret_sha256=secret_sha256(secret),
            role=ApiRole(request.role),
            expires_at=now + request.ttl_seconds if request.ttl_seconds else None,
            created_by=actor,
        )
        await self._store(token, f"API token {token.name} for the role {token.role}", actor)
        return msgspec.structs.replace(_api_view(token, now), secret=f"{API_PREFIX}.{token_id}.{secret}")

    async def _store(self, token: JoinToken | ApiToken, what: str, actor: str) -> None:
        told = event(
            new_id(), token.created_at, actor, "token", token.id, token.id, "TokenCreated", f"{what} is created"
        )
        await self._applier.commit(Step(puts=(token, told)))


def _expired(expires_at: float | None, now: float) -> bool:
    return expires_at is not None and expires_at <= now


def uses(snapshot: Snapshot, token: JoinToken, keys: Sequence[MemberKey], most: int) -> tuple[TokenUse, ...]:
    """Return who used a token, the latest first, and before them the machines that wait for approval."""
    waiting = [
        TokenUse(member_id="", name=proposed_name(asks, token), source_address=asks.source_address, at=asks.created_at)
        for asks in snapshot.registrations.values()
        if asks.token_id == token.id and asks.state is RegistrationState.PENDING
    ]
    found = [*waiting]
    for key in heapq.nlargest(most, keys, key=lambda key: (key.created_at, key.id)):
        member = snapshot.members.get(key.member_id)
        name = member.name if member is not None else ""
        found.append(TokenUse(member_id=key.member_id, name=name, source_address=key.source_address, at=key.created_at))
    return tuple(found[:most])


def join_view(token: JoinToken, now: float, used_by: tuple[TokenUse, ...] = ()) -> TokenView:
    """Return a join token as people see it, without its secret."""
    left = max(0, token.uses - token.spent)
    if token.revoked:
        state = "revoked"
    elif left == 0:
        state = "used"
    else:
        state = "expired" if _expired(token.expires_at, now) else "valid"
    return TokenView(
        id=token.id,
        role=token.role,
        name=token.name,
        labels=token.labels,
        uses=token.uses,
        uses_left=left,
        used_at=token.used_at,
        used_by=used_by,
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        state=state,
        networks=token.networks,
        pool=token.pool,
        approve=token.approve,
        replaces=token.replaces,
    )


def _networks(texts: Sequence[str]) -> tuple[str, ...]:
    """Return networks as they are compared. Raises Refused."""
    try:
        return tuple(str(ipaddress.ip_network(text)) for text in texts)
    except ValueError as error:
        raise refuse(
            400, "bad-request", "Not a network", str(error), "write it as 10.0.0.0/8, or an address alone"
        ) from None


def _no_token(token_id: str) -> Refused:
    return not_found(f"token {token_id[:80]!r}", "fallow token list shows all")


def _api_view(token: ApiToken, now: float) -> TokenView:
    return TokenView(
        id=token.id,
        role=token.role,
        name=token.name,
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        state="expired" if _expired(token.expires_at, now) else "valid",
    )
