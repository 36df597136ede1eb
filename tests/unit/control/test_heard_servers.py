"""What servers say: as old as it is, in every process that hears of it, and waking nobody by repetition."""

import asyncio
from pathlib import Path

from control_rig import ended, until
from records import NOW, peer
from server_records import report
from session_rig import accepting
from test_hub import Line
from test_peers import _never, lead

from fallow.control.hub import Hub
from fallow.control.leader import Leadership
from fallow.control.peers import Peers
from fallow.model.servers import STALE_SECONDS
from fallow.model.wire import Digest, MemberNews, decode_digest, encode_frame


class Processes:
    """Three hubs that exchange digests as a leader and two others do, some time after they were made."""

    def __init__(self) -> None:
        self.at = 100.0
        self.hubs = {name: Hub(lambda: NOW + self.at, lambda: self.at) for name in ("lead", "a", "b")}

    def exchange(self, delay: float = 0.0) -> int:
        """Send every digest there is to send once; return how many reports were in them."""
        count = 0
        for sender, receiver in (("a", "lead"), ("b", "lead"), ("lead", "a"), ("lead", "b")):
            digest = decode_digest(encode_frame(self.hubs[sender].digest(receiver))[4:])
            count += sum(news.server is not None for news in digest.members)
            self.at += delay
            self.hubs[receiver].absorb(sender, digest)
        return count

    def ages(self, server_id: str) -> list[float]:
        return [round(hub.servers()[server_id].age_seconds, 6) for hub in self.hubs.values()]


def test_a_report_grows_old_by_the_steady_clock() -> None:
    wall, steady = [NOW], [5.0]
    hub = Hub(lambda: wall[0], lambda: steady[0])
    servers = hub.servers()
    assert not servers
    hub.server_reported("s-1", report())
    wall[0] += 86400.0
    assert (servers["s-1"].age_seconds, servers["s-1"].fresh) == (0.0, True)
    steady[0] += STALE_SECONDS + 0.1
    assert not servers["s-1"].fresh
    assert (list(servers), "s-1" in servers, "s-2" in servers, servers.get("s-2")) == (["s-1"], True, False, None)
    hub.forget("s-1")
    assert not servers


def test_all_processes_know_each_report_with_its_true_age() -> None:
    three = Processes()
    three.hubs["a"].open(Line("s-1"))
    three.hubs["a"].server_reported("s-1", report())
    three.at += 2.0
    three.exchange()
    assert three.ages("s-1") == [2.0, 2.0, 2.0]
    three.at += 1.0
    assert three.ages("s-1") == [3.0, 3.0, 3.0]


def test_an_old_report_does_not_become_young_by_going_round() -> None:
    three = Processes()
    three.hubs["a"].open(Line("s-1"))
    three.hubs["a"].server_reported("s-1", report())
    for _ in range(60):
        three.at += 0.5
        three.hubs["a"].heard("s-1")  # the session lives, but nothing is measured any more
        three.exchange(delay=0.01)
    assert not any(hub.servers()["s-1"].fresh for hub in three.hubs.values())


def test_a_report_is_relayed_once_and_again_to_who_comes_back() -> None:
    three = Processes()
    three.hubs["a"].open(Line("s-1"))
    three.hubs["a"].server_reported("s-1", report())
    assert three.exchange() == 2  # to the one that leads, and from there
    assert three.exchange() == 0
    three.at += 1.0
    three.hubs["a"].server_reported("s-1", report(limit_cpus=3.0))
    assert three.exchange() == 2
    three.hubs["lead"].peer_gone("b")
    three.hubs["b"] = Hub(lambda: NOW, lambda: three.at)
    assert three.exchange() == 1
    assert three.hubs["b"].servers()["s-1"].report.limit_cpus == 3.0


def test_the_newest_report_counts_when_a_server_goes_to_another_process() -> None:
    three = Processes()
    left = Line("s-1")
    three.hubs["a"].open(left)
    three.hubs["a"].server_reported("s-1", report(limit_cpus=1.0))
    three.exchange()
    three.at += 1.0
    three.hubs["b"].open(Line("s-1"))
    three.hubs["b"].server_reported("s-1", report(limit_cpus=2.0))
    for _ in range(3):  # the session here is dead, and this process does not know
        three.at += 0.5
        three.exchange()
    known = {name: hub.servers()["s-1"].report.limit_cpus for name, hub in three.hubs.items()}
    assert known == {"lead": 2.0, "a": 1.0, "b": 2.0}
    three.hubs["a"].closed(left)
    for _ in range(2):
        three.exchange()
    assert {hub.servers()["s-1"].report.limit_cpus for hub in three.hubs.values()} == {2.0}
    assert three.ages("s-1") == [1.5, 1.5, 1.5]


def test_what_was_held_up_on_its_way_does_not_replace_what_is_newer() -> None:
    hub = Hub(lambda: NOW, lambda: 50.0)
    hub.server_reported("s-1", report(limit_cpus=2.0))
    for age, limit in ((3.0, 1.0), (0.0, 1.0)):
        late = MemberNews("s-1", 0.0, server=report(limit_cpus=limit), server_age_seconds=age)
        hub.absorb("p2", Digest(members=(late,)))
        assert hub.servers()["s-1"].report.limit_cpus == 2.0


def test_loops_are_woken_when_something_has_to_go_and_not_each_second() -> None:
    calls, at = [], [0.0]
    hub = Hub(lambda: NOW, lambda: at[0])
    hub.on_change.append(lambda: calls.append(at[0]))
    said = (
        ({}, 1),
        ({"relief_cpus": 1.0}, 1),
        ({"relief_cpus": 2.0, "urgent": True}, 1),
        ({"relief_memory_bytes": 5, "urgent": True}, 0),
        ({"lends": False}, 1),
        ({"limit_cpus": 3.0}, 1),
        ({"limit_cpus": 1.0}, 0),
    )
    for changes, woken in said:
        before = len(calls)
        for _ in range(3):
            at[0] += 1.0
            hub.server_reported("s-1", report(**changes))
        assert len(calls) - before == woken, changes


async def test_two_processes_over_a_real_connection(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        await lead(rig)
        far = Hub(lambda: NOW)
        leadership = Leadership(rig.stored.store, rig.stored.cache, peer("p2"), _never)
        other = Peers(rig.stored.cache, far, leadership, rig.authority, rig.settings, tmp_path)
        rig.hub.open(Line("s-1"))
        rig.hub.server_reported("s-1", report(limit_cpus=1.0))
        far.open(Line("s-2"))
        far.server_reported("s-2", report(limit_cpus=2.0))
        task = asyncio.create_task(other.run())
        await until(lambda: len(rig.hub.servers()) == len(far.servers()) == 2)
        for hub in (rig.hub, far):
            assert [hub.servers()[id_].report.limit_cpus for id_ in ("s-1", "s-2")] == [1.0, 2.0]
            assert all(heard.age_seconds < STALE_SECONDS for heard in hub.servers().values())
        far.server_reported("s-2", report(limit_cpus=4.0))
        await until(lambda: rig.hub.servers()["s-2"].report.limit_cpus == 4.0)
        await ended(task)
