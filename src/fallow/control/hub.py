"""Live facts of sessions, in memory only: who is connected, when last heard, what it uses, what its proxy does.

Ten thousand nodes must not write ten thousand rows a second; only changes of state are stored.
"""

import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from fallow.control.backlog import Backlog
from fallow.control.heard import HeardReports
from fallow.decide.harvest.heard import HeardServers
from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.cluster_frames import LogRead
from fallow.model.members import Member, Role
from fallow.model.names import NamesReport
from fallow.model.routes import ProxyReport
from fallow.model.servers import ServerReport
from fallow.model.wire import CloseLog, Digest, LogChunk, MemberNews, OpenLog, ToMember, Usage
from fallow.store.cache import Cache

ENDED_SECONDS = 5.0  # so long others are told of a session that has ended: its last sign of life may be news to them


class HubError(LogsRefused):
    """The member cannot be reached; the text says why."""


def node_called(cache: Cache, member_id: str) -> Member | None:
    """Return the member with this id if it is still known, and is a node."""
    found = cache.get("members", member_id)
    return found if isinstance(found, Member) and found.role is Role.NODE else None


class Link(Protocol):
    """One open session."""

    member_id: str
    instance: str  # which start of its agent; empty: it did not say
    opened_after: str  # which start had the member when it was opened
    agent_version: str
    protocol: int
    key_sha256: str  # of the certificate that opened it; empty: not looked at

    def send(self, frame: ToMember) -> None:
        """Queue a frame; a member that does not read is cut off."""

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        """End the session; `final` tells the member not to come back, `clean` to remove what it runs."""


