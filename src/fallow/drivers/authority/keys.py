"""Public keys: which are accepted, and the hash by which a key, and so a member, is known.

The hash is always the hex SHA-256 of the key's DER SubjectPublicKeyInfo, never of a certificate: a certificate may be
issued again for the same key, and an ECDSA signature has more than one valid encoding.
"""

import base64
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.drivers.authority.files import AuthorityError
from fallow.model.registrations import BUNDLE_CONTEXT

_UNREADABLE = "the certificate signing request cannot be read; it must be PEM, PKCS #10"


class BadSignature(AuthorityError):  # noqa: N818 - what it is
    """The text was changed on its way, or signed by somebody else."""


def key_sha256(key: object) -> str:
    """Return a public key's hash. Raises AuthorityError when it is not ECDSA P-256."""
    der = p256(key).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def key_sha256_of_request(csr_pem: str) -> str:
    """Return the key hash of a signing request whose signature proves possession. Raises AuthorityError."""
    return key_sha256(public_key_of_request(csr_pem))


def key_sha256_of_certificate(der: bytes) -> str:
    """Return the key hash of a certificate in DER, as a TLS peer presents it. Raises AuthorityError."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthorityError("not a certificate") from error
    return key_sha256(key)


def public_key_of_request(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a request (PEM, PKCS #10) after checking kind, curve and signature. Raises AuthorityError."""
    request, key = _read_request(csr_pem)
    try:
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise AuthorityError(_UNREADABLE) from error
    if not valid:
        raise AuthorityError("the certificate signing request is not signed by its own key")
    return key


def key_of_bundle(csr_pem: str, text: str, signature: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a request that has signed `text`; `signature` is base64 (see `SignedBundle`).

    That signature proves possession of the key, also for `csr_pem`, which is in the text: the request's own is not
    looked at. Raises AuthorityError for a bad request, and BadSignature for a text that this key has not signed.
    """
    _, key = _read_request(csr_pem)
    try:
        key.verify(
            base64.b64decode(signature, validate=True),
            BUNDLE_CONTEXT + text.encode(),
            ec.ECDSA(hashes.SHA256()),
        )
    except (ValueError, InvalidSignature):
        raise BadSignature("the bundle is not signed by the key of its certificate signing request") from None
    return key


def _read_request(csr_pem: str) -> tuple[x509.CertificateSigningRequest, ec.EllipticCurvePublicKey]:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        return request, p256(request.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(_UNREADABLE) from error


def p256(key: object) -> ec.EllipticCurvePublicKey:
    """Return the key as what it is. Raises AuthorityError when it is not ECDSA P-256."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthorityError("the key must be ECDSA on the curve P-256")
    return key
