"""What answers pulls, over a fake registry unless another is given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fallow.control.pulls import Pulls
from fallow.control.registries import Registries
from fallow.control.resolving import Resolver
from fallow.control.vault import Vault
from fallow.drivers.registry import Registry
from fallow.drivers.registry.fake import FakeRegistry
from fallow.store.applier import Applier
from fallow.store.cache import Cache


@dataclass
class RegistryParts:
    """The parts of a control plane that know registries."""

    driver: Registry
    registries: Registries
    resolver: Resolver
    pulls: Pulls


def registry_parts(
    cache: Cache,
    applier: Applier,
    folder: Path,
    clock: Callable[[], float],
    driver: Registry | None = None,
    steady: Callable[[], float] | None = None,
) -> RegistryParts:
    driver = driver or FakeRegistry()
    registries = Registries(cache, applier, Vault(cache, folder / "cluster.key"), driver, clock)
    resolver = Resolver(cache, registries, driver, clock, *([steady] if steady else []))
    return RegistryParts(driver, registries, resolver, Pulls(cache, applier, registries, resolver))
