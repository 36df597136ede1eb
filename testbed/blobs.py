"""What images are made of, as bytes: tar files and digests."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping


def digest_of(body: bytes) -> str:
    """Return the name that registries and engines give to bytes."""
    return "sha256:" + hashlib.sha256(body).hexdigest()


def tar_of(files: Mapping[str, bytes], others: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """Return a tar file, not compressed, with files by their paths and then what has no content, such as links."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return plain.getvalue()
