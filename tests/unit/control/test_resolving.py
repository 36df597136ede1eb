"""Resolving: asked once for many, remembered for a time that fits, and never more at once than a registry can bear."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from control_rig import Stored, storing
from records import member
from registry_images import Shelf, index_of, tiny
from registry_rig import RegistryParts, registry_parts

from fallow.control.resolving import AT_ONCE, DIGEST_SECONDS, MAX_QUIET_SECONDS, TAG_SECONDS, Unresolved
from fallow.drivers.registry import RegistryError
from fallow.drivers.registry.fake import FakeRegistry
from fallow.model.images import ResolvedImage
from fallow.model.members import Facts
from fallow.model.registries import RegistryRequest

NOW = 1_800_000_000.0
HOST = "registry.example"


class Gated(FakeRegistry):
    """Answers when it is let; counts how many wait."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.inside, self.most = 0, 0

    async def resolve(self, *args, **more) -> ResolvedImage:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            return await super().resolve(*args, **more)
        finally:
            self.inside -= 1


@asynccontextmanager
async def resolving(tmp_path, driver: FakeRegistry) -> AsyncIterator[tuple[RegistryParts, Shelf, list[float], Stored]]:
    now = [1000.0]
    async with storing(member("n1", id="n1", revision=0, facts=Facts(architecture="amd64"))) as stored:
        parts = registry_parts(stored.cache, stored.applier, tmp_path, lambda: NOW, driver, lambda: now[0])
        yield parts, Shelf(HOST, driver), now, stored


def tags_asked(driver: FakeRegistry) -> int:
    return len([asked for asked in driver.asked if asked.endswith("/api:1")])


async def test_tags_are_remembered_for_a_moment_and_digests_for_long(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, now, _):
        first = shelf.put("shop/api", "1", tiny("first"))
        found = await parts.resolver.resolve(f"{HOST}/shop/api:1")
        assert (found.digest, found.resolved_at) == (first.digest, NOW)
        second = shelf.put("shop/api", "1", tiny("second"))
        now[0] += TAG_SECONDS - 1
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1")).digest == first.digest
        now[0] += 2
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1")).digest == second.digest
        by_digest = f"{HOST}/shop/api@{first.digest}"
        await parts.resolver.resolve(by_digest)
        asked = len(driver.asked)
        now[0] += DIGEST_SECONDS - 1
        await parts.resolver.resolve(by_digest)
        assert len(driver.asked) == asked


async def test_who_has_just_pushed_gets_what_was_pushed(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, _, _stored):
        first = shelf.put("shop/api", "1", tiny("first"))
        await parts.resolver.resolve(f"{HOST}/shop/api:1")
        second = shelf.put("shop/api", "1", tiny("second"))
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1", since=NOW)).digest == first.digest
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1", since=NOW + 0.1)).digest == second.digest


async def test_whoever_asks_meanwhile_shares_the_answer(tmp_path):
    driver = Gated()
    async with resolving(tmp_path, driver) as (parts, shelf, _, _):
        shelf.put("shop/api", "1", tiny())
        asking = [asyncio.create_task(parts.resolver.resolve(f"{HOST}/shop/api:1")) for _ in range(100)]
        while not driver.inside:
            await asyncio.sleep(0)
        asking[0].cancel()  # who asked first goes away
        driver.gate.set()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert all(isinstance(outcome, ResolvedImage) for outcome in outcomes[1:])
        assert tags_asked(driver) == 1


async def test_a_registry_is_asked_a_few_things_at_once(tmp_path):
    driver = Gated()
    async with resolving(tmp_path, driver) as (parts, shelf, _, _):
        for number in range(20):
            shelf.put(f"shop/api{number}", "1", tiny())
        asking = [asyncio.create_task(parts.resolver.resolve(f"{HOST}/shop/api{number}:1")) for number in range(20)]
        while driver.inside < AT_ONCE:
            await asyncio.sleep(0)
        driver.gate.set()
        await asyncio.gather(*asking)
        assert driver.most == AT_ONCE


async def test_trouble_is_remembered_for_a_moment(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, now, _):
        shelf.put("shop/api", "1", tiny())
        driver.troubles = [RegistryError("unreachable", "no route")]
        for _ in range(5):
            with pytest.raises(Unresolved, match="no route") as caught:
                await parts.resolver.resolve(f"{HOST}/shop/api:1")
            assert (caught.value.kind, caught.value.problem.status) == ("unreachable", 502)
        assert len(driver.asked) == 1
        now[0] += 5
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1")).digest


async def test_a_registry_that_asks_to_wait_is_not_asked_anything(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, now, _):
        shelf.put("shop/api", "1", tiny())
        shelf.put("shop/web", "1", tiny())
        driver.troubles = [RegistryError("rate-limited", "slow down", 86400.0)]
        for name in ("api", "web"):
            with pytest.raises(Unresolved) as caught:
                await parts.resolver.resolve(f"{HOST}/shop/{name}:1")
            assert (caught.value.kind, caught.value.problem.status) == ("rate-limited", 429)
        assert len(driver.asked) == 1
        now[0] += MAX_QUIET_SECONDS + 1
        assert (await parts.resolver.resolve(f"{HOST}/shop/web:1")).digest


async def test_a_new_login_is_tried_at_once(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, _, _):
        shelf.put("shop/api", "1", tiny())
        driver.troubles = [RegistryError("rate-limited", "slow down", 3600.0)]
        with pytest.raises(Unresolved):
            await parts.resolver.resolve(f"{HOST}/shop/api:1")
        await parts.registries.add(RegistryRequest(host=HOST, username="ci", password="secret-word"), "test")
        assert (await parts.resolver.resolve(f"{HOST}/shop/api:1")).digest


async def test_only_what_nodes_are_is_looked_up(tmp_path):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, shelf, _, stored):
        images = {"linux/amd64": tiny("a"), "linux/arm64": tiny("b", "arm64"), "linux/s390x": tiny("c", "s390x")}
        shelf.put_index("shop/api", "1", index_of(images), images.values())
        found = await parts.resolver.resolve(f"{HOST}/shop/api:1")
        assert [each.platform for each in found.platforms] == ["linux/amd64"]
        assert len(driver.asked) == 2
        await stored.write(member("n2", id="n2", revision=0, facts=Facts(architecture="arm64")))
        found = await parts.resolver.resolve(f"{HOST}/shop/api:1")
        assert [each.platform for each in found.platforms] == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize("reference", ["", "UPPER", "a b", "x" * 600, "a\nb", "a:b:c", "a@sha256:1"])
async def test_what_is_no_reference(tmp_path, reference: str):
    driver = FakeRegistry()
    async with resolving(tmp_path, driver) as (parts, _, _, _):
        with pytest.raises(Unresolved) as caught:
            await parts.resolver.resolve(reference)
        assert (caught.value.kind, caught.value.problem.status) == ("bad-request", 422)
        assert driver.asked == []
