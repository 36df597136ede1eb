"""Tiny images, and registries to hold them: real ones, real ones behind a proxy that misbehaves, and the fake."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fallow.drivers.registry.fake import FakeRegistry
from testbed import images
from testbed.blobs import digest_of

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def descriptor(kind: str, body: bytes, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest_of(body), "size": len(body), **more}


@dataclass(frozen=True)
class TinyImage:
    """One manifest with its configuration and layers; nothing in a layer could be unpacked."""

    body: bytes
    media_type: str
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.body)

    @property
    def image_id(self) -> str:
        return digest_of(self.config)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)


def tiny(name: str = "one", architecture: str = "amd64", variant: str = "", *, docker: bool = False) -> TinyImage:
    """Return an image whose layers are told apart by `name`."""
    layers = (f"first layer of {name} ".encode() * 50, f"second layer of {name} for {architecture}".encode() * 9000)
    platform = {"architecture": architecture, "os": "linux", **({"variant": variant} if variant else {})}
    diffs = [digest_of(layer) for layer in layers]
    config = json.dumps({**platform, "rootfs": {"type": "layers", "diff_ids": diffs}, "config": {}}).encode()
    kinds = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    body = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "config": descriptor(kinds[1], config),
        "layers": [descriptor(kinds[2], layer) for layer in layers],
    }
    return TinyImage(json.dumps(body).encode(), kinds[0], config, layers)


def index_of(found: Mapping[str, TinyImage], *, docker: bool = False, attestation: bool = True) -> bytes:
    """Return an index of images by platform (linux/arm64/v8), with what builders put beside them."""
    manifests = []
    for platform, image in found.items():
        os, architecture, *variant = platform.split("/")
        of = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        manifests.append(descriptor(image.media_type, image.body, platform=of))
    if attestation and not docker:
        beside = tiny("attestation")
        manifests.append(descriptor(OCI_MANIFEST, beside.body, platform={"os": "unknown", "architecture": "unknown"}))
    kind = DOCKER_INDEX if docker else OCI_INDEX
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()


@dataclass
class Shelf:
    """Where tests put images: a real registry at `address`, or the fake under that name."""

    address: str
    fake: FakeRegistry | None = None
    username: str = ""
    password: str = ""

    def put(self, repository: str, tag: str, image: TinyImage) -> TinyImage:
        self.put_parts(repository, image.blobs, [(tag or image.digest, image.body, image.media_type)])
        return image

    def put_index(self, repository: str, tag: str, body: bytes, found: Iterable[TinyImage]) -> str:
        """Put an index and what it names, with the attestation that `index_of` adds; return its digest."""
        for image in (*found, tiny("attestation")):
            self.put(repository, "", image)
        kind = json.loads(body)["mediaType"]
        self.put_parts(repository, (), [(tag, body, kind)])
        return digest_of(body)

    def put_parts(self, repository: str, blobs: Iterable[bytes], manifests: list[tuple[str, bytes, str]]) -> None:
        if self.fake is None:
            login = {"username": self.username, "password": self.password}
            images.push_parts(self.address, repository, list(blobs), manifests, **login)
            return
        name = f"{self.address}/{repository}"
        for blob in blobs:
            self.fake.put_blob(name, blob)
        for tag, body, kind in manifests:
            self.fake.put_manifest(name, "" if ":" in tag else tag, body, kind)