class Hub:
    """Every open session by member id, and what was heard on it.

    `clock` gives UTC seconds, for people. `steady` gives seconds that nobody sets: silence is measured with it, or a
    wall clock put forward by minutes would make everybody look dead.
    """

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._links: dict[str, Link] = {}
        self._seen: dict[str, tuple[float, float]] = {}  # by `clock` and by `steady`
        self._heard: dict[str, float] = {}  # here, not at a peer: by `steady`
        self._spoke: dict[str, float] = {}  # on a session, wherever: by `steady`
        self._ended: dict[str, float] = {}  # when the session here ended: by `steady`
        self._usage: dict[str, Usage] = {}
        self._servers = HeardReports(steady)
        self._proxies: dict[str, ProxyReport] = {}
        self._names: dict[str, NamesReport] = {}
        self._name_servers: dict[Link, None] = {}  # sessions of those that serve names, in the order they came
        self._elsewhere: dict[str, frozenset[str]] = {}  # peer id -> members it says are connected, to it or by it
        self._logs: dict[str, tuple[Link, Backlog]] = {}  # stream id -> the session it comes by, chunks
        self._remotes: dict[str, int] = {}  # up to which revision a member's gateways do what they were asked
        self._remotes_said: dict[str, int] = {}  # by sessions of this process, in their words
        self._cleared: set[str] | None = None  # replicas our host lets stop; None: there is no session with one
        self.on_change: list[Callable[[], None]] = []  # called when a member comes, or a proxy reports
        self.on_applied: list[Callable[[], None]] = []  # called when a member's gateways do more of what they should

    def open(self, link: Link, serves_names: bool = False) -> None:
        """Take in a new session; an older one of the same member is closed."""
        if serves_names:
            self._name_servers[link] = None
        self._remotes_said.pop(link.member_id, None)
        older = self._links.get(link.member_id)
        self._links[link.member_id] = link
        if older is not None:
            older.close("a newer session took its place")
            self._end_logs(link.member_id)
        self.heard(link.member_id)
        self._changed()

    def closed(self, link: Link) -> None:
        """Forget a session that has ended; what it said last stays known."""
        self._name_servers.pop(link, None)
        if self._links.get(link.member_id) is not link:
            return
        del self._links[link.member_id]
        self._ended[link.member_id] = self._steady()
        self._end_logs(link.member_id)

    def link(self, member_id: str) -> Link | None:
        """Return the member's open session."""
        return self._links.get(member_id)

    def name_servers(self) -> list[Link]:
        """Return the open sessions of members that said they serve names."""
        return list(self._name_servers)

    def links(self) -> list[Link]:
        """Return every open session."""
        return list(self._links.values())

    def connected(self) -> frozenset[str]:
        """Return the ids of members with an open session, here or at a peer that tells us."""
        return frozenset(self._links).union(*self._elsewhere.values())

    def known(self) -> frozenset[str]:
        """Return the ids of all members that are connected or were ever heard, here or at a peer."""
        return self.connected().union(self._seen)

    def peer_of(self, member_id: str) -> str:
        """Return the id of the peer that holds the member's session, or knows who does; empty when there is none."""
        return next((peer_id for peer_id, held in self._elsewhere.items() if member_id in held), "")

    def digest(self, peer_id: str) -> Digest:
        """Return what this process knows of all members but those whose sessions the peer holds itself.

        A member that both hold a session of is told of by who has heard it last: the other's session is dead and does
        not know it yet. Never by both, or what each last heard would go back and forth for ever.
        """
        now, heard = self._steady(), self._heard
        living = {id_ for id_ in self._links if id_ in heard and heard[id_] >= self._seen[id_][1]}
        known = (self.connected() - (self._elsewhere.get(peer_id, frozenset()) - living)) & self._seen.keys()
        reports = self._servers.news(peer_id, known)
        self._ended = {id_: at for id_, at in self._ended.items() if now - at < ENDED_SECONDS and id_ in heard}
        return Digest(
            ended={id_: max(0.0, now - heard[id_]) for id_ in self._ended if id_ not in self._links},
            members=tuple(
                MemberNews(
                    id_,
                    max(0.0, now - self._seen[id_][1]),
                    self._usage.get(id_),
                    self._proxies.get(id_),
                    self._names.get(id_),
                    self._remotes.get(id_, 0),
                    *reports.get(id_, (None, 0.0)),
                )
                for id_ in sorted(known)
            ),
        )

    def absorb(self, peer_id: str, digest: Digest) -> None:
        """Take in what a peer knows of members; the newest sign of life counts, wherever it was heard."""
        held = frozenset(news.member_id for news in digest.members)
        came = held - self._elsewhere.get(peer_id, frozenset())
        self._elsewhere[peer_id] = held
        for member_id, silence in digest.ended.items():
            self._saw(member_id, silence)
        for news in digest.members:
            at = self._saw(news.member_id, news.silence_seconds)
            if news.server is not None:
                self._reported(news.member_id, news.server, news.server_age_seconds)
            if news.member_id in self._links and self._heard.get(news.member_id, -math.inf) > at:
                continue  # the session here is the living one
            if news.usage is not None:
                self._usage[news.member_id] = news.usage
            if news.report is not None:
                self.proxied(news.member_id, news.report)
            if news.names is not None:
                self.named(news.member_id, news.names)
            self.remotes_done(news.member_id, news.remotes)
        if came:
            self._changed()

    def _saw(self, member_id: str, silence: float) -> float:
        """Note a sign of life so many seconds ago, if it is the newest; return when that was, by `steady`."""
        at = self._steady() - silence
        if at > self._seen.get(member_id, (0.0, -math.inf))[1]:
            self._seen[member_id] = (self._clock() - silence, at)
            self._spoke[member_id] = at
        return at

    def peer_gone(self, peer_id: str) -> None:
        """Forget which sessions a peer holds; what it said of them last stays known."""
        self._elsewhere.pop(peer_id, None)
        self._servers.peer_gone(peer_id)

    def steady(self) -> float:
        """Return seconds that nobody sets, by which silence is measured."""
        return self._steady()

    def heard(self, member_id: str) -> None:
        """Note a sign of life on a session."""
        self.knocked(member_id)
        self._spoke[member_id] = self._heard[member_id]

    def knocked(self, member_id: str) -> None:
        """Note a sign of life of a member that we could not open a session with."""
        self._heard[member_id] = self._steady()
        self._seen[member_id] = (self._clock(), self._heard[member_id])

    def spoke_since(self, member_id: str, at: float) -> bool:
        """Say whether a member was heard on a session, here or elsewhere, at `at` by `steady` or later.

        One that has only knocked since then has not: who is to say what it would have told.
        """
        spoke = self._spoke.get(member_id, -math.inf)
        return spoke >= at and spoke >= self._seen[member_id][1]

    def last_seen(self, member_id: str) -> float:
        """Return when the member was last heard, in UTC seconds; 0: never by this process."""
        return self._seen.get(member_id, (0.0, 0.0))[0]

    def silences(self) -> dict[str, float]:
        """Return for how many seconds nothing was heard of each member that this process has ever heard."""
        now = self._steady()
        return {member_id: now - at for member_id, (_, at) in self._seen.items()}

    def silence(self, member_id: str) -> float:
        """Return for how many seconds nothing was heard of a member; infinite when it never was."""
        return self._steady() - self._seen[member_id][1] if member_id in self._seen else math.inf

    def used(self, member_id: str, usage: Usage) -> None:
        """Note what a member uses."""
        self._usage[member_id] = usage

    def usage(self, member_id: str) -> Usage | None:
        """Return what a member last said it uses."""
        return self._usage.get(member_id)

    def usages(self) -> Mapping[str, Usage]:
        """Return what every member last said it uses: a view that changes with the hub."""
        return MappingProxyType(self._usage)

    def server_reported(self, member_id: str, report: ServerReport) -> None:
        """Note what a server says of itself."""
        self._reported(member_id, report, 0.0)

    def servers(self) -> HeardServers:
        """Return what every server said last, and how old that is: a view that changes with the hub and with time."""
        return self._servers

    def _reported(self, member_id: str, report: ServerReport, age_seconds: float) -> None:
        if self._servers.note(member_id, report, age_seconds):
            self._changed()

    def proxied(self, member_id: str, report: ProxyReport) -> None:
        """Note what a gateway does."""
        before = self._proxies.get(member_id)
        self._proxies[member_id] = report
        if before is None or (before.applied_revision, before.draining) != (report.applied_revision, report.draining):
            self._changed()

    def proxy_report(self, member_id: str) -> ProxyReport | None:
        """Return what a gateway last said it does."""
        return self._proxies.get(member_id)

    def proxy_reports(self) -> dict[str, ProxyReport]:
        """Return what every gateway last said it does."""
        return dict(self._proxies)

    def named(self, member_id: str, report: NamesReport) -> None:
        """Note what a gateway's name server does."""
        self._names[member_id] = report

    def names_report(self, member_id: str) -> NamesReport | None:
        """Return what a gateway's name server last said it does."""
        return self._names.get(member_id)

    def remotes_said(self, member_id: str, revision: int) -> None:
        """Note up to which revision a member says that its gateways do what SetRemotes asked."""
        self._remotes_said[member_id] = revision
        self._has_applied()

    def remotes_heard(self, member_id: str) -> int:
        """Return what a member said on its open session; 0: nothing yet."""
        return self._remotes_said.get(member_id, 0)

    def remotes_done(self, member_id: str, revision: int) -> None:
        """Note up to which revision of the store a member's gateways do all that they should."""
        if self._remotes.get(member_id, 0) != revision:
            self._remotes[member_id] = revision
            self._has_applied()

    def remotes(self, member_id: str) -> int:
        """Return up to which revision of the store a member's gateways do all that they should."""
        return self._remotes.get(member_id, 0)

    @property
    def cleared(self) -> frozenset[str] | None:
        """Return the leaving replicas that our host lets stop; None: there is no session with a host."""
        return frozenset(self._cleared) if self._cleared is not None else None

    def host_opened(self) -> None:
        """Note that there is a session with our host, which has let nothing stop yet."""
        self._cleared = set()
        self._changed()

    def host_closed(self) -> None:
        """Note that there is no session with our host any more."""
        self._cleared = None
        self._changed()

    def clear(self, replica_ids: Iterable[str]) -> None:
        """Note that no gateway outside this cluster asks these replicas any more."""
        if self._cleared is not None:
            self._cleared.update(replica_ids)
            self._changed()

    def keep_cleared(self, leaving: Collection[str]) -> None:
        """Forget what was cleared of replicas that are not leaving any more."""
        if self._cleared is not None:
            self._cleared.intersection_update(leaving)

    def forget(self, member_id: str) -> None:
        """Drop everything known of a member that was removed."""
        for known in (
            self._seen,
            self._heard,
            self._spoke,
            self._ended,
            self._usage,
            self._proxies,
            self._names,
            self._remotes,
            self._remotes_said,
        ):
            known.pop(member_id, None)
        self._servers.forget(member_id)

    def disconnect(self, member_id: str, reason: str, clean: bool = False) -> None:
        """End a member's session for good, whether it heeds that or not; `clean`: it should remove what it runs."""
        link = self._links.get(member_id)
        if link is not None:
            link.close(reason, final=True, clean=clean)
            self.closed(link)

    def cut(self, member_id: str, reason: str) -> None:
        """End a member's session; it may open another."""
        link = self._links.get(member_id)
        if link is not None:
            link.close(reason)
            self.closed(link)

    def log_chunk(self, member_id: str, chunk: LogChunk) -> None:
        """Hand lines of a log to whoever asked for them."""
        link, chunks = self._logs.get(chunk.stream_id, (None, None))
        if link is not None and chunks is not None and link.member_id == member_id:
            chunks.put(chunk)

    async def logs(self, member_id: str, wanted: OpenLog, paced: bool = False) -> AsyncGenerator[str, None]:
        """Yield log lines of a node, or of a cluster, which is told how much of it has been read (`paced`).

        Raises HubError when the member is not connected, and when its session ends.
        """
        member = "cluster" if paced else "node"
        link = self._links.get(member_id)
        if link is None:
            raise HubError(f"the {member} is not connected just now")
        chunks, read = Backlog(), 0
        self._logs[wanted.stream_id] = link, chunks
        try:
            link.send(wanted)
            while (chunk := await chunks.get()) is not None:
                for line in chunk.lines:
                    yield line
                if chunk.error:
                    raise HubError(chunk.error)
                if chunk.end:
                    return
                if paced:
                    read += 1
                    link.send(LogRead(stream_id=wanted.stream_id, chunks=read))
            raise HubError(f"the {member}'s session ended")
        finally:
            del self._logs[wanted.stream_id]
            link.send(CloseLog(stream_id=wanted.stream_id))

    def _end_logs(self, member_id: str) -> None:
        """End the streams of a session that is no more: nobody will send their rest."""
        for link, chunks in self._logs.values():
            if link.member_id == member_id:
                chunks.close()

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    def _has_applied(self) -> None:
        for call in self.on_applied:
            call()
