"""Clusters among the members: watched by thresholds of their own, and no trouble to what looks at all members."""

import itertools

from control_rig import storing
from federation_world import cluster, here
from records import NOW, member, snapshot

from fallow.control.hub import Hub
from fallow.control.members import LOOK_SECONDS, members_controller
from fallow.control.settings import Settings
from fallow.decide.leases import release
from fallow.decide.leases.index import LeaseIndex
from fallow.decide.names import render
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member, MemberState

SETTINGS = Settings(cluster_suspect_seconds=5.0, cluster_dead_seconds=10.0)


async def test_a_silent_cluster_is_suspect_after_five_seconds_and_dead_after_ten_and_here_never() -> None:
    steady, numbers = 100.0, itertools.count()
    hub = Hub(lambda: NOW + steady, lambda: steady)
    loop = members_controller(hub, SETTINGS, lambda: f"e{next(numbers)}", lambda: steady)
    clusters = [here(revision=0), cluster("east", revision=0), cluster("west", revision=0)]
    async with storing(*clusters, member("a", revision=0)) as stored:
        seen: dict[str, float] = {}
        for look in range(80):
            steady += LOOK_SECONDS
            if look < 40:
                hub.heard("c-east")
            for id_ in ("c-west", "n-a"):
                hub.heard(id_)
            await stored.applier.apply(loop.decide(stored.cache.snapshot(), NOW + steady))
            state = stored.member("c-east").state
            seen.setdefault(state, (look - 39) * LOOK_SECONDS)
        assert list(seen) == [MemberState.READY, MemberState.SUSPECT, MemberState.DEAD]
        assert 5.0 < seen[MemberState.SUSPECT] <= 6.0
        assert 10.0 < seen[MemberState.DEAD] <= 11.0
        assert stored.member("c-east").died_at > NOW
        others = {id_: stored.member(id_).state for id_ in (HERE_ID, "c-west", "n-a")}
        assert set(others.values()) == {MemberState.READY}
        assert {"ClusterSuspect", "ClusterDead"} <= set(stored.reasons())


def test_clusters_hold_no_leases() -> None:
    index = LeaseIndex()
    fleet = snapshot(here(), cluster("east"), member("a"))
    index.bring(fleet, NOW)
    assert index.is_free("")
    assert set(index.holders("10.0.0.1")) == {"n-a"}
    index.bring(snapshot(member("a")), NOW)
    east = fleet.members["c-east"]
    assert isinstance(east, Member)
    assert release(fleet, east, NOW) == ()


def test_clusters_have_no_host_names() -> None:
    names = render(snapshot(here(), cluster("east"), member("a")), "fallow.internal")
    assert {host.name for host in names.zone.hosts.values()} == {"a"}
