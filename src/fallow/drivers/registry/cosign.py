"""Signatures of images in cosign's two formats, fetched from the image's own repository and verified.

- The tag `sha256-DIGEST.sig` names a manifest; each of its layers is a signed payload, and has the signature in an
  annotation (cosign's SIGNATURE_SPEC, the default up to cosign 2).
- What refers to the image (OCI 1.1) may hold a Sigstore bundle 0.3: a DSSE envelope with an in-toto statement of the
  image (cosign's BUNDLE_SPEC, the default since cosign 3).

ECDSA P-256 with SHA-256, Ed25519, and RSA (PKCS #1 v1.5 with SHA-256).
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from fallow.decide.trust import SIGN_PREDICATE, payload_trouble, statement_trouble
from fallow.drivers.registry.contract import Access, Registry, RegistryError
from fallow.drivers.registry.documents import read_manifest

ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
MAX_PAYLOAD_BYTES = 64 * 1024
MAX_SIGNATURES = 32
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_TYPES = frozenset({BUNDLE_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3"})
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
IN_TOTO_TYPE = "application/vnd.in-toto+json"
MAX_BUNDLE_BYTES = 256 * 1024  # with what it may hold of transparency logs
MAX_REFERRERS = 64
_BROKEN = frozenset({"not-found", "bad-request", "wrong-content"})  # of one that is listed: others may be good
_UNREADABLE = "a signature in it cannot be read"
_NOT_OURS = "a signature is by none of the keys, or what it signs was changed"
MIN_RSA_BITS = 2048


class _Signature(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


class _Bundle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    dsse_envelope: _Envelope


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
    troubles = await _tag_troubles(registry, access, repository, digest, keys)
    if troubles is None:
        return None
    more = await _bundle_troubles(registry, access, repository, digest, keys)
    return None if more is None else [*troubles, *more]


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed of an envelope (DSSE 1.0, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


async def _tag_troubles(
    registry: Registry, access: Access, repository: str, digest: str, keys: Sequence[str]
) -> list[str] | None:
    try:
        manifest = await registry.manifest(access, repository, digest.replace(":", "-") + ".sig")
    except RegistryError as error:
        if error.kind == "not-found":
            return []
        raise
    troubles = []
    for layer in read_manifest(manifest.body).layers[:MAX_SIGNATURES]:
        signature = _decoded((layer.annotations or {}).get(ANNOTATION, ""))
        if layer.media_type != PAYLOAD_TYPE or signature is None:
            troubles.append(_UNREADABLE)
            continue
        payload = await registry.blob(access, repository, layer.digest, MAX_PAYLOAD_BYTES)
        # First whose it is: what nobody we trust has signed is not even worth reading.
        if not any(verified(key, payload, signature) for key in keys):
            troubles.append(_NOT_OURS)
            continue
        trouble = payload_trouble(payload, digest)
        if not trouble:
            return None
        troubles.append(trouble)
    return troubles


async def _bundle_troubles(
    registry: Registry, access: Access, repository: str, digest: str, keys: Sequence[str]
) -> list[str] | None:
    troubles = list[str]()
    for each in (await registry.referrers(access, repository, digest, BUNDLE_TYPE))[:MAX_REFERRERS]:
        try:
            bundle = await _bundle(registry, access, repository, each)
        except RegistryError as error:
            if error.kind not in _BROKEN:
                raise
            troubles.append(f"a signature cannot be read: {error}")
            continue
        if bundle is None:
            continue
        trouble = bundle_trouble(bundle, digest, keys)
        if not trouble:
            return None
        troubles.append(trouble)
    return troubles


async def _bundle(registry: Registry, access: Access, repository: str, digest: str) -> bytes | None:
    """Return the bundle that an artifact holds; None when it holds no signature. Raises RegistryError."""
    body = read_manifest((await registry.manifest(access, repository, digest)).body)
    # Attestations are bundles too, some of many megabytes. What the annotation says is not signed: it only leaves out.
    predicate = (body.annotations or {}).get(PREDICATE_ANNOTATION, SIGN_PREDICATE)
    if len(body.layers) != 1 or body.layers[0].media_type not in BUNDLE_TYPES or predicate != SIGN_PREDICATE:
        return None
    return await registry.blob(access, repository, body.layers[0].digest, MAX_BUNDLE_BYTES)


def bundle_trouble(body: bytes, digest: str, keys: Sequence[str]) -> str:
    """Return why a bundle is no signature of the image with this digest by one of the keys; empty when it is."""
    try:
        bundle = msgspec.json.decode(body, type=_Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _UNREADABLE
    envelope = bundle.dsse_envelope
    if bundle.media_type not in BUNDLE_TYPES or len(envelope.signatures) != 1:  # one, says the bundle's format
        return _UNREADABLE
    payload, signature = _decoded(envelope.payload), _decoded(envelope.signatures[0].sig)
    if payload is None or signature is None:
        return _UNREADABLE
    if envelope.payload_type != IN_TOTO_TYPE:
        return f"what is signed is no in-toto statement, but {envelope.payload_type[:80]!r}"
    signed = pre_authentication_encoding(envelope.payload_type, payload)
    if not any(verified(key, signed, signature) for key in keys):
        return _NOT_OURS
    return statement_trouble(payload, digest)


def _decoded(text: str) -> bytes | None:
    """Read base64 of either alphabet; DSSE leaves the choice to who signs."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True) or None
    except (binascii.Error, ValueError):
        return None
