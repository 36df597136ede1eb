"""Everything the API calls; `main.py` puts it together."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import cached_property

from litestar.di import NamedDependency
from litestar.params import SkipValidation
from prometheus_client import CollectorRegistry

from fallow.api.limits import Limits
from fallow.control.admission import Admission
from fallow.control.archives import Archives
from fallow.control.audit import Attempts
from fallow.control.hosts import Hosts
from fallow.control.hub import Hub
from fallow.control.image_requests import ImageRequests
from fallow.control.image_schedules import ImageSchedules
from fallow.control.leader import Leadership
from fallow.control.mirrors import Mirrors
from fallow.control.names import NamesLoop
from fallow.control.pools import Pools
from fallow.control.registrations import Registrations
from fallow.control.registries import Registries
from fallow.control.resolving import Resolver
from fallow.control.settings import Settings
from fallow.control.tokens import Tokens
from fallow.control.trust import Trust
from fallow.drivers.packages import Packages
from fallow.model.image_jobs import TaskProgress
from fallow.model.wire import OpenLog
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts behind the API. `clock` gives UTC seconds, `ready` why we are not ready yet, or None when we are.

    `registry` collects metrics: build only one API on it. One control plane deploys at a time, under `deploying`:
    a name that is new to two requests at once has no record yet that could make one of them fail. Compose files are
    read, and dry runs foretold, one at a time under `reading`: either may keep a processor busy for seconds.
    """

    store: Store
    cache: Cache
    applier: Applier
    admission: Admission
    registrations: Registrations
    tokens: Tokens
    hub: Hub
    names: NamesLoop
    leadership: Leadership
    packages: Packages
    registries: Registries
    resolver: Resolver
    archives: Archives
    settings: Settings
    ca_pem: str
    clock: Callable[[], float]
    new_id: Callable[[], str]
    registry: CollectorRegistry
    ready: Callable[[], str | None]
    image_requests: ImageRequests
    hosts: Hosts
    image_progress: Callable[[str], TaskProgress | None] = lambda _: None
    cluster_logs: Callable[[str, OpenLog], AsyncGenerator[str, None] | None] = lambda _id, _wanted: None
    limits: Limits = field(default_factory=Limits)
    deploying: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @cached_property
    def attempts(self) -> Attempts:
        """Return what records attempts that were refused."""
        return Attempts(self.applier, self.clock, self.new_id)

    @cached_property
    def mirrors(self) -> Mirrors:
        """Return what keeps mirrors of registries."""
        return Mirrors(self.cache, self.applier, self.resolver, self.clock)

    @cached_property
    def trust(self) -> Trust:
        """Return what changes the rules on images."""
        return Trust(self.cache, self.applier, self.clock)

    @cached_property
    def image_schedules(self) -> ImageSchedules:
        """Return what keeps schedules of image jobs."""
        return ImageSchedules(self.cache, self.applier, self.image_requests, self.clock, self.new_id)

    @cached_property
    def pools(self) -> Pools:
        """Return what changes the pools of leases."""
        return Pools(self.cache, self.applier, self.settings, self.clock)


Needs = NamedDependency[SkipValidation[Services]]
