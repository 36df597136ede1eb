"""Tokens: creating, listing, revoking and checking them. Only the hash of a secret is ever stored."""

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable, Sequence

import msgspec

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import not_found, refuse
from fallow.control.settings import Settings
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.drivers.authority import Authority
from fallow.model.credentials import API_PREFIX, JoinCredential
from fallow.model.labels import is_label
from fallow.model.members import Role
from fallow.model.tokens import ApiRole, ApiToken, JoinToken, TokenRequest, TokenView
from fallow.store.applier import Applier
from fallow.store.cache import Cache

SECRET_BYTES = 24
ID_LENGTH = 8
MAX_BEARER = 256
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
        if request.role in (Role.NODE, Role.GATEWAY):
            return await self._create_join(request, actor)
        return await self._create_api(request, actor)

    def list(self) -> tuple[TokenView, ...]:
        """Return every token, oldest first, without secrets."""
        now, snapshot = self._clock(), self._cache.snapshot()
        views = [_join_view(token, now) for token in snapshot.join_tokens.values()]
        views += [_api_view(token, now) for token in snapshot.api_tokens.values()]
        return tuple(sorted(views, key=lambda view: (view.created_at, view.id)))

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
                raise not_found(f"token {token_id!r}", "fallow token list shows all")
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
        if request.name:
            raise refuse(
                400, "bad-request", "A join token has no name", "", "give the machine its name with: fallow join --name"
            )
        for key, value in request.labels.items():
            if not is_label(key, value):
                raise refuse(400, "bad-request", "Not a usable label", f"{key!r}={value!r}")
        now, secret = self._clock(), secrets.token_urlsafe(SECRET_BYTES)
        token = JoinToken(
            id=new_id(ID_LENGTH),
            created_at=now,
            updated_at=now,
            secret_sha256=secret_sha256(secret),
            role=Role(request.role),
            labels=request.labels,
            uses=request.uses,
            expires_at=now + (request.ttl_seconds or self._settings.join_token_seconds),
            created_by=actor,
        )
        await self._store(token, f"join token for {token.uses} {token.role}(s)", actor)
        text = JoinCredential(token_id=token.id, secret=secret, ca_sha256=self._ca_sha256).text()
        return msgspec.structs.replace(_join_view(token, now), secret=text)

    async def _create_api(self, request: TokenRequest, actor: str) -> TokenView:
        if request.labels or request.uses != 1:
            raise refuse(400, "bad-request", "An API token has no labels and no number of uses")
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


def _join_view(token: JoinToken, now: float) -> TokenView:
    left = max(0, token.uses - len(token.used_by))
    if token.revoked:
        state = "revoked"
    elif left == 0:
        state = "used"
    else:
        state = "expired" if _expired(token.expires_at, now) else "valid"
    return TokenView(
        id=token.id,
        role=token.role,
        labels=token.labels,
        uses_left=left,
        used_by=tuple(token.used_by.values()),
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        state=state,
    )


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
