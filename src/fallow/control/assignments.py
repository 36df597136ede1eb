"""Tells every connected node what to run: everything when it connects, then what changes."""

from fallow.control.hub import Hub, Link, node_called
from fallow.decide.assignments import assignment_of, assignments_of
from fallow.model.deployments import Replica, Template
from fallow.model.wire import Assign, Assignment
from fallow.store.cache import Cache


class Assignments:
    """Remembers what each session was told, so that only differences are sent."""

    def __init__(self, cache: Cache, hub: Hub) -> None:
        self._cache = cache
        self._hub = hub
        self._told: dict[Link, dict[str, Assignment]] = {}

    def greet(self, link: Link) -> None:
        """Tell a session that has just opened everything its node should run."""
        if node_called(self._cache, link.member_id) is None:
            return
        snapshot = self._cache.snapshot()
        wanted = assignments_of(snapshot, link.member_id)
        self._told[link] = wanted
        seen = {id_: snapshot.replicas[id_].observed for id_ in wanted}
        serials = {id_: found.serial for id_, found in seen.items() if found is not None}
        link.send(Assign(revision=snapshot.revision, full=True, assignments=tuple(wanted.values()), serials=serials))

    def closed(self, link: Link) -> None:
        """Forget a session that has ended."""
        self._told.pop(link, None)

    async def run(self) -> None:
        """Send what changes until cancelled."""
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                self._send_changes({id_ for kind, id_ in changed if kind == "replicas"})
        finally:
            subscription.close()

    def _send_changes(self, replica_ids: set[str]) -> None:
        changes: dict[Link, tuple[list[Assignment], list[str]]] = {}
        self._forget_deleted(replica_ids, changes)
        for id_ in sorted(replica_ids):
            replica = self._cache.get("replicas", id_)
            if not isinstance(replica, Replica) or not replica.node_id:
                continue
            link = self._hub.link(replica.node_id)
            told = self._told.get(link) if link is not None else None
            if link is None or told is None:
                continue
            template = self._cache.get("templates", replica.template_id)
            wanted = assignment_of(replica, template) if isinstance(template, Template) else None
            if wanted == told.get(id_):
                continue
            changed, removed = changes.setdefault(link, ([], []))
            if wanted is None:
                del told[id_]
                removed.append(id_)
            else:
                told[id_] = wanted
                changed.append(wanted)
        for link, (changed, removed) in changes.items():
            link.send(
                Assign(revision=self._cache.revision, full=False, assignments=tuple(changed), removed=tuple(removed))
            )

    def _forget_deleted(self, replica_ids: set[str], changes: dict[Link, tuple[list[Assignment], list[str]]]) -> None:
        """Take back what was told of replicas that ended and were deleted before we came to look."""
        deleted = {id_ for id_ in replica_ids if self._cache.get("replicas", id_) is None}
        for link, told in self._told.items() if deleted else ():
            for id_ in sorted(told.keys() & deleted):
                del told[id_]
                changes.setdefault(link, ([], []))[1].append(id_)
