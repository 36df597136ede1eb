"""Tells members of the endpoints that services have in other clusters, and when their leaving replicas may stop.

Every control plane serves the sessions it holds. Revisions are the store's, so all of them mean the same by one.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fallow.control.hub import Hub, Link
from fallow.control.routes import ROUTED
from fallow.control.runner import APPLIED, Controller
from fallow.control.settings import Settings
from fallow.decide.plan import Plan
from fallow.decide.remotes import Offers, frames, listening, offered, offers
from fallow.decide.routes import unasked
from fallow.decide.services import Services, gateway_id, is_loopback, services
from fallow.decide.snapshot import Snapshot
from fallow.model.cluster_frames import SetRemotes, Withdrawn
from fallow.model.clusters import HERE_ID
from fallow.model.remotes import RemoteService


@dataclass(slots=True)
class _Told:
    """What one open session was told: up to which revision, and which of its leaving replicas may stop."""

    revision: int
    cleared: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A leaving replica of a member: who asks it no more must know this revision; since when it is waited for."""

    revision: int
    since: float


class Remotes:
    """One for each process. `steady` gives seconds that nobody sets."""

    def __init__(self, hub: Hub, settings: Settings, steady: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._settings = settings
        self._steady = steady
        self._services: Services | None = None
        self._offers: Offers = {}
        self._told: dict[Link, _Told] = {}
        self._asked: dict[str, dict[str, _Asked]] = {}  # cluster id -> replica id
        self._controller = Controller(name="remotes", kinds=ROUTED | {APPLIED}, every_seconds=5.0, decide=self._decide)

    def controller(self) -> Controller:
        """Return the loop."""
        return self._controller

    def _decide(self, snapshot: Snapshot, _now: float) -> Plan:
        self.tell(snapshot)
        self._controller.awake.clear()  # what it notes itself wakes it, too, and is looked at right here
        return Plan(wake_after_seconds=self._clear(snapshot))

    def tell(self, snapshot: Snapshot) -> None:
        """Send every session what it does not know yet.

        Whoever orders a member to run less calls this before: its gateways have to know what is elsewhere by then.
        """
        links = {id_: link for id_ in snapshot.clusters if (link := self._hub.link(id_)) is not None and id_ != HERE_ID}
        if not links:
            self._services, self._offers, self._told = None, {}, {}
            return
        found = services(snapshot, self._services)
        before, now = self._offers, offers(found, self._services, self._offers)
        self._services, self._offers = found, now
        changed = [id_ for id_, offer in now.items() if before.get(id_) is not offer]
        changed += before.keys() - now.keys()
        self._told = {
            link: self._tell(link, is_loopback(snapshot.clusters[id_].observed_address), before, changed)
            for id_, link in links.items()
        }
        self._note(snapshot.revision)

    def _tell(self, link: Link, alone: bool, before: Offers, changed: Iterable[str]) -> _Told:
        """Send what a session does not know yet: all, or what has changed."""
        told, member_id = self._told.get(link), link.member_id
        revision = self._services.snapshot.revision if self._services is not None else 0
        if told is None:
            _send(link, True, revision, (offered(offer, member_id, alone) for offer in self._offers.values()), ())
            return _Told(revision)
        puts: list[RemoteService] = []
        removed: list[str] = []
        for id_ in changed:
            was = offered(before.get(id_), member_id, alone)
            service = offered(self._offers.get(id_), member_id, alone)
            if service is not None and service != was:
                puts.append(service)
            elif service is None and was is not None:
                removed.append(id_)
        if puts or removed:
            _send(link, False, revision, puts, tuple(sorted(removed)))
            told.revision = revision
        return told

    def _note(self, revision: int) -> None:
        """Note which members' gateways do all that follows from `revision`, or as far as they said themselves."""
        for link, told in self._told.items():
            heard = self._hub.remotes_heard(link.member_id)
            self._hub.remotes_done(link.member_id, revision if heard >= told.revision else heard)

    def _clear(self, snapshot: Snapshot) -> float | None:
        """Say which leaving replicas may stop; return after how many seconds one has been waited for long enough."""
        at = self._steady()
        leaving = {link.member_id for link in self._told} & snapshot.shares_leaving.keys()
        self._asked = {id_: self._asked_of(snapshot, id_, at) for id_ in leaving}
        clusters = listening(snapshot, self._hub.connected()) if leaving else ()
        known = {member.id: self._hub.remotes(member.id) for member in clusters}
        reports = [self._hub.proxy_report(gateway.id) for gateway in snapshot.live_gateways]
        waits: list[float] = []
        for link, told in self._told.items():
            mine = self._asked.get(link.member_id, {})
            told.cleared &= mine.keys()
            if not mine:
                continue
            elsewhere = min((known[id_] for id_ in known if id_ != link.member_id), default=snapshot.revision)
            free = []
            for id_, asked in mine.items():
                left = asked.since + self._settings.drain_seconds - at
                if id_ in told.cleared:
                    continue
                if left <= 0 or (
                    elsewhere >= asked.revision and unasked(gateway_id(link.member_id, id_), asked.revision, reports)
                ):
                    free.append(id_)
                else:
                    waits.append(left)
            if free:
                link.send(Withdrawn(replica_ids=tuple(sorted(free))))
                told.cleared.update(free)
        return min(waits, default=None)

    def _asked_of(self, snapshot: Snapshot, cluster_id: str, at: float) -> dict[str, _Asked]:
        """Return a member's leaving replicas by their ids; those that were not known before are, from now on."""
        before = self._asked.get(cluster_id, {})
        return {
            id_: before.get(id_) or _Asked(share.revision, at)
            for share in snapshot.shares_leaving.get(cluster_id, ())
            for id_ in (share.reported.leaving if share.reported is not None else ())
        }


def _send(
    link: Link, full: bool, revision: int, found: Iterable[RemoteService | None], removed: tuple[str, ...]
) -> None:
    parts = frames([service for service in found if service is not None])
    for number, part in enumerate(parts):
        link.send(
            SetRemotes(
                full=full,
                revision=revision,
                services=part,
                removed=removed if number == 0 else (),
                more=number + 1 < len(parts),
            )
        )
