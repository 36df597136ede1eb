"""Blobs of images on this machine's disk, and on their way from one machine to another."""

from fallow.drivers.blobs.cache import BlobCache, CacheFull
from fallow.drivers.blobs.contract import BlobError, Opened, Way
from fallow.drivers.blobs.growing import Growing, Stored

__all__ = ["BlobCache", "BlobError", "CacheFull", "Growing", "Opened", "Stored", "Way"]
