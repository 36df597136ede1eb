"""Images that were given to the control plane as a file, for nodes that reach no registry."""

import msgspec

from fallow.model.images import ResolvedImage


class LoadedArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What was in a file, and the jobs that bring it to nodes, one an image, in the same order."""

    images: tuple[ResolvedImage, ...]
    jobs: tuple[str, ...]  # ids
    size_bytes: int  # of all blobs together
