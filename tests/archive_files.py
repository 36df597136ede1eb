"""Archives of images as tests need them: right ones, and parts of wrong ones."""

import json
import tarfile

from blob_nodes import MANIFEST

from testbed.blobs import digest_of, tar_of

LAYERS = [b"layer one" * 100, b"layer two" * 100]
CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(x) for x in LAYERS]}}
).encode()


def tar(files, *, links=(), kind=None) -> bytes:
    others = []
    for name, to in links:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind or tarfile.SYMTYPE, to
        others.append(info)
    return tar_of(files, others)


def docker(**changes):
    saved = {"Config": "c.json", "RepoTags": ["shop:1"], "Layers": ["a/layer.tar", "b/layer.tar"]} | changes
    return {
        "c.json": CONFIG,
        "a/layer.tar": LAYERS[0],
        "b/layer.tar": LAYERS[1],
        "manifest.json": json.dumps([saved]).encode(),
    }


def oci(annotations=None, **blobs):
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"digest": digest_of(CONFIG), "size": len(CONFIG), "mediaType": "c"},
            "layers": [{"digest": digest_of(x), "size": len(x), "mediaType": "l"} for x in LAYERS],
        }
    ).encode()
    names = {"org.opencontainers.image.ref.name": "registry.test/shop/api:1"} if annotations is None else annotations
    index = {
        "schemaVersion": 2,
        "manifests": [{"digest": digest_of(manifest), "size": len(manifest), "annotations": names}],
    }
    files = {f"blobs/sha256/{digest_of(each)[7:]}": each for each in (manifest, CONFIG, *LAYERS)}
    return {"oci-layout": b"{}", **files, "index.json": json.dumps(index).encode(), **blobs}
