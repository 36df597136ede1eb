"""Processes that tell each other what they hear, over real TLS, and members of each other."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from control_rig import ended, until
from records import NOW, deployment, member, peer, replica, template
from session_rig import SessionRig, accepting
from test_hub import Line

from fallow.control.hub import ENDED_SECONDS, Hub
from fallow.control.leader import Leadership
from fallow.control.peers import Peers
from fallow.model.deployments import ReplicaState
from fallow.model.kinds import key_of
from fallow.model.members import Role
from fallow.model.peers import LEADER_ID, ControlAddress, Leader
from fallow.model.routes import ProxyReport
from fallow.model.wire import Assign, ControlMoved, Digest, Goodbye, MemberNews, Reject, Usage, Welcome
from fallow.store.contract import Check, Put


async def _never(_fence: Check) -> None:
    await asyncio.Event().wait()


async def lead(rig: SessionRig) -> None:
    """Put the process of the rig on record as the one that leads."""
    address = ControlAddress(url="https://127.0.0.1:1", session_host="127.0.0.1", session_port=rig.port)
    records = [peer("p1", address=address), Leader(id=LEADER_ID, created_at=NOW, updated_at=NOW, peer_id="p1")]
    puts = [Put(key_of(record), msgspec.msgpack.encode(record)) for record in records]
    await rig.stored.cache.wait(await rig.stored.store.commit([], puts))


async def test_both_sides_come_to_know_what_either_hears(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        await lead(rig)
        cache = rig.stored.cache
        far = Hub(lambda: NOW)
        other = Peers(
            cache, far, Leadership(rig.stored.store, cache, peer("p2"), _never), rig.authority, rig.settings, tmp_path
        )
        rig.hub.open(Line("n-a"))
        far.open(Line("n-b"))
        far.used("n-b", Usage(cpus=1.5))
        far.open(Line("g-1"))
        far.proxied("g-1", ProxyReport(applied_revision=7))
        task = asyncio.create_task(other.run())
        await until(lambda: rig.hub.connected() == far.connected() == {"n-a", "n-b", "g-1"})
        assert rig.hub.usage("n-b") == Usage(cpus=1.5)
        assert rig.hub.proxy_reports()["g-1"].applied_revision == 7
        assert (rig.hub.peer_of("n-b"), far.peer_of("n-a"), rig.hub.peer_of("n-a")) == ("p2", "p1", "")
        assert rig.hub.silences()["n-b"] < 5
        await ended(task)
        await until(lambda: rig.hub.connected() == {"n-a"})
        assert "n-b" in rig.hub.silences()  # its silence counts from the last sign of life


async def test_a_process_does_not_dial_what_led_at_its_own_address_before_it(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        await lead(rig)
        cache, dialled = rig.stored.cache, []

        class Noting(Peers):
            async def _dial(self, address: ControlAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                dialled.append(self._leadership.peer.id)
                return await super()._dial(address)

        tasks = []
        for id_, port in (("p2", rig.port), ("p3", rig.port + 1)):
            address = ControlAddress(url="https://127.0.0.1:1", session_host="127.0.0.1", session_port=port)
            leadership = Leadership(rig.stored.store, cache, peer(id_, address=address), _never)
            other = Noting(cache, Hub(lambda: NOW), leadership, rig.authority, rig.settings, tmp_path)
            tasks.append(asyncio.create_task(other.run()))
        await until(lambda: bool(dialled))
        assert set(dialled) == {"p3"}
        for task in tasks:
            await ended(task)


async def test_members_are_told_of_other_processes(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        connection = await rig.session(await rig.member("a"))
        assert (await connection.hear_a(Welcome)).control == ()
        await connection.hear()  # what it should run
        loop = rig.peers.controller()
        loop.decide(rig.stored.cache.snapshot(), NOW)
        second = peer("p2")
        put = Put(key_of(second), msgspec.msgpack.encode(second))
        await rig.stored.cache.wait(await rig.stored.store.commit([], [put]))
        for _ in range(2):  # once is enough
            loop.decide(rig.stored.cache.snapshot(), NOW)
        assert (await connection.hear_a(ControlMoved)).control == (second.address,)
        later = await rig.session(await rig.member("b"))
        assert (await later.hear_a(Welcome)).control == (second.address,)


async def test_a_member_cannot_speak_as_a_process(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        connection = await rig.session(await rig.member("a"))
        await connection.hear_a(Welcome)
        await connection.hear()
        await connection.say(Digest(members=(MemberNews("n-b", 0.0),)))
        assert "Invalid value 'digest'" in (await connection.hear()).reason  # type: ignore[union-attr]
        await connection.hear_no_more()
        assert "n-b" not in rig.hub.silences()


async def test_a_member_is_told_what_to_run_only_when_all_that_others_have_stored_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with accepting(tmp_path) as rig:
        machine, web = await rig.member("a"), deployment(revision=0)
        await rig.stored.write(web, msgspec.structs.replace(template(web), revision=0))

        async def catch_up() -> bool:
            await rig.stored.write(replica(web, 0, ReplicaState.PLACED, revision=0))  # another process did, before
            return True

        monkeypatch.setattr(rig.stored.applier, "catch_up", catch_up)
        connection = await rig.session(machine)
        await connection.hear_a(Welcome)
        told = await connection.hear_a(Assign)
        assert (told.full, [found.replica_id for found in told.assignments]) == (True, ["web-0"])


async def test_the_newest_sign_of_life_counts_wherever_it_was_heard() -> None:
    steady = 100.0
    hub = Hub(lambda: NOW, lambda: steady)
    hub.open(Line("n-a"))
    steady = 104.0
    hub.absorb("p2", Digest(members=(MemberNews("n-a", 10.0), MemberNews("n-b", 1.0))))
    assert hub.silences() == {"n-a": 4.0, "n-b": 1.0}
    hub.absorb("p2", Digest(members=(MemberNews("n-a", 0.5),)))
    assert hub.silences() == {"n-a": 0.5, "n-b": 1.0}
    assert hub.connected() == {"n-a"}
    assert hub.last_seen("n-a") == NOW - 0.5


def test_a_process_is_told_nothing_of_its_own_members() -> None:
    hub = Hub(lambda: NOW)
    hub.open(Line("n-a"))
    hub.absorb("p2", Digest(members=(MemberNews("n-b", 1.0),)))
    hub.absorb("p3", Digest(members=(MemberNews("n-c", 1.0),)))
    assert [news.member_id for news in hub.digest("p2").members] == ["n-a", "n-c"]


def test_a_session_that_is_dead_at_one_process_hides_none_that_lives_at_another() -> None:
    steady = 100.0
    leader, other = Hub(lambda: NOW, lambda: steady), Hub(lambda: NOW, lambda: steady)
    leader.open(Line("n-a"))  # cut off without a word, and so it turns to the other
    other.absorb("p1", leader.digest("p2"))
    steady = 110.0
    other.open(Line("n-a"))
    other.used("n-a", Usage(containers=2))
    for _ in range(2):
        other.absorb("p1", leader.digest("p2"))
        leader.absorb("p2", other.digest("p1"))
    assert leader.silences() == {"n-a": 0.0}
    assert leader.usage("n-a") == other.usage("n-a") == Usage(containers=2)
    leader.used("n-a", Usage(containers=1))
    other.absorb("p1", leader.digest("p2"))
    assert other.usage("n-a") == Usage(containers=2), "what the dead session says is old"
    steady = 120.0
    for _ in range(2):
        other.absorb("p1", leader.digest("p2"))
        leader.absorb("p2", other.digest("p1"))
    assert leader.silences() == other.silences() == {"n-a": 10.0}, "nobody keeps it alive by repeating the other"


def test_the_last_word_of_a_session_that_has_ended_is_told_for_a_while() -> None:
    steady = 100.0
    leader, other = Hub(lambda: NOW, lambda: steady), Hub(lambda: NOW, lambda: steady)
    line = Line("n-a")
    other.open(line)
    leader.absorb("p2", other.digest("p1"))
    steady = 101.0
    other.heard("n-a")
    other.closed(line)
    steady = 101.5
    leader.absorb("p2", other.digest("p1"))
    assert leader.silences() == {"n-a": 0.5}, "what was heard since the last digest"
    assert leader.connected() == frozenset()
    steady = 101.0 + ENDED_SECONDS
    assert not other.digest("p1").ended
    other.open(line)
    other.closed(line)
    other.forget("n-a")
    assert not other.digest("p1").ended


def test_what_two_dead_sessions_last_said_is_not_told_back_and_forth() -> None:
    steady = 100.0
    one, two = Hub(lambda: NOW, lambda: steady), Hub(lambda: NOW, lambda: steady)
    for hub, revision in ((one, 1), (two, 2)):
        hub.open(Line("g-a"))
        hub.proxied("g-a", ProxyReport(applied_revision=revision))
    told = one.digest("p2"), two.digest("p1")
    steady = 105.0  # so long they were on their way
    two.absorb("p1", told[0])
    one.absorb("p2", told[1])
    assert one.digest("p2").members == two.digest("p1").members == ()


def test_a_role_that_no_member_may_have() -> None:
    assert "control" not in {str(role) for role in Role}
    assert member("a").role is Role.NODE


async def test_a_process_that_does_not_hear_the_one_that_leads_sends_its_members_elsewhere(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        now = 100.0
        rig.peers.steady = lambda: now
        machine = await rig.member("a")
        connection = await rig.session(machine)
        await connection.hear_a(Welcome)
        await connection.hear_a(Assign)
        far = Leader(id=LEADER_ID, created_at=NOW, updated_at=NOW, peer_id="p2")
        puts = [Put(key_of(record), msgspec.msgpack.encode(record)) for record in (peer("p1"), peer("p2"), far)]
        await rig.stored.cache.wait(await rig.stored.store.commit([], puts))
        loop = rig.peers.apart_controller()
        loop.decide(rig.stored.cache.snapshot(), NOW)
        now += rig.settings.suspect_after_seconds - 0.1
        loop.decide(rig.stored.cache.snapshot(), NOW)
        assert rig.hub.connected() == {"n-a"}
        now += 0.2
        loop.decide(rig.stored.cache.snapshot(), NOW)
        assert "another one may" in (await connection.hear_a(Goodbye)).reason
        refusal = await (await rig.session(machine)).hear_a(Reject)
        assert (refusal.final, "does not reach the one that leads" in refusal.reason) == (False, True)
        await lead(rig)  # now it leads itself
        await (await rig.session(machine)).hear_a(Welcome)


async def test_a_process_that_hears_the_one_that_leads_keeps_its_members(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        await lead(rig)
        cache = rig.stored.cache
        now = 100.0
        leadership = Leadership(rig.stored.store, cache, peer("p2"), _never)
        other = Peers(cache, Hub(lambda: NOW), leadership, rig.authority, rig.settings, tmp_path)
        other.steady = lambda: now
        assert not other.apart
        task = asyncio.create_task(other.run())
        await until(lambda: rig.hub._elsewhere)
        now += 60.0
        await until(lambda: not other.apart)
        await ended(task)
        now += 60.0
        assert other.apart
