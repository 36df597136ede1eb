"""Member clusters behind the one contract: the scripted one, and a control plane of ours behind a real session."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from federation_rig import cluster_of, federation, until
from lent_fleet import report, server, vm

from fallow.control.hub import Link
from fallow.decide.plan import Step
from fallow.drivers.clusters.contract import Cluster
from fallow.drivers.clusters.fake import FakeCluster, Heard
from fallow.drivers.clusters.session import Logs, SessionCluster
from fallow.model.members import Member, Role

ROOM = 4  # replicas of the shape that these tests order


@dataclass
class ClusterRig:
    """A cluster with room for ROOM replicas; `own` deploys something there, `reopen` opens it anew.

    `throttle` lets its nodes be throttled for four tenths of the time, `say` a replica print, and `followed` counts the
    logs of replicas that somebody follows.
    """

    cluster: Cluster
    heard: Heard
    own: Callable[[str], Awaitable[None]]
    reopen: Callable[[], Awaitable[None]]
    throttle: Callable[[], Awaitable[None]]
    say: Callable[..., None]
    followed: Callable[[], int]


@contextlib.asynccontextmanager
async def fake_cluster() -> AsyncIterator[ClusterRig]:
    heard = Heard()
    cluster = FakeCluster("c-1", heard, room=ROOM)
    cluster.slow = True

    async def own(name: str) -> None:
        cluster.own.add(f"shop/{name}")

    async def reopen() -> None:
        cluster.opened()

    async def throttle() -> None:
        cluster.weigh(25)

    cluster.opened()
    yield ClusterRig(cluster, heard, own, reopen, throttle, cluster.say, lambda: cluster.followed)


@contextlib.asynccontextmanager
async def session_cluster(folder: Path) -> AsyncIterator[ClusterRig]:
    async with federation(folder, nodes=1) as (host, member):
        heard, shares = Heard(), host.plane.shares
        opened: list[SessionCluster] = []
        (node,) = member.nodes

        def greet(link: Link, logs: Logs | None = None) -> None:
            found = host.plane.cache.get("members", link.member_id)
            if isinstance(found, Member) and found.role is Role.CLUSTER:
                opened.append(SessionCluster(link.send, logs))

        async def own(name: str) -> None:
            await member.deploy(name, 0)

        async def reopen() -> None:
            count = len(opened)
            host.plane.hub.cut(cluster_of(host).id, "the test opens it anew")
            await until(lambda: len(opened) > count)
            rig.cluster = opened[-1]

        async def throttle() -> None:
            (machine_node,) = member.snapshot.nodes.values()
            machine = vm("a", node_id=machine_node.id, revision=0)
            await member.plane.applier.commit(Step(puts=(server(revision=0), machine)))
            member.plane.hub.server_reported(machine.server_id, report(throttled=0.4))

        # From here on the test is the host: nothing that the host itself has stored is told or taken in.
        shares.greet = greet  # type: ignore[method-assign]
        shares.reports.shared = heard.shared  # type: ignore[method-assign]
        shares.rooms.roomed = heard.roomed  # type: ignore[method-assign]
        nothing = SessionCluster(lambda _: None)
        rig = ClusterRig(nothing, heard, own, reopen, throttle, node.say, lambda: len(node.followed))
        await reopen()
        yield rig
