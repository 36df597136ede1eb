"""Who this member is: a key made here that never leaves, and the certificate the control plane gave for it."""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.agent.folder import prepare, set_aside, write_private
from fallow.client import keys
from fallow.model.members import Identity

HALF_LIFE = 0.5
JITTER = 0.1
SKEW_SECONDS = 60.0  # less may as well be the answer's way


class IdentityError(Exception):
    """The identity is missing or damaged; the text says what to do."""


class SavedIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """An identity, the URL that gave it, and when, in UTC seconds."""

    url: str
    identity: Identity
    saved_at: float


class IdentityStore:
    """The files `key.pem`, `identity.json` and, made from them for the TLS library, `certificate.pem`; all 0600."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock
        self._key_path = folder / "key.pem"
        self._path = folder / "identity.json"
        self._chain_path = folder / "certificate.pem"
        self._refusal_path = folder / "refused"
        self._saved: SavedIdentity | None = None

    @property
    def exists(self) -> bool:
        """Say whether this machine has joined."""
        return self._path.exists()

    @property
    def saved(self) -> SavedIdentity:
        """Return the identity. Raises IdentityError when this machine has not joined or the file is damaged."""
        if self._saved is None:
            self._saved = self._load()
        return self._saved

    @property
    def identity(self) -> Identity:
        """Return the identity without where it came from. Raises IdentityError."""
        return self.saved.identity

    def _load(self) -> SavedIdentity:
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=SavedIdentity)
        except FileNotFoundError:
            raise IdentityError(
                f"this machine has not joined a cluster (no identity in {self.folder}): run fallow join with a token"
            ) from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IdentityError(
                f"the identity in {self._path} cannot be read: {error}; remove the file and join again with a new token"
            ) from error
        self._check(saved.identity)
        return saved

    def save(self, url: str, identity: Identity) -> None:
        """Keep an identity just given for our key. Raises IdentityError when it is not for our key, or OSError."""
        self._check(identity)
        saved = SavedIdentity(url=url, identity=identity, saved_at=self._clock())
        write_private(self._path, msgspec.json.encode(saved))
        self._saved = saved
        self.clear_refusal()

    def renewed(self, identity: Identity) -> None:
        """Keep a renewed identity. Raises IdentityError when it is somebody else's."""
        if identity.member_id != self.identity.member_id:
            raise IdentityError(f"the renewed certificate is for {identity.member_id}, not {self.identity.member_id}")
        self.save(self.saved.url, identity)

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return our key; made and saved at first use. Raises IdentityError."""
        prepare(self.folder)
        try:
            key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
        except FileNotFoundError:
            return self._make_key()
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError(
                f"the key in {self._key_path} cannot be read: remove it and identity.json and join again"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IdentityError(f"the key in {self._key_path} is of another kind: remove it and join again")
        return key

    def _make_key(self) -> ec.EllipticCurvePrivateKey:
        key = keys.new_key()
        write_private(self._key_path, keys.key_pem(key))
        return key

    def csr_pem(self) -> str:
        """Return a request for a certificate; its signature proves that we hold the key. Raises IdentityError."""
        return keys.csr_pem(self.key())

    def expires_at(self) -> float:
        """Return until when our certificate is valid, in UTC seconds by our own clock.

        What it says is by the control plane's clock, which ours may be a day off.
        """
        ends = _certificate(self.identity).not_valid_after_utc.timestamp()
        return ends + self.clock_skew()

    def clock_skew(self) -> float:
        """Return by how many seconds our clock was ahead of the control plane's when our certificate was issued.

        0 when it was not by much, or is not known.
        """
        issued_at = self.identity.issued_at
        skew = self.saved.saved_at - issued_at if issued_at else 0.0
        return skew if abs(skew) > SKEW_SECONDS else 0.0

    def renew_at(self, chance: float) -> float:
        """Return when to ask for a new certificate: half its life, and up to a tenth of it later by `chance` 0..1.

        Its life with us counts, not its own dates: certificates are backdated for machines with a slow clock.
        """
        first, last = self.saved.saved_at, self.expires_at()
        return first + (last - first) * (HALF_LIFE + JITTER * chance)

    def session_address(self) -> tuple[str, int]:
        """Return host and port of the session listener."""
        identity = self.identity
        return identity.session_host or urlsplit(self.saved.url).hostname or "", identity.session_port

    def tls(self) -> ssl.SSLContext:
        """Return a context that proves us and trusts our CA alone. Raises IdentityError and OSError."""
        identity = self.identity
        chain = identity.certificate_pem.encode()
        if not self._chain_path.exists() or self._chain_path.read_bytes() != chain:
            write_private(self._chain_path, chain)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks name and chain
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cadata=identity.ca_pem)
            context.load_cert_chain(self._chain_path, self._key_path)
        except (ssl.SSLError, ValueError) as error:
            raise IdentityError(f"the identity in {self.folder} cannot be used: {error}") from error
        return context

    def tls_for_peers(self) -> ssl.SSLContext:
        """Return a context with which we dial other members; who they are, their certificate says, not a host name.

        Raises IdentityError and OSError.
        """
        context = self.tls()
        context.check_hostname = False
        return context

    def tls_to_serve(self) -> ssl.SSLContext:
        """Return a context with which other members dial us: it lets in who has a certificate of our CA.

        Raises IdentityError and OSError.
        """
        self.tls()  # writes the chain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.identity.ca_pem)
        context.load_cert_chain(self._chain_path, self._key_path)
        return context

    def note_refusal(self, reason: str) -> None:
        """Remember that the control plane no longer knows us, so that a new token leads to a new identity."""
        write_private(self._refusal_path, f"{reason} ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)\n".encode())

    @property
    def refusal(self) -> str:
        """Return why the control plane turned us away for good; empty when it did not."""
        try:
            return self._refusal_path.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def clear_refusal(self) -> None:
        """Forget a refusal: we were let in again."""
        self._refusal_path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Set key and identity aside, to join anew. Raises OSError."""
        for path in (self._path, self._key_path):
            if path.exists():
                set_aside(path)
        self._saved = None
        self.clear_refusal()

    def _check(self, identity: Identity) -> None:
        """Raise IdentityError unless the certificate is for our key and signed by the CA that came with it."""
        certificate = _certificate(identity)
        if certificate.public_key() != self.key().public_key():
            raise IdentityError("the certificate is for another key")
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(identity.ca_pem.encode()))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise IdentityError("the certificate is not signed by the CA that came with it") from error


def utc_text() -> str:
    """Return what this machine's clock says."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _certificate(identity: Identity) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(identity.certificate_pem.encode())
    except ValueError as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error
