"""Certificates that people trust a registry by, beside those of the system."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fallow.model.registries import CertificateView

MAX_CERTIFICATES = 32


def read_certificates(pem: str) -> tuple[CertificateView, ...]:
    """Read certificates in PEM form, at least one. Raises ValueError with what is wrong."""
    if "PRIVATE KEY" in pem:
        raise ValueError("there is a private key in it; give the certificates alone, and keep the key to yourself")
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ValueError("there is no certificate in PEM form in it") from None
    if len(found) > MAX_CERTIFICATES:
        raise ValueError(f"there are {len(found)} certificates in it, and {MAX_CERTIFICATES} may be")
    return tuple(
        CertificateView(
            subject=each.subject.rfc4514_string(),
            sha256=each.fingerprint(hashes.SHA256()).hex(),
            expires_at=each.not_valid_after_utc.timestamp(),
        )
        for each in found
    )
