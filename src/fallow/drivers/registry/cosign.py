"""Signatures of images in cosign's format, fetched from the image's own repository and verified.

The tag `sha256-DIGEST.sig` names a manifest; each of its layers is a signed payload, and has the signature in an
annotation (cosign's SIGNATURE_SPEC). ECDSA P-256 with SHA-256, Ed25519, and RSA (PKCS #1 v1.5 with SHA-256).
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from fallow.decide.trust import payload_trouble
from fallow.drivers.registry.contract import Access, Registry, RegistryError
from fallow.drivers.registry.documents import read_manifest

ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
MAX_PAYLOAD_BYTES = 64 * 1024
MAX_SIGNATURES = 32
MIN_RSA_BITS = 2048

_Key = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def load_key(pem: str) -> _Key:
    """Read a public key. Raises ValueError, with what is wrong with it, for one that signatures cannot be held to."""
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is no public key in PEM form (cosign.pub)") from None
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return key
    raise ValueError(f"only ECDSA P-256, Ed25519 and RSA keys of at least {MIN_RSA_BITS} bits can be used")


def describe_key(pem: str) -> tuple[str, str]:
    """Return what kind of key it is, and the SHA-256 of it (DER). Raises ValueError."""
    key = load_key(pem)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    kinds = {ec.EllipticCurvePublicKey: "ecdsa-p256", ed25519.Ed25519PublicKey: "ed25519", rsa.RSAPublicKey: "rsa"}
    kind = next(name for type_, name in kinds.items() if isinstance(key, type_))
    return kind, hashlib.sha256(der).hexdigest()


def verified(pem: str, payload: bytes, signature: bytes) -> bool:
    """Say whether a key has signed a payload. Raises ValueError for a key that cannot be used."""
    key = load_key(pem)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, payload)
        else:
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


async def signature_troubles(
    registry: Registry, access: Access, repository: str, digest: str, keys: Sequence[str]
) -> list[str] | None:
    """Return None when one of `keys` has signed the image with this digest, else what is wrong with each signature.

    Raises RegistryError when the registry cannot be asked; that there is no signature is no error.
    """
    try:
        manifest = await registry.manifest(access, repository, digest.replace(":", "-") + ".sig")
    except RegistryError as error:
        if error.kind == "not-found":
            return []
        raise
    troubles = []
    for layer in read_manifest(manifest.body).layers[:MAX_SIGNATURES]:
        signature = _signature((layer.annotations or {}).get(ANNOTATION, ""))
        if layer.media_type != PAYLOAD_TYPE or signature is None:
            troubles.append("a signature in it cannot be read")
            continue
        payload = await registry.blob(access, repository, layer.digest, MAX_PAYLOAD_BYTES)
        # First whose it is: what nobody we trust has signed is not even worth reading.
        if not any(verified(key, payload, signature) for key in keys):
            troubles.append("a signature is by none of the keys, or what it signs was changed")
            continue
        trouble = payload_trouble(payload, digest)
        if not trouble:
            return None
        troubles.append(trouble)
    return troubles


def _signature(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None
