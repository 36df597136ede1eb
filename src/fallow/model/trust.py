"""Which images a project may run."""

from typing import Annotated

import msgspec

from fallow.model.meta import Name, Record

# Of a registry and a repository, `*` for any characters and `?` for one; the registry's part holds for itself.
PATTERN_PATTERN = r"^[A-Za-z0-9.:_*?\[\]-]+(/[A-Za-z0-9._*?-]+)*$(?!\n)"
ImagePattern = Annotated[str, msgspec.Meta(max_length=256, pattern=PATTERN_PATTERN)]
ImagePatterns = Annotated[tuple[ImagePattern, ...], msgspec.Meta(max_length=256)]
PublicKey = Annotated[str, msgspec.Meta(max_length=8192)]  # PEM


class TrustRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a node checks again before it pulls."""

    project: str
    allow: tuple[str, ...] = ()  # empty: every registry and repository
    require_digest: bool = False
    signed: bool = False  # the control plane has checked a signature of the digest it grants


class TrustPolicy(Record, frozen=True, kw_only=True):
    """The rules for the images of one project; its id is the project."""

    allow: ImagePatterns = ()
    require_digest: bool = False  # images are named by digest, not by tag
    keys: Annotated[
        tuple[PublicKey, ...], msgspec.Meta(max_length=16)
    ] = ()  # PEM; a signature by one of them is needed
    created_by: str = ""


class TrustRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set all rules for the images of a project."""

    project: Name
    allow: ImagePatterns = ()
    require_digest: bool = False
    keys: Annotated[tuple[PublicKey, ...], msgspec.Meta(max_length=16)] = ()


class TrustKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A public key: what kind, and the SHA-256 of it (DER), as `openssl pkey -pubin -outform der` gives it."""

    kind: str
    sha256: str
    pem: str


class TrustView(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for the images of a project as the API shows them."""

    project: str
    allow: tuple[str, ...] = ()
    require_digest: bool = False
    keys: tuple[TrustKeyView, ...] = ()
    revision: int
    created_at: float
    updated_at: float
    created_by: str = ""
