"""Leases as machines get them that join: of pools, in the commit of their members, at two processes at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from admission_rig import NOW, Parts, admitting, new_key
from control_rig import until
from prometheus_client import CollectorRegistry

from fallow.control.pools import Pools, leases_controller
from fallow.control.refusals import Refused
from fallow.control.registrations import registrations_controller
from fallow.control.runner import LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.decide.leases import release
from fallow.decide.plan import Plan, Step
from fallow.model.members import Member, Role
from fallow.model.pools import NetworkMode, PoolChange, PoolRequest, PortRange
from fallow.store.applier import Applied, Applier
from fallow.store.cache import Cache
from fallow.store.memory import MemoryStore


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with admitting(tmp_path / "ca") as found:
        yield found


def pools_of(parts: Parts) -> Pools:
    return Pools(parts.cache, parts.applier, parts.settings, lambda: parts.now)


async def create(parts: Parts, cidr: str, mode: str = "wireguard", name: str = "default", **more: Any) -> None:
    request = PoolRequest(name=name, cidr=cidr, mode=NetworkMode(mode), **more)
    await pools_of(parts).create(request, "api:test")


async def remove(parts: Parts, member_id: str) -> None:
    snapshot = parts.cache.snapshot()
    gone = snapshot.members[member_id]
    await parts.applier.commit(Step(puts=release(snapshot, gone, parts.now), deletes=(gone,)))


async def refused(call: Any, code: str) -> str:
    with pytest.raises(Refused) as caught:
        await call
    problem = caught.value.problem
    assert (problem.status, problem.type) == (409, f"urn:fallow:{code}")
    assert problem.hint
    return problem.detail


async def test_members_get_addresses_of_the_overlay_and_keep_them(parts: Parts) -> None:
    await create(parts, "10.86.0.0/29", quarantine_seconds=60.0)
    token, key = await parts.token(uses=9), new_key()
    first = await parts.join(token, key)
    assert (first.lease.address, first.lease.mode, first.lease.prefix_length) == (
        "10.86.0.2", NetworkMode.WIREGUARD, 29,
    )  # fmt: skip
    assert first.lease == parts.cache.snapshot().members[first.member_id].lease
    assert (await parts.join(token, key)).lease == first.lease, "the answer was lost, and it asks again"
    others = [(await parts.join(token, new_key())).lease.address for _ in range(4)]
    assert others == [f"10.86.0.{number}" for number in (3, 4, 5, 6)]
    assert "5 are leased" in await refused(parts.join(token, new_key()), "pool-exhausted")
    await remove(parts, first.member_id)
    assert "1 in quarantine" in await refused(parts.join(token, new_key()), "pool-exhausted")
    parts.now += 60
    assert (await parts.join(token, new_key())).lease.address == "10.86.0.2"


async def test_gateways_join_the_overlay_too(parts: Parts) -> None:
    await create(parts, "fd00:86::/64")
    gate = await parts.join(await parts.token(role="gateway"), new_key(), role=Role.GATEWAY)
    assert gate.lease.address == "fd00:86::2"


async def test_a_direct_pool_wants_the_address_to_be_in_it(parts: Parts) -> None:
    await create(parts, "10.0.0.0/24", "direct", "rack", first_host_port=30000, last_host_port=30099,
                 host_ports_per_node=50, agent_port=9000)  # fmt: skip
    token = await parts.token(uses=9)
    leases = [(await parts.join(token, new_key())).lease for _ in range(2)]
    assert [lease.host_ports for lease in leases] == [
        PortRange(first=30000, last=30049), PortRange(first=30050, last=30099),
    ]  # fmt: skip
    assert [(lease.pool, lease.agent_port) for lease in leases] == [("rack", 9000), ("rack", 9001)]
    await refused(parts.join(token, new_key()), "ports-exhausted")
    said = await refused(parts.join(token, new_key(), address="192.0.2.1"), "address-outside-pool")
    assert "192.0.2.1" in said
    assert "10.0.0.0/24" in said


@asynccontextmanager
async def two_processes(folder: Path) -> AsyncIterator[tuple[Parts, Parts]]:
    """Run two admissions over one store; the first one leads."""

    class Shared(MemoryStore):
        shared = True

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(admitting(folder))
        store, both = Shared(), []
        for _ in range(2):
            cache = Cache(store)
            await cache.start()
            stack.push_async_callback(cache.stop)
            both.append(Parts(cache, Applier(store, cache), first.authority, Settings(), store))
        loops = [registrations_controller(store, Settings())]
        runner = Runner(both[0].cache, both[0].applier, loops, lambda: NOW, LoopMetrics(CollectorRegistry()))
        leading = asyncio.create_task(runner.run())
        try:
            yield both[0], both[1]
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)


async def test_two_race_for_the_last_address(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "ca") as (one, other):
        await create(one, "10.86.0.0/30")
        tokens = [await one.token() for _ in range(6)]
        asked = [
            (one if number % 2 else other).join(token, new_key(), hostname=f"m{number}")
            for number, token in enumerate(tokens)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        joined = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert [answer.lease.address for answer in joined] == ["10.86.0.2"]
        codes = {answer.problem.type for answer in answers if isinstance(answer, Refused)}
        assert codes == {"urn:fallow:pool-exhausted"}
        await until(lambda: len(one.cache.snapshot().members) == len(other.cache.snapshot().members) == 1)
        spent = [token.spent for token in one.cache.snapshot().join_tokens.values()]
        assert sorted(spent) == [0, 0, 0, 0, 0, 1], "whoever was refused may use its token later"


@pytest.mark.parametrize("at", [1, 2])
async def test_a_pool_is_not_deleted_under_a_machine_that_joins(tmp_path: Path, at: int) -> None:
    """The machine joins elsewhere just before the first, or the second, commit of the deletion."""
    async with two_processes(tmp_path / "ca") as (one, other):
        await create(one, "10.86.0.0/24")
        await until(lambda: other.cache.snapshot().pools)
        token, commit, commits = await one.token(), other.applier.commit, 0

        async def commit_after_join(step: Step) -> int:
            nonlocal commits
            commits += 1
            if commits == at:
                answers.extend(await asyncio.gather(one.join(token, new_key()), return_exceptions=True))
            return await commit(step)

        answers: list[Any] = []
        other.applier.commit = commit_after_join  # type: ignore[method-assign]
        deleting = pools_of(other).delete("default", "api:test")
        if at == 1:
            assert "box have addresses" in await refused(deleting, "pool-in-use")
            assert answers[0].lease.pool == "default"
            assert not other.cache.snapshot().pools["default"].deleting
        else:
            await deleting
            assert isinstance(answers[0], Refused)
            assert answers[0].problem.type == "urn:fallow:pool-ends"
            assert not other.cache.snapshot().pools


async def test_no_lease_is_given_of_a_pool_that_has_changed_meanwhile(tmp_path: Path) -> None:
    """The pool is deleted elsewhere after the lease was decided, and before it is stored."""
    async with two_processes(tmp_path / "ca") as (one, other):
        await create(one, "10.86.0.0/24")
        await until(lambda: other.cache.snapshot().pools)
        token, apply, deleted = await one.token(), one.applier.apply, False

        async def apply_after_deletion(plan: Plan) -> Applied:
            nonlocal deleted
            if plan.steps and not deleted:
                deleted = True
                await pools_of(other).delete("default", "api:test")
            return await apply(plan)

        one.applier.apply = apply_after_deletion  # type: ignore[method-assign]
        assert (await one.join(token, new_key())).lease.pool == ""


async def test_a_deletion_that_was_begun_by_who_died_is_called_off_or_finished(parts: Parts) -> None:
    await create(parts, "10.86.0.0/24")
    pool = parts.cache.snapshot().pools["default"]
    begun = msgspec.structs.replace(pool, deleting=True, updated_at=NOW)
    await parts.applier.commit(Step(puts=(begun,)))
    token = await parts.token()
    await refused(parts.join(token, new_key()), "pool-ends")
    decide = leases_controller().decide
    assert not decide(parts.cache.snapshot(), NOW + 20).steps
    await parts.applier.apply(decide(parts.cache.snapshot(), NOW + 31))
    assert (await parts.join(token, new_key())).lease.pool == "default"
    await create(parts, "10.87.0.0/24", name="other")
    begun = msgspec.structs.replace(parts.cache.snapshot().pools["other"], deleting=True)
    await parts.applier.commit(Step(puts=(begun,)))
    await pools_of(parts).delete("other", "api:test")
    assert set(parts.cache.snapshot().pools) == {"default"}


async def test_the_loop_brings_leases_up_to_date(parts: Parts) -> None:
    await create(parts, "10.86.0.0/24")
    joined = await parts.join(await parts.token(), new_key())
    await pools_of(parts).change("default", PoolChange(cidr="10.86.0.0/16"), "api:test")
    controller = leases_controller()
    assert controller.kinds == {"pools"}
    applied = await parts.applier.apply(controller.decide(parts.cache.snapshot(), NOW))
    assert applied.committed == 1
    stored = parts.cache.get("members", joined.member_id)
    assert isinstance(stored, Member)
    assert (stored.lease.address, stored.lease.prefix_length) == ("10.86.0.2", 16)
