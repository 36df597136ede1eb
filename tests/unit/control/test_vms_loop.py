"""The loop over virtual machines on a real plane's parts: made by policy, linked as they join, taken away in order."""

from typing import Any

import msgspec
from control_rig import storing
from records import NOW, deployment, ids, member, replica, template
from server_records import GIB, report, server, use, vm

from fallow.control.hub import Hub
from fallow.control.vms import vms_controller
from fallow.decide.harvest.vms import MISSING_SECONDS, STATE_SECONDS
from fallow.model.members import MemberState, Scheduling
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.servers import Lending
from fallow.model.tokens import JoinToken
from fallow.model.vms import Vm, VmState, VmWish


class Loop:
    """The loop, run when told, with clocks that stand still."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.at = 0.0
        self.hub = Hub(lambda: NOW + self.at, lambda: self.at)
        self.controller = vms_controller(self.hub, ids(), lambda: self.at)

    async def once(self, seconds: float = 1.0, **reports: Any) -> None:
        """Let time pass, hear a report of `srv`, and run until nothing is left to do."""
        self.at += seconds
        if reports:
            self.hub.server_reported("s-srv", report(**reports))
        while (plan := self.controller.decide(self.stored.cache.snapshot(), NOW + self.at)).steps:
            assert (await self.stored.applier.apply(plan)).committed

    def vms(self) -> list[Vm]:
        return sorted(self.stored.cache.snapshot().vms.values(), key=lambda found: found.id)


def pool(**changes: Any) -> ServerPool:
    return ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(**changes))


async def test_vms_are_made_by_policy_once() -> None:
    async with storing(server(revision=0), pool(vms=VmPlan(count=2))) as stored:
        loop = Loop(stored)
        await loop.once()
        assert loop.vms() == []  # nothing is known of it yet
        await loop.once(lends=False)
        assert loop.vms() == []
        await loop.once(lends=True)
        await loop.once(lends=True)
        first, second = loop.vms()
        assert {first.name, second.name} == {"srv-vm", "srv-vm-2"}
        assert all((found.cpus, found.memory_bytes, found.automatic) == (5.0, 4 * GIB, True) for found in loop.vms())
        assert stored.reasons().count("VmOrdered") == 2


async def test_a_state_is_followed_though_the_clock_was_set_back() -> None:
    async with storing(server(revision=0), vm(state=VmState.STOPPED, state_since=NOW + 7200)) as stored:
        loop = Loop(stored)
        await loop.once(1.0, vms=(use(state=VmState.RUNNING),))
        assert loop.vms()[0].state is VmState.RUNNING


async def test_states_are_stored_as_they_change_and_not_as_often_as_they_are_told() -> None:
    async with storing(server(revision=0), pool(vms=VmPlan(count=0)), vm()) as stored:
        loop = Loop(stored)
        await loop.once(5.0, vms=(use(state=VmState.PREPARING),))
        await loop.once(5.0, vms=(use(state=VmState.FAILED, problem="no\nimage"),))
        (found,) = loop.vms()
        assert (found.state, found.problem) == (VmState.FAILED, "no image")
        revision = found.revision
        for number in range(20):
            await loop.once(1.0, vms=(use(state=VmState.FAILED, problem=f"no image, try {number}"),))
        assert loop.vms()[0].revision == revision
        await loop.once(5.0, vms=(use(state=VmState.RUNNING),))
        assert (loop.vms()[0].state, loop.vms()[0].problem) == (VmState.RUNNING, "")
        assert [reason for reason in stored.reasons() if reason.startswith("Vm")].count("VmFailed") == 1


async def test_a_server_that_changes_its_mind_all_the_time_is_not_stored_all_the_time() -> None:
    async with storing(server(revision=0), pool(vms=VmPlan(count=0)), vm()) as stored:
        loop = Loop(stored)
        for number in range(100):
            await loop.once(0.1, vms=(use(state=VmState.RUNNING if number % 2 else VmState.FAILED),))
        assert sum(reason.startswith("Vm") for reason in stored.reasons()) <= 10.0 / STATE_SECONDS


async def test_a_vm_that_is_not_wanted_leaves_backwards() -> None:
    shop, node = deployment(revision=0), member("a", revision=0)
    held = replica(shop, revision=0)
    token = JoinToken(id="t1", created_at=NOW, updated_at=NOW, secret_sha256="0", role="node", expires_at=NOW + 60)
    records = (server(revision=0), shop, template(shop), node, held, token)
    records = tuple(msgspec.structs.replace(found, revision=0) for found in records)
    found = vm(node_id="n-a", token_id="t1", automatic=True)
    async with storing(*records, pool(vms=VmPlan(count=0)), found) as stored:
        loop = Loop(stored)
        await loop.once(vms=(use(),))
        assert loop.vms()[0].wanted is VmWish.ABSENT
        assert stored.member("n-a").scheduling is Scheduling.DRAINING
        for _ in range(30):  # an agent that has started anew does not list it, but it is not empty
            await loop.once(1.0, vms=())
        assert len(loop.vms()) == 1
        await stored.delete(stored.replica(held.id))
        await loop.once(1.0, vms=(use(),))
        for use_now in (use(state=VmState.STOPPED, problem="its disk is busy"), use(state=VmState.STOPPING)):
            for _ in range(20):
                await loop.once(1.0, vms=(use_now,))
        await loop.once(1.0, vms=(use(state=VmState.STOPPED),))
        await loop.once(MISSING_SECONDS - 1.0, vms=())
        assert len(loop.vms()) == 1
        await loop.once(1.0, vms=())
        assert loop.vms() == []
        assert stored.cache.get("members", "n-a") is None
        assert [found.member_id for found in stored.cache.snapshot().revocations.values()] == ["n-a"]
        assert stored.cache.get("join-tokens", "t1").revoked


async def test_a_node_drains_for_its_vm_and_is_used_again() -> None:
    async with storing(
        server(revision=0), pool(vms=VmPlan(count=0)), member("a", revision=0), vm(node_id="n-a")
    ) as stored:
        loop = Loop(stored)
        for draining, scheduling in ((True, Scheduling.DRAINING), (False, Scheduling.ACTIVE)):
            await stored.write(msgspec.structs.replace(loop.vms()[0], draining=draining))
            await loop.once(vms=(use(),))
            assert stored.member("n-a").scheduling is scheduling
        drained = msgspec.structs.replace(stored.member("n-a"), scheduling=Scheduling.DRAINING)
        await stored.write(drained)
        await loop.once(vms=(use(),))
        assert stored.member("n-a").scheduling is Scheduling.DRAINING  # an operator's wish stays


async def test_a_token_to_replace_a_node_ends_once_that_is_ready() -> None:
    token = JoinToken(
        id="t1", created_at=NOW, updated_at=NOW, secret_sha256="0", role="node", expires_at=NOW + 60, replaces="n-a"
    )
    joining = member("a", state=MemberState.JOINING, revision=0)
    async with storing(
        server(revision=0), pool(vms=VmPlan(count=0)), joining, token, vm(node_id="n-a", token_id="t1")
    ) as stored:
        loop = Loop(stored)
        await loop.once(vms=(use(),))
        assert not stored.cache.get("join-tokens", "t1").revoked
        await stored.write(msgspec.structs.replace(stored.member("n-a"), state=MemberState.READY))
        await loop.once(vms=(use(),))
        assert stored.cache.get("join-tokens", "t1").revoked


async def test_vms_go_with_their_server() -> None:
    records = (vm(node_id="n-a"), vm("b"), member("a", revision=0), Lending(id="s-srv", created_at=0, updated_at=0))
    async with storing(*records, server("other", revision=0)) as stored:
        loop = Loop(stored)
        await loop.once()
        snapshot = stored.cache.snapshot()
        assert (list(snapshot.members), dict(snapshot.vms), dict(snapshot.lendings)) == (["s-other"], {}, {})


async def test_a_vm_whose_node_was_removed_goes() -> None:
    async with storing(server(revision=0), pool(vms=VmPlan(count=0)), vm(node_id="n-a")) as stored:
        loop = Loop(stored)
        await loop.once(vms=(use(),))
        assert loop.vms()[0].wanted is VmWish.ABSENT


async def test_what_keeps_a_server_from_lending_is_on_record() -> None:
    async with storing(server(revision=0), pool(lends=False)) as stored:
        loop = Loop(stored)
        for records, closed in (
            ((), "its server pool default lends nothing"),
            ((pool(vms=VmPlan(count=0)),), ""),
            ((server(scheduling=Scheduling.DRAINING),), "it is drained by an operator"),
        ):
            for record in records:
                kind = "members" if record.id == "s-srv" else "server-pools"
                before = stored.cache.get(kind, record.id)
                await stored.write(msgspec.structs.replace(record, revision=before.revision if before else 0))
            await loop.once()
            assert stored.cache.get("lendings", "s-srv").closed == closed
        assert [found for found in stored.reasons() if found.startswith("Server")].count("ServerClosed") == 2


async def test_labels_of_a_node_follow_its_server() -> None:
    there = server(revision=0, labels={"region": "west", "secret": "x"})
    async with storing(there, member("a", revision=0, labels={"tier": "web"}), vm(node_id="n-a")) as stored:
        loop = Loop(stored)
        await loop.once(vms=(use(),))
        ours = {"fallow.server": "srv", "fallow.vm": "a", "fallow.size": "4cpu-8192MiB"}
        labels = {"tier": "web", "region": "west", **ours}
        assert stored.member("n-a").labels == labels
        await stored.write(msgspec.structs.replace(loop.vms()[0], cpus=1.5))
        await loop.once(vms=(use(),))
        assert stored.member("n-a").labels == {**labels, "fallow.size": "1.5cpu-8192MiB"}


async def test_a_dead_server_tells_nothing_of_its_vms() -> None:
    dead = server(revision=0, state=MemberState.DEAD)
    async with storing(dead, vm(state=VmState.RUNNING)) as stored:
        loop = Loop(stored)
        await loop.once()
        assert (loop.vms()[0].state, "is dead" in loop.vms()[0].problem) == (VmState.RUNNING, True)
        await stored.write(msgspec.structs.replace(stored.member("s-srv"), state=MemberState.READY))
        await loop.once(lends=False)
        assert loop.vms()[0].problem == ""
