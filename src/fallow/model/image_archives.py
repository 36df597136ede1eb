"""Images that were given to the control plane as a file, for nodes that reach no registry."""

import msgspec

from fallow.model.images import ResolvedImage


class LoadedArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What was in a file, and the jobs that bring it to nodes, one an image, in the same order.

    `nodes` are those it was for, by name; after a dry run, which needs no file, they are all that is told.
    """

    images: tuple[ResolvedImage, ...] = ()
    jobs: tuple[str, ...] = ()  # ids
    size_bytes: int = 0  # of all blobs together
    nodes: tuple[str, ...] = ()
