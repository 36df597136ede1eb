"""Blobs of images on a node: kept, offered to its engine as a registry, and passed on to other nodes."""

from fallow.agent.blobs.blobs import Blobs, Origins, Settings

__all__ = ["Blobs", "Origins", "Settings"]
