"""Registries the control plane has a login for, or knows to be spoken to otherwise than by HTTPS."""

from typing import Annotated, Literal

import msgspec

from fallow.model.images import ImageErrorKind
from fallow.model.meta import Record

_HOST = r"(\[[0-9a-fA-F:]{2,45}\]|[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?)(:[0-9]{1,5})?"
HOST_PATTERN = rf"^{_HOST}$(?!\n)"
RegistryHost = Annotated[str, msgspec.Meta(pattern=HOST_PATTERN, description="A host, with a port unless it is 443")]
MirrorHost = Annotated[str, msgspec.Meta(pattern=rf"^$|{HOST_PATTERN}")]
Username = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^:\x00-\x1f\x7f]*$(?!\n)")]
Password = Annotated[str, msgspec.Meta(max_length=16_384, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
CaText = Annotated[str, msgspec.Meta(max_length=65_536, description="Certificates in PEM form; empty: none")]
ProxyUrl = Annotated[
    str, msgspec.Meta(pattern=rf"^$|^http://{_HOST}$(?!\n)", description="http://HOST:PORT of an HTTP proxy")
]


class KnownRegistry(Record, frozen=True, kw_only=True):
    """A registry; its id is its host as references name it. The password can be read with the cluster key alone."""

    username: str = ""
    sealed_password: bytes = b""
    insecure: bool = False  # plain HTTP
    mirror: str = ""  # host:port of a registry that holds the same, asked first
    mirrored_by: str = ""  # or a mirror that we run: its name, see `model.mirrors`
    ca_pem: str = ""  # trusted beside the system's
    proxy: str = ""  # of HTTP, that leads there
    created_by: str = ""

    def __repr__(self) -> str:
        """Keep also the sealed password out of logs."""
        return f"KnownRegistry({self.id})"


class RegistryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Make a registry known, or change all that is known of it."""

    host: RegistryHost
    username: Username = ""
    password: Password = ""
    scheme: Literal["https", "http"] = "https"
    mirror: MirrorHost = ""
    ca_pem: CaText = ""
    proxy: ProxyUrl = ""

    @property
    def insecure(self) -> bool:
        """Say whether it is spoken to by plain HTTP."""
        return self.scheme == "http"

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return f"RegistryRequest({self.host})"


class CertificateView(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate: whose (RFC 4514), its SHA-256 (DER), and until when it is good."""

    subject: str
    sha256: str
    expires_at: float


class RegistryView(msgspec.Struct, frozen=True, kw_only=True):
    """A registry as the API shows it: never with its password."""

    host: str
    username: str = ""
    insecure: bool = False
    mirror: str = ""  # where it is now, if it serves
    mirrored_by: str = ""
    trusted: tuple[CertificateView, ...] = ()  # beside the system's
    proxy: str = ""
    revision: int
    created_at: float
    updated_at: float
    created_by: str = ""


class RegistryCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a registry answers the control plane and takes its login; `text` says why not, and what to do."""

    host: str
    works: bool
    kind: ImageErrorKind = ""
    text: str = ""
    seconds: float = 0.0
