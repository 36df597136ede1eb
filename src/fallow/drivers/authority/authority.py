"""A certificate authority in one folder: ECDSA P-256 everywhere, short-lived certificates, identity is the key."""

import datetime
import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from fallow.client.keys import key_pem, new_key
from fallow.drivers.authority import files
from fallow.drivers.authority.files import AuthorityError
from fallow.drivers.authority.keys import key_sha256, p256, public_key_of_request
from fallow.model.credentials import SERVER_NAME, member_uri
from fallow.model.peers import PEER_ROLE

CA_SECONDS = 10 * 365 * 86400.0
PEER_SECONDS = 86400.0  # issued anew whenever a process dials another
SERVER_SECONDS = 825 * 86400.0  # issued anew whenever a control plane starts
BACKDATE_SECONDS = 300.0  # other processes' clocks may be this much behind ours
SERVER_BACKDATE_SECONDS = 2 * 86400.0  # a machine whose clock is a day behind should be able to believe us
CA_KEY_FILE = "ca.key"
CA_CERTIFICATE_FILE = "ca.crt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """A member's new certificate; `expires_at` in UTC seconds."""

    certificate_pem: str
    key_sha256: str
    expires_at: float


class Authority:
    """Signs certificates with a CA key that never leaves its folder."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.ca_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.ca_sha256 = key_sha256(certificate.public_key())

    def __repr__(self) -> str:
        """Name the CA without its key."""
        return f"Authority({self.ca_sha256})"

    @classmethod
    def create_or_load(cls, folder: Path, now: float | None = None) -> "Authority":
        """Return the CA kept in `folder`, made on first use; `now` in UTC seconds is when a new one begins.

        The key file is readable by its owner alone. A key without a certificate (we were stopped in between) gets one.
        Raises AuthorityError when the folder's content is unfit; it is never overwritten.
        """
        files.make_private_folder(folder)
        key_path, certificate_path = folder / CA_KEY_FILE, folder / CA_CERTIFICATE_FILE
        if not key_path.exists():
            if certificate_path.exists():
                raise AuthorityError(
                    f"{key_path} is missing beside its certificate; restore it from a backup, or remove "
                    f"{certificate_path} to begin anew, after which every machine must join again"
                )
            files.create(key_path, key_pem(new_key()), 0o600)
        key = _load_key(files.read_private(key_path))
        if not certificate_path.exists():
            begun = time.time() if now is None else now
            files.create(certificate_path, _ca_certificate(key, begun), 0o644)
        return cls(key, _load_ca(certificate_path.read_bytes(), key))

    @classmethod
    def kept_in(cls, folder: Path) -> bool:
        """Say whether `folder` holds a CA."""
        return (folder / CA_KEY_FILE).exists()

    @classmethod
    def install(cls, folder: Path, bundle: bytes) -> None:
        """Keep in `folder` a CA that `bundle` returned elsewhere. Raises AuthorityError."""
        files.make_private_folder(folder)
        key_pem, mark, rest = bundle.partition(b"-----BEGIN CERTIFICATE-----")
        _load_ca(mark + rest, _load_key(key_pem))
        # The key last: without it there is no CA, and the certificate alone is taken for a lost key.
        (folder / CA_CERTIFICATE_FILE).unlink(missing_ok=True)
        files.create(folder / CA_KEY_FILE, key_pem, 0o600)
        files.create(folder / CA_CERTIFICATE_FILE, mark + rest, 0o644)

    def bundle(self) -> bytes:
        """Return key and certificate, PEM, for another process of the same control plane: a secret."""
        return key_pem(self._key) + self.ca_pem.encode()

    def issue_member(self, csr_pem: str, role: str, member_id: str, now: float, ttl_seconds: float) -> Issued:
        """Sign a member's request; only its key is taken from it. Raises AuthorityError on a bad one."""
        return self.issue_for_key(public_key_of_request(csr_pem), role, member_id, now, now + ttl_seconds)

    def issue_for_key(
        self, public_key: ec.EllipticCurvePublicKey, role: str, member_id: str, now: float, expires_at: float
    ) -> Issued:
        """Sign a certificate for a key whose holder has proved to hold it; it begins `now`."""
        expires_at = min(expires_at, self._certificate.not_valid_after_utc.timestamp())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, member_id)]
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(member_uri(role, member_id))]
        # Members serve blobs to each other. None can pass for a control plane: it has no name a host could have.
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        pem = self._sign(public_key, subject, names, usages, (now - BACKDATE_SECONDS, expires_at))
        return Issued(certificate_pem=pem, key_sha256=key_sha256(public_key), expires_at=float(int(expires_at)))

    def issue_server(self, hosts: Sequence[str], now: float) -> tuple[str, str]:
        """Return certificate and new private key, PEM, for SERVER_NAME, this machine's own names and `hosts`.

        Raises AuthorityError when a host is neither an address nor a name.
        """
        key = new_key()
        wanted = dict.fromkeys([SERVER_NAME, "localhost", "127.0.0.1", "::1", *hosts])
        names = [_general_name(host) for host in wanted]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
        expires_at = min(now + SERVER_SECONDS, self._certificate.not_valid_after_utc.timestamp())
        pem = self._sign(
            key.public_key(),
            subject,
            names,
            [ExtendedKeyUsageOID.SERVER_AUTH],
            (now - SERVER_BACKDATE_SECONDS, expires_at),
        )
        return pem, key_pem(key).decode()

    def issue_peer(self, peer_id: str, now: float) -> tuple[str, str]:
        """Return certificate and new private key, PEM, with which a control-plane process proves itself to others."""
        key = new_key()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        return self.issue_member(pem, PEER_ROLE, peer_id, now, PEER_SECONDS).certificate_pem, key_pem(key).decode()

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        usages: Sequence[ObjectIdentifier],
        valid: tuple[float, float],
    ) -> str:
        begins, ends = valid
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(begins))
            .not_valid_after(_utc(ends))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The parser's own error is dropped: it might repeat part of the key.
        raise AuthorityError(f"{CA_KEY_FILE} is not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{CA_KEY_FILE} must be an ECDSA key on the curve P-256")
    p256(key.public_key())
    return key


def _load_ca(pem: bytes, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise AuthorityError(f"{CA_CERTIFICATE_FILE} is not a certificate in PEM") from error
    if certificate.public_key() != key.public_key():
        raise AuthorityError(f"{CA_CERTIFICATE_FILE} does not belong to {CA_KEY_FILE}")
    return certificate


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: float) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fallow cluster CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - SERVER_BACKDATE_SECONDS))
        .not_valid_after(_utc(now + CA_SECONDS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise AuthorityError(f"{host!r} is neither an address nor a host name in ASCII") from error


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), tz=datetime.UTC)
