"""Leases are unique whatever dies when: two processes on one store, killed before and after any of its operations."""

from pathlib import Path

import pytest
from lease_swarm import Swarm, look_back, overlay

from fallow.decide.plan import Step
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store
from fallow.store.open import open_store

pytestmark = pytest.mark.timeout(60)


async def opened(url: str, cidr: str) -> Store:
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    await Applier(store, cache).commit(Step(puts=(overlay(cidr),)))
    await cache.stop()
    return store


@pytest.mark.parametrize(("back_end", "seed"), [("memory", 1), ("sqlite", 3)])
async def test_no_address_twice_through_crashes(tmp_path: Path, back_end: str, seed: int) -> None:
    url = "memory:" if back_end == "memory" else f"sqlite:{tmp_path / 'leases.db'}"
    store = await opened(url, "10.86.0.0/16")
    try:
        outcome = await Swarm(store, crashes=60, seed=seed, fuse=16, remove_one_in=10).run(400)
        assert outcome.crashes >= 30
        assert len(outcome.leases) == 400
        assert outcome.removed
        assert len({lease.address for lease in outcome.leases.values()}) == 400
        assert await look_back(store) == 400
    finally:
        await store.close()


async def test_the_last_address_is_given_once(tmp_path: Path) -> None:
    """More machines than addresses race: as many as there are addresses get one, and every other is refused."""
    store = await opened("memory:", "10.86.0.0/25")
    try:
        outcome = await Swarm(store, crashes=40, seed=4).run(140, workers=140)
        assert len({lease.address for lease in outcome.leases.values()}) == len(outcome.leases) == 125
        assert len(outcome.refused) == 15
        assert await look_back(store) == 125
    finally:
        await store.close()
