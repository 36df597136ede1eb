"""How images come to nodes: registries and their logins, which node has what, and the answers to pulls."""

from collections.abc import Callable

from fallow.control.blobs import Blobs
from fallow.control.pulls import Pulls
from fallow.control.registries import HostRegistries, Registries
from fallow.control.resolving import Resolver
from fallow.control.vault import Vault
from fallow.drivers.registry import Registry
from fallow.store.applier import Applier
from fallow.store.cache import Cache


class Distribution:
    """One for each process, which has `driver` to itself.

    `clock` gives UTC seconds, `steady` seconds that nobody sets.
    """

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        vault: Vault,
        driver: Registry,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self.blobs = Blobs(cache, steady)
        self.registries = Registries(cache, applier, vault, driver, clock)
        self.resolver = Resolver(cache, self.registries, driver, clock, steady)
        self.pulls = Pulls(cache, applier, self.registries, self.resolver)
        of_host = HostRegistries(cache, applier, vault, driver, clock)
        self.pulls.for_host = of_host, Resolver(cache, of_host, driver, clock, steady)
        self.pulls.helpers = self.blobs.sources
        self._driver = driver

    async def stop(self) -> None:
        """Close the connections to registries."""
        await self._driver.close()
