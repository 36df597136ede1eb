"""Lines of several replicas as one log, and what our host may read of what it ordered here."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import structlog

from fallow.control.hub import Hub, HubError
from fallow.control.ids import new_id
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica
from fallow.model.wire import OpenLog
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.control")

MERGED_LINES = 16  # a line may be as large as a frame

Lines = AsyncGenerator[str, None]


async def merged(replicas: Mapping[str, Lines], clusters: Mapping[str, Lines] | None = None) -> Lines:
    """Yield the lines of all as they come, each behind its replica's name; one that fails says so.

    Those of clusters are behind the cluster's and the replica's already.
    """
    lines: asyncio.Queue[str | None] = asyncio.Queue(MERGED_LINES)

    async def pump(name: str, source: Lines, before: str) -> None:
        async with aclosing(source):
            try:
                async for line in source:
                    await lines.put(before + line)
            except HubError as error:
                await lines.put(f"{name} | (the log breaks off here: {error})")
            except Exception:  # noqa: BLE001 - the reader must not wait for the end of this source for ever
                _log.exception("log failed", source=name)
                await lines.put(f"{name} | (the log breaks off here)")
            await lines.put(None)

    pumps = [pump(name, source, f"{name} | ") for name, source in replicas.items()]
    pumps += [pump(name, source, "") for name, source in (clusters or {}).items()]
    tasks = [asyncio.create_task(each) for each in pumps]
    try:
        left = len(tasks)
        while left:
            line = await lines.get()
            if line is None:
                left -= 1
            else:
                yield line
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def current(snapshot: Snapshot, hub: Hub, deployment: Deployment) -> list[Replica]:
    """Return the replicas that a deployment has now on nodes of this cluster, as far as those are connected."""
    known = hub.connected()
    replicas = snapshot.replicas_by_deployment.get(deployment.id, ())
    found = [replica for replica in replicas if not replica.ended and replica.node_id in known]
    return sorted(found, key=lambda replica: (replica.slot, replica.id))


async def refused(why: str) -> Lines:
    """Raise HubError at the first step."""
    if why:
        raise HubError(why)
    yield why


class OrderedLogs:
    """Logs of what our host ordered, and of nothing else here."""

    def __init__(self, cache: Cache, hub: Hub) -> None:
        self._cache = cache
        self._hub = hub

    async def lines(self, wanted: OpenLog) -> Lines:
        """Yield lines; see `drivers.clusters.contract.Cluster`. Raises HubError."""
        snapshot = self._cache.snapshot()
        deployment = snapshot.deployments.get(wanted.deployment_id)
        if deployment is None or deployment.origin is None:
            raise HubError("this cluster runs nothing that its host has ordered under that id")
        if wanted.replica_id:
            replica = snapshot.replicas.get(wanted.replica_id)
            if replica is None or replica.deployment_id != deployment.id:
                raise HubError(f"{deployment.path} has no replica {wanted.replica_id[:80]!r} here")
            found = self._log(replica, wanted)
        elif replicas := current(snapshot, self._hub, deployment):
            found = merged({replica.id: self._log(replica, wanted) for replica in replicas})
        else:
            raise HubError(f"{deployment.path} has no replica on a node that is connected just now")
        async with aclosing(found):
            async for line in found:
                yield line

    async def _log(self, replica: Replica, wanted: OpenLog) -> Lines:
        if self._hub.link(replica.node_id) is None and self._hub.peer_of(replica.node_id):
            raise HubError("its node is connected to another process of this control plane, which a host cannot ask")
        asked = OpenLog(stream_id=new_id(12), replica_id=replica.id, follow=wanted.follow, tail=wanted.tail)
        async with aclosing(self._hub.logs(replica.node_id, asked)) as found:
            async for line in found:
                yield line
