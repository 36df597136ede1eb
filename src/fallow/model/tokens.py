"""Tokens: one kind lets a machine join, the other lets a person or a program use the API.

Both are `id.secret` to their holder; only a hash of the secret is stored.
"""

import enum
from typing import Annotated

import msgspec

from fallow.model.labels import Labels
from fallow.model.members import Role
from fallow.model.meta import Record


class JoinToken(Record, frozen=True, kw_only=True):
    """Lets `uses` machines join in one role; bound to a node's key at first use so a lost reply can be retried."""

    secret_sha256: str
    role: Role
    labels: Labels = {}
    uses: int = 1
    expires_at: float
    created_by: str = ""
    used_by: dict[str, str] = {}  # key_sha256 -> member id
    revoked: bool = False


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
    """Ask for a join token (`role` node or gateway) or an API token (`role` viewer, operator or admin)."""

    role: Annotated[str, msgspec.Meta(pattern="^(node|gateway|viewer|operator|admin)$(?!\\n)")]
    ttl_seconds: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] | None = None
    uses: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    labels: Labels = {}
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token as lists show it; `secret` is there once, in the answer to its creation."""

    id: str
    role: str
    name: str = ""
    labels: dict[str, str] = {}
    uses_left: int | None = None
    used_by: tuple[str, ...] = ()
    created_at: float
    created_by: str = ""
    expires_at: float | None = None
    state: str = "valid"  # valid, used, expired, revoked
    secret: str | None = None
