"""Keys, and signatures of images as cosign makes them, put beside the images."""

import base64
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from registry_images import OCI_CONFIG, OCI_MANIFEST, Shelf, descriptor

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
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
