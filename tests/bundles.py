"""What a machine sends to join: keys, requests for certificates, and bundles signed by them."""

import time
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.client.joining import signed
from fallow.model.members import JoinRequest, Role
from fallow.model.registrations import SignedBundle

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """Return a machine's key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Key) -> str:
    """Return a certificate signing request."""
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def bundle(token: str, key: Key | None = None, **more: Any) -> SignedBundle:
    """Return what a machine sends; `csr_pem` and all else may be another than what would be right."""
    key = key or new_key()
    told: dict[str, Any] = {"role": Role.NODE, "sent_at": time.time(), **more}
    if "csr_pem" not in told:
        told["csr_pem"] = csr_of(key)
    return signed(JoinRequest(token=token, **told), key)


def bundle_body(token: str, key: Key | None = None, **more: Any) -> dict[str, Any]:
    """Return the same as what JSON is made of."""
    found: dict[str, Any] = msgspec.to_builtins(bundle(token, key, **more))
    return found
