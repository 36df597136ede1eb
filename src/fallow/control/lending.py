"""Tells every connected server how to lend, and what to do with its virtual machines; anew whenever that changes."""

import asyncio
from collections.abc import Set

from fallow.control.hub import Link
from fallow.decide.harvest.orders import orders_of
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.server_frames import SetLending
from fallow.model.vms import Vm
from fallow.store.cache import Cache

REST_SECONDS = 0.05  # what changes meanwhile is told together

# What any server's orders may depend on, and what only those of one do.
_OF_ALL = frozenset({"server-pools", "label-sets"})
_OF_SOME = frozenset({"members", "lendings", "vms", "replicas"})


class Lendings:
    """Remembers what each session was told, so that nothing is told twice. Holds the sessions of this process alone."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._told: dict[Link, SetLending] = {}

    def greet(self, link: Link) -> None:
        """Tell a session that has just opened everything its server should do."""
        snapshot = self._cache.snapshot()
        server = snapshot.servers.get(link.member_id)
        if server is not None:
            self._told[link] = orders_of(snapshot, server)
            link.send(self._told[link])

    def closed(self, link: Link) -> None:
        """Forget a session that has ended."""
        self._told.pop(link, None)

    async def run(self) -> None:
        """Send what changes until cancelled."""
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                if self._told and any(kind in _OF_ALL or kind in _OF_SOME for kind, _ in changed):
                    self._send_changes(changed)
                    await asyncio.sleep(REST_SECONDS)
        finally:
            subscription.close()

    def _send_changes(self, changed: Set[tuple[str, str]]) -> None:
        snapshot = self._cache.snapshot()
        concerned = _concerned(snapshot, changed)
        for link, told in list(self._told.items()):
            server = snapshot.servers.get(link.member_id)
            if server is None or (concerned is not None and server.id not in concerned):
                continue
            wanted = orders_of(snapshot, server)
            if wanted != told:
                self._told[link] = wanted
                link.send(wanted)


def _concerned(snapshot: Snapshot, changed: Set[tuple[str, str]]) -> set[str] | None:
    """Return the ids of the servers whose orders may be others now; None: of all."""
    found: set[str] = set()
    for kind, id_ in changed:
        if kind in _OF_ALL:
            return None
        if kind in ("members", "lendings"):
            vm = snapshot.vms_by_node.get(id_)
            found.add(vm.server_id if vm is not None else id_)
        elif kind == "vms":
            if not _add(found, snapshot.vms.get(id_)):
                return None
        elif kind == "replicas":
            replica: Replica | None = snapshot.replicas.get(id_)
            if replica is None:
                return None
            _add(found, snapshot.vms_by_node.get(replica.node_id))
    return found


def _add(found: set[str], vm: Vm | None) -> bool:
    if vm is not None:
        found.add(vm.server_id)
    return vm is not None
