"""Admission and tokens over real parts: memory store, cache, applier, CA, and the loop that decides."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles import Key, bundle, csr_of, new_key
from prometheus_client import CollectorRegistry

from fallow.control.admission import Admission
from fallow.control.registrations import Registrations, registrations_controller
from fallow.control.runner import LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.control.tokens import Tokens
from fallow.drivers.authority import Authority
from fallow.model.members import Facts, Identity, Member
from fallow.model.registrations import JoinWaiting, MemberKey
from fallow.model.tokens import TokenRequest
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store
from fallow.store.open import open_store

__all__ = ["NOW", "Parts", "admitting", "csr_of", "new_key"]

NOW = 1_800_000_000.0


@dataclass
class Parts:
    """One control plane's admission; `now` is its clock."""

    cache: Cache
    applier: Applier
    authority: Authority
    settings: Settings
    store: Store
    now: float = NOW
    deciding: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.cache, self.applier, self.authority, self.settings, lambda: self.now)
        self.admission = Admission(self.cache, self.applier, self.authority, self.settings, lambda: self.now)
        self.registrations = Registrations(self.cache, self.applier, lambda: self.now)

    async def token(self, **more: Any) -> str:
        """Return a join token."""
        view = await self.tokens.create(TokenRequest(**{"role": "node", **more}), "api:test")
        return view.secret or ""

    async def ask(self, token: str, key: Key, address: str = "10.0.0.5", **more: Any) -> Identity | JoinWaiting:
        """Ask to join as a node."""
        hostname = more.pop("hostname", "box")
        told = {"facts": Facts(hostname=hostname), "sent_at": self.now, **more}
        return await self.admission.join(bundle(token, key, **told), address)

    async def join(self, token: str, key: Key, address: str = "10.0.0.5", **more: Any) -> Identity:
        """Join as a node."""
        found = await self.ask(token, key, address, **more)
        assert isinstance(found, Identity)
        return found

    def member(self, identity: Identity) -> Member:
        """Return what is stored of a member."""
        return self.cache.snapshot().members[identity.member_id]

    def joined_keys(self) -> Sequence[MemberKey]:
        """Return the keys that have joined, in the order they did."""
        return sorted(self.cache.snapshot().member_keys.values(), key=lambda key: key.revision)

    def reasons(self) -> list[str]:
        """Return the reasons of all events, oldest first."""
        records = self.cache.records("events")
        return [one.reason for one in sorted(records.values(), key=lambda one: one.revision)]  # type: ignore[attr-defined]


@asynccontextmanager
async def admitting(folder: Path, **settings: Any) -> AsyncIterator[Parts]:
    """Run the parts."""
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    authority = Authority.create_or_load(folder, NOW)
    parts = Parts(cache, Applier(store, cache), authority, Settings(**settings), store)
    loops = [registrations_controller(store, parts.settings)]
    runner = Runner(cache, parts.applier, loops, lambda: parts.now, LoopMetrics(CollectorRegistry()))
    parts.deciding = deciding = asyncio.create_task(runner.run())
    try:
        yield parts
    finally:
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
        await cache.stop()
        await store.close()
