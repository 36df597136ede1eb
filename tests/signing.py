"""Keys, and signatures of images as cosign makes them, in its older form and its newer, put beside the images."""

import base64
import json
from collections.abc import Iterable

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from registry_images import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Shelf, descriptor

from testbed.blobs import digest_of

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY = "application/vnd.oci.empty.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def new_key(kind: str = "ecdsa") -> PrivateKey:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: PrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def payload_of(digest: str, name: str = "registry.example/shop/api") -> bytes:
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def sign(key: PrivateKey, payload: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(payload, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(payload)
    return key.sign(payload, padding.PKCS1v15(), hashes.SHA256())


def put_signatures(shelf: Shelf, repository: str, digest: str, *signed: tuple[bytes, bytes | str]) -> None:
    """Put payloads with their signatures where those of the image with this digest are looked for."""
    layers = []
    for payload, signature in signed:
        text = signature if isinstance(signature, str) else base64.b64encode(signature).decode()
        layers.append(descriptor(PAYLOAD, payload, annotations={ANNOTATION: text}))
    config = b"{}"
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": layers,
    }
    tag = digest.replace(":", "-") + ".sig"
    blobs = [config, *(payload for payload, _ in signed)]
    shelf.put_parts(repository, blobs, [(tag, json.dumps(body).encode(), OCI_MANIFEST)])


def put_signed(shelf: Shelf, repository: str, digest: str, key: PrivateKey) -> None:
    """Sign an image as it should be."""
    payload = payload_of(digest, f"{shelf.address}/{repository}")
    put_signatures(shelf, repository, digest, (payload, sign(key, payload)))


def statement_of(digest: str, predicate: str = SIGN, kind: str = "https://in-toto.io/Statement/v1") -> bytes:
    algorithm, _, value = digest.partition(":")
    subject = {"digest": {algorithm: value}}
    return json.dumps({"_type": kind, "subject": [subject], "predicateType": predicate, "predicate": {}}).encode()


def envelope_of(key: PrivateKey, payload: bytes, kind: str = IN_TOTO) -> dict[str, object]:
    """Return a DSSE envelope: what is signed is the kind and the payload, each with its length before it."""
    signed = b"DSSEv1 " + b" ".join(f"{len(part)} ".encode() + part for part in (kind.encode(), payload))
    signature = {"sig": base64.b64encode(sign(key, signed)).decode()}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [signature]}


def bundle_of(envelope: dict[str, object], kind: str = BUNDLE) -> bytes:
    """Return a Sigstore bundle as `cosign sign --key` writes it."""
    material = {"publicKey": {"hint": "a2V5"}, "tlogEntries": [], "timestampVerificationData": {}}
    return json.dumps({"mediaType": kind, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def signed_bundle(key: PrivateKey, digest: str, predicate: str = SIGN) -> bytes:
    return bundle_of(envelope_of(key, statement_of(digest, predicate)))


def put_artifact(shelf: Shelf, repository: str, digest: str, bundle: bytes, predicate: str = SIGN) -> dict[str, object]:
    """Put a bundle as an artifact that refers to an image; return the descriptor of it for a list of referrers."""
    annotations = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate}
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": descriptor(EMPTY, b"{}"),
        "layers": [descriptor(BUNDLE, bundle)],
        "subject": {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1},
        "annotations": annotations if predicate else {},
    }
    manifest = json.dumps(body).encode()
    shelf.put_parts(repository, [b"{}", bundle], [(digest_of(manifest), manifest, OCI_MANIFEST)])
    return descriptor(OCI_MANIFEST, manifest, artifactType=BUNDLE)


def list_of(artifacts: Iterable[dict[str, object]]) -> bytes:
    """Return a list of referrers."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(artifacts)}).encode()


def put_bundles(shelf: Shelf, repository: str, digest: str, *bundles: bytes) -> None:
    """Put bundles, and the list of them where a registry without a list of its own has it."""
    artifacts = [put_artifact(shelf, repository, digest, bundle) for bundle in bundles]
    shelf.put_parts(repository, [], [(digest.replace(":", "-"), list_of(artifacts), OCI_INDEX)])
