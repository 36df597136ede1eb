"""Image archives: what `docker save`, `podman save` and others write."""

from fallow.drivers.archives.reading import ArchiveError, Limits, read_archive

__all__ = ["ArchiveError", "Limits", "read_archive"]
