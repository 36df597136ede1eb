"""Images of any size that nothing makes smaller: for tests and figures of how images travel."""

import gzip
import random

from testbed.blobs import digest_of, tar_of
from testbed.images import Layer, LocalImage, busybox

PORTION = 64 * 2**20


def image(seed: int, size: int, layers: int = 2) -> LocalImage:
    """Return busybox with layers of noise on top, `size` bytes each; the same seed always gives the same image."""
    noise = (_layer(f"noise/{number}", _noise(f"{seed} {number}", size)) for number in range(layers))
    return LocalImage((*busybox().layers, *noise), busybox().command, busybox().environment)


def _noise(seed: str, size: int) -> bytes:
    """Return so many bytes, a portion at a time: Python makes no random number of more than 2^31 bits."""
    source = random.Random(seed)
    return b"".join(source.randbytes(min(PORTION, size - start)) for start in range(0, size, PORTION))


def layer_digests(made: LocalImage) -> list[str]:
    """Return the digests of an image's layers as registries have them."""
    return [digest_of(layer.blob) for layer in made.layers]


def _layer(path: str, content: bytes) -> Layer:
    """Return a layer with one file, wrapped as gzip without being compressed, which saves the time."""
    blob = tar_of({path: content})
    return Layer(gzip.compress(blob, compresslevel=0, mtime=0), digest_of(blob))
