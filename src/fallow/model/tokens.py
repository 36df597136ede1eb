"""Tokens: one kind lets a machine join, the other lets a person or a program use the API.

Both are `id.secret` to their holder; only a hash of the secret is stored.
"""

import enum
from typing import Annotated

import msgspec

from fallow.model.labels import Labels
from fallow.model.members import Role
from fallow.model.meta import Record


class Approve(enum.StrEnum):
    """Who lets a machine in that has a valid token."""

    AUTO = "auto"  # the token alone does
    MANUAL = "manual"  # a person looks at it first


class JoinToken(Record, frozen=True, kw_only=True):
    """Lets `uses` machines join in one role; bound to a node's key at first use so a lost reply can be retried."""

    secret_sha256: str
    role: Role
    labels: Labels = {}
    uses: int = 1
    used: int = 0  # by members and by machines that wait for approval; who they are, `MemberKey` tells
    used_at: float = 0.0  # last; 0: never
    used_by: dict[str, str] = {}  # key_sha256 -> member id, as versions 1 and 2 stored it; nothing is added
    expires_at: float
    created_by: str = ""
    revoked: bool = False
    name: str = ""  # what its machine is called; empty: as the machine proposes
    networks: tuple[str, ...] = ()  # where it may be used from, as observed; empty: from anywhere
    pool: str = ""  # where the lease comes from; empty: any that fits
    approve: Approve = Approve.AUTO
    replaces: str = ""  # the id of the member whose place its machine takes

    @property
    def spent(self) -> int:
        """Return how many of its uses are gone."""
        return self.used + len(self.used_by)


class ApiRole(enum.StrEnum):
    """What the holder of an API token may do: viewers read, operators change, admins also hand out tokens."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class ApiToken(Record, frozen=True, kw_only=True):
    """A credential for the API."""

    name: str
    secret_sha256: str
    role: ApiRole
    expires_at: float | None = None
    created_by: str = ""


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a join token (`role` node, gateway, server, cluster) or an API token (`role` viewer, operator, admin)."""

    role: Annotated[str, msgspec.Meta(pattern="^(node|gateway|server|cluster|viewer|operator|admin)$(?!\\n)")]
    ttl_seconds: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] | None = None
    uses: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    labels: Labels = {}
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""  # of an API token, or of the machine that joins
    networks: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=32)] = ()
    pool: Annotated[str, msgspec.Meta(max_length=64)] = ""
    approve: Approve = Approve.AUTO
    replaces: Annotated[str, msgspec.Meta(max_length=64)] = ""  # name or id of a member


class TokenChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a join token last for so many seconds from now."""

    ttl_seconds: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]


class TokenUse(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that used a token."""

    member_id: str  # empty: it waits for approval
    name: str  # empty: the member was removed since
    source_address: str
    at: float


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token as lists show it; `secret` is there once, in the answer to its creation."""

    id: str
    role: str
    name: str = ""
    labels: dict[str, str] = {}
    uses: int | None = None
    uses_left: int | None = None
    used_at: float = 0.0  # last; 0: never
    used_by: tuple[TokenUse, ...] = ()  # the latest few; all of them where one token is shown
    created_at: float
    created_by: str = ""
    expires_at: float | None = None
    state: str = "valid"  # valid, used, expired, revoked
    networks: tuple[str, ...] = ()
    pool: str = ""
    approve: Approve = Approve.AUTO
    replaces: str = ""  # the id of a member
    secret: str | None = None
