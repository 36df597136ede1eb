"""Registries of images, spoken to by the OCI distribution API."""

from fallow.drivers.registry.contract import Access, Manifest, OpenedBlob, Registry, RegistryError

__all__ = ["Access", "Manifest", "OpenedBlob", "Registry", "RegistryError"]
