"""What must hold of a federation, told from what clusters really run, never from what the host believes of them."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fallow.control.settings import Settings
from fallow.decide.federation.rebalancing import CAUSE
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.members import Member, MemberState, Role, Scheduling
from fallow.model.meta import Record
from fallow.model.shares import Share
from fallow.store.cache import decode_item
from fallow.store.contract import Item, Put, Write
from simulation.federation.sites import Container, Site
from simulation.invariants import NEVER, STALE_SECONDS, Watch
from simulation.story import Story

KEPT = ("shares", "divisions", "rooms")
CONCERNED = frozenset({*KEPT, "deployments", "members"})
SUSPECT_SECONDS = 5.0
DEAD_SECONDS = 10.0
SLACK_SECONDS = 1.5  # a heartbeat, half a second between two looks
UNTOLD_SECONDS = 4.0  # what happens in a cluster is stored at its host by then, if its words arrive
ORDERED_SECONDS = 9.0  # a decision may count on what its cluster said for so long before it was silent for too long

MINIMUM = "never below the floor by our own doing"


@dataclass(frozen=True, slots=True)
class _Room:
    """What a cluster had free, and how many replicas it ran that were to stay, by deployment."""

    at: float
    free: float
    live: Mapping[str, int]


class FederationWatch(Watch):
    """Sees every commit of the host, and every container of every cluster."""

    def __init__(self, story: Story, now: Callable[[], float], settings: Settings, seed: int) -> None:
        super().__init__(story, now, settings, seed)
        self.sites: dict[str, Site] = {}
        self.stored: dict[str, dict[str, Record]] = {kind: {} for kind in KEPT}
        self.calm = False  # nobody asks for anything, and no fault lasts for long: nothing may move
        self.moves = 0  # orders that were changed, ever
        self.jumped_at = NEVER  # when the clock of the host was last set
        self.host_stumbled_at = NEVER  # when a process of the host was last killed, frozen, slow or cut off
        self._lost: list[tuple[float, str, str]] = []  # ready replicas lost by faults: when, cluster, deployment
        self._floors: dict[str, list[tuple[float, int]]] = defaultdict(list)  # until when, by deployment
        self._lowered: dict[tuple[str, str], float] = {}  # deployment, cluster -> when it was told to run fewer
        self._told_until: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
        self._rooms: dict[str, deque[_Room]] = defaultdict(lambda: deque(maxlen=300))  # of clusters, lately
        self._was: dict[str, list[tuple[float, Member]]] = defaultdict(list)  # until when members were what

    # what is stored

    def shares(self) -> Mapping[str, Share]:
        """Return what clusters are told, by id of share."""
        return self.stored["shares"]  # type: ignore[return-value]

    def divisions(self) -> Mapping[str, Division]:
        """Return divisions by deployment."""
        return self.stored["divisions"]  # type: ignore[return-value]

    def told(self, deployment_id: str) -> dict[str, int]:
        """Return how many replicas of a deployment each cluster is told to run; here, too."""
        return {id_: told for id_, (told, _) in self._asked(deployment_id).items()}

    def kept(self, deployment_id: str) -> dict[str, int]:
        """Return how many replicas of a deployment stay in each cluster if all that are there are ready; here, too."""
        return {id_: max(asked) for id_, asked in self._asked(deployment_id).items()}

    def _asked(self, deployment_id: str) -> dict[str, tuple[int, int]]:
        found = {
            share.cluster_id: (share.replicas, share.keep)
            for share in self.shares().values()
            if share.deployment_id == deployment_id and share.cluster_id != HERE_ID
        }
        deployment = self.deployments().get(deployment_id)
        if deployment is not None and not deployment.deleting:
            found[HERE_ID] = deployment.replicas_here, deployment.keep
        return found

    # what is true

    def ready(self, deployment_id: str) -> dict[str, int]:
        """Return how many replicas really answer and are to stay, by cluster."""
        found = {site.id: site.ready(deployment_id) for site in self.sites.values()}
        found[HERE_ID] = sum(
            replica.healthy for replica in self.replicas().values() if replica.deployment_id == deployment_id
        )
        return found

    def floor(self, deployment_id: str, since: float | None = None) -> int:
        """Return below how many ready replicas our own doing may not take it: the least it was since then."""
        since = self._now() - STALE_SECONDS if since is None else since
        found = self.deployments().get(deployment_id)
        least = [value for until, value in self._floors[deployment_id] if until >= since]
        return min([floor_of(found), *least])

    def silence(self, cluster_id: str) -> float:
        """Return for how long nothing of a cluster has arrived at the host."""
        return self._now() - self._heard_at.get(cluster_id, NEVER)

    def lost_since(self, deployment_id: str, since: float) -> dict[str, int]:
        """Return how many ready replicas each cluster lost by faults since then."""
        found: dict[str, int] = defaultdict(int)
        for at, cluster_id, of in self._lost:
            if of == deployment_id and at >= since:
                found[cluster_id] += 1
        return found

    def believable(self, deployment_id: str) -> dict[str, int]:
        """Return how many ready replicas the host may count on in each cluster.

        Those that are; and those lost so lately that it need not know, but no more once it has heard nothing of the
        cluster for as long as makes it suspect - unless the host itself stumbled.
        """
        found = self.ready(deployment_id)
        stumbled = self._now() - self.host_stumbled_at < ORDERED_SECONDS
        for site in self.sites.values():
            silence = self.silence(site.id)
            if silence <= SUSPECT_SECONDS + SLACK_SECONDS or stumbled:
                heard_at = self._now() - silence - UNTOLD_SECONDS - (ORDERED_SECONDS if stumbled else 0.0)
                found[site.id] += self.lost_since(deployment_id, heard_at)[site.id]
        return found

    # commits

    def committed(self, revision: int, writes: Sequence[Write]) -> None:
        """Take in one commit."""
        keys = [write.key.partition("/") for write in writes]
        if not any(kind in CONCERNED for kind, _, _ in keys):
            super().committed(revision, writes)
            return
        asked = {id_: self._asked(id_) for id_ in self.deployments()}
        deployments, members = dict(self.deployments()), dict(self.members())
        super().committed(revision, writes)
        for id_, deployment in deployments.items():
            if self.deployments().get(id_) is not deployment:
                self._floors[id_] = [*self._floors[id_][-50:], (self._now(), floor_of(deployment))]
        for id_, member in members.items():
            if self.members().get(id_) is not member:
                self._was[id_] = [*self._was[id_][-50:], (self._now(), member)]
        for write, (kind, _, id_) in zip(writes, keys, strict=True):
            if kind in KEPT:
                put = isinstance(write, Put)
                self._take(kind, id_, decode_item(Item(write.key, write.value, revision, 0)) if put else None)
        for id_ in self.deployments():
            before, now = asked.get(id_, {}), self._asked(id_)
            if before != now:
                self._told_changed(id_, before, now)

    def _take(self, kind: str, id_: str, after: Record | None) -> None:
        before = self.stored[kind].get(id_)
        if after is None:
            self.stored[kind].pop(id_, None)
        else:
            self.stored[kind][id_] = after
        if isinstance(after, Division):
            self._division_changed(before, after)
        if kind == "shares" and after is None and isinstance(before, Share):
            self._share_gone(before)

    def _division_changed(self, before: Record | None, after: Division) -> None:
        if isinstance(before, Division) and before.shares == after.shares:
            return
        named = {self._name(id_): count for id_, count in after.shares.items()}
        self._story.tell("store", f"{self._path(after.deployment_id)} is divided: {named}, {after.unplaced} unplaced")
        deployment = self.deployments().get(after.deployment_id)
        if deployment is None:
            return
        policy = deployment.spec.clusters
        shared = sum(after.shares.values()) if policy.divide != "duplicate" else max(after.shares.values(), default=0)
        if shared > after.total:
            self.broke("a division is of the total", f"{deployment.path}: {named} of {after.total}")
        if self._is_calm() and before is not None:
            self.broke("a glitch moves nothing", f"{deployment.path} is divided anew: {named}")
        if isinstance(before, Division):
            self._check_portion(deployment, before, after)
            self._check_fence(deployment, before, after)

    def _is_calm(self) -> bool:
        """Say whether nothing may move: not where a fence stops replicas, and others rebalance into their room."""
        policies = [found.spec.clusters for found in self.deployments().values()]
        return self.calm and not (
            any(each.fence_seconds for each in policies) and any(each.rebalance for each in policies)
        )

    def _check_portion(self, deployment: Deployment, before: Division, after: Division) -> None:
        """Check that rebalancing moves no more at once than it may."""
        rebalance = deployment.spec.clusters.rebalance
        if rebalance is None or not after.history or after.history[-1].cause != CAUSE:
            return
        most = rebalance.at_once or max(1, after.total * rebalance.percent // 100)
        if (moved := sum(gained(before, after).values())) > most:
            self.broke("rebalancing moves a portion", f"{deployment.path}: {moved} at once, {most} may")

    def _check_fence(self, deployment: Deployment, before: Division, after: Division) -> None:
        """Check that what a dead cluster runs is given to others only once that cluster has stopped it."""
        fence, more = deployment.spec.clusters.fence_seconds, sum(gained(before, after).values())
        if not fence or more <= max(0, after.total - before.total):
            return
        for site in self.sites.values():
            member, order = self.members().get(site.id), site.kept.orders.get(deployment.id)
            if member is None or member.state is not MemberState.DEAD or order is None:
                continue
            knows = 0.0 < order.spec.clusters.fence_seconds <= fence and self.jumped_at < self._dead_since(site.id)
            if knows and after.shares.get(site.id, 0) < before.shares.get(site.id, 0) and site.of(deployment.id):
                left = ", ".join(found.id for found in site.of(deployment.id))
                self.broke("what is fenced is replaced once it has stopped", f"{deployment.path}: {left} are there")

    def _dead_since(self, member_id: str) -> float:
        """Return when a member that is dead was last something else."""
        return max(
            (until for until, found in self._was[member_id] if found.state is not MemberState.DEAD), default=NEVER
        )

    def _share_gone(self, share: Share) -> None:
        site = self.sites.get(share.cluster_id)
        member = self.members().get(share.cluster_id)
        stumbled = self._now() - self.host_stumbled_at < ORDERED_SECONDS
        if self.silence(share.cluster_id) > SLACK_SECONDS or stumbled:
            return  # what it has begun since, after a restore for one, it is told to stop when it is heard
        if site is not None and member is not None and site.powered and site.of(share.deployment_id):
            self.broke("a share goes when nothing of it is left", f"{site.name} still runs {share.deployment_id}")

    def _told_changed(
        self, deployment_id: str, before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
    ) -> None:
        changed = {
            id_: (before.get(id_, (0, 0)), after.get(id_, (0, 0))) for id_ in sorted(before.keys() | after.keys())
        }
        changed = {id_: pair for id_, pair in changed.items() if pair[0] != pair[1]}
        text = ", ".join(f"{self._name(id_)} {_said(old)} -> {_said(new)}" for id_, (old, new) in changed.items())
        if not text:
            return
        self.moves += 1
        self._story.tell("store", f"{self._path(deployment_id)} is told: {text}")
        if self._is_calm():
            self.broke("a glitch moves nothing", f"{self._path(deployment_id)}: {text}")
        for id_, (old, new) in changed.items():
            self._told_until[deployment_id, id_] = [*self._told_until[deployment_id, id_][-9:], (self._now(), max(old))]
            if max(new) < max(old):
                self._lowered[deployment_id, id_] = self._now()
                self._check_lowered(deployment_id, id_, max(old), max(new))
                self._check_duplicate(deployment_id, id_, max(new))
            if new[0] > old[0]:
                self._check_raised(deployment_id, id_, new[0])

    def _check_lowered(self, deployment_id: str, cluster_id: str, old: int, new: int) -> None:
        """Check that what stays ready, when all that is ordered is done, is enough; or that only the unready go."""
        member, site = self.members().get(cluster_id), self.sites.get(cluster_id)
        if member is None:
            return
        if site is not None:  # what became ready just now need not be known: it went as one that is not
            ready = site.ready_before(deployment_id, self._now() - self.silence(cluster_id) - UNTOLD_SECONDS)
        else:
            ready = self.ready(deployment_id).get(cluster_id, 0)
        if min(ready, old) <= new:
            return
        kept = self.kept(deployment_id)
        stays = {id_: min(count, kept.get(id_, 0)) for id_, count in self.believable(deployment_id).items()}
        if sum(stays.values()) < (floor := self.floor(deployment_id)):
            named = {self._name(id_): count for id_, count in stays.items() if count}
            self.broke(
                MINIMUM,
                f"{self._path(deployment_id)}: {self._name(cluster_id)}, where {ready} are ready, is lowered to {new}; "
                f"ready after that {named}, {floor} promised",
            )

    def _check_duplicate(self, deployment_id: str, cluster_id: str, new: int) -> None:
        """Check that where a total stands in each of several clusters, none loses what it is to have."""
        deployment, division = self.deployments().get(deployment_id), self.divisions().get(deployment_id)
        if deployment is None or division is None or deployment.deleting or cluster_id not in self.members():
            return
        if deployment.spec.clusters.divide != "duplicate":
            return
        if new < (kept := min(division.shares.get(cluster_id, 0), deployment.spec.replicas)):
            text = f"{deployment.path}: {self._name(cluster_id)} is told {new} of {kept}"
            self.broke("each cluster of duplicates keeps its own", text)

    def _check_raised(self, deployment_id: str, cluster_id: str, told: int) -> None:
        deployment, site = self.deployments().get(deployment_id), self.sites.get(cluster_id)
        member = self.members().get(cluster_id)
        if deployment is None or site is None or member is None:
            return
        division = self.divisions().get(deployment_id)
        if division is not None and told > division.shares.get(cluster_id, 0):
            self.broke(
                "nobody is told more than the division says",
                f"{deployment.path}: {site.name} {told} of {division.shares.get(cluster_id, 0)}",
            )
        if not any(_takes_more(found) for found in self._lately(member)) and told > site.live(deployment_id):
            self.broke("only who takes more is told more", f"{site.name} is {member.state} and {member.scheduling}")
        since, was = self._known_at(site) - UNTOLD_SECONDS, self._told_until[deployment_id, cluster_id]
        if told > max((count for until, count in was if until > since), default=0):  # or it may not have taken in less
            self._check_room(site)

    def _known_at(self, site: Site) -> float:
        """Return until when what a cluster said is stored: not what arrived at a process that was frozen, or trails."""
        return self._now() - self.silence(site.id) - self._unstored_seconds()

    def _check_room(self, site: Site) -> None:
        """Check that all it is told to run fits, beside what is still there; a host need not know the last seconds."""
        known_at = self._known_at(site)
        if site.lie is not None or known_at - site.lied_at < ORDERED_SECONDS:
            return  # it was not heard for long since
        told = {id_: self.told(id_).get(site.id, 0) for id_ in self.deployments()}
        cpus = {id_: found.spec.container.resources.cpus for id_, found in self.deployments().items()}
        since = known_at - UNTOLD_SECONDS
        seen = [then for then in (*self._rooms[site.id], self._room(site)) if then.at >= since]
        lacking = []
        for then in seen:
            needed = sum(cpus[id_] * max(0, count - then.live.get(id_, 0)) for id_, count in told.items())
            lacking.append(needed - then.free)
        if min(lacking) > 1e-6:
            text = f"{site.name} lacks {min(lacking):g} processors for what it is told: {self._named_by_path(told)}"
            self.broke("no cluster is told more than it has room for", text)

    def _lately(self, member: Member) -> list[Member]:
        """Return a member as it is, and as it was when what is committed now may have been decided."""
        was = [found for until, found in self._was[member.id] if self._may_not_know(until + self._late_seconds())]
        return [member, *was]

    def _late_seconds(self) -> float:
        """Return how much older than others a decision that is committed now may be: who hears late, commits late."""
        return STALE_SECONDS if self._now() - self.host_stumbled_at < STALE_SECONDS else 0.0

    # what happens in clusters

    def note_rooms(self) -> None:
        """Remember how much room clusters have; called often."""
        for site in self.sites.values():
            self.has_less_room(site)

    def has_less_room(self, site: Site) -> None:
        """Remember how much room a cluster has, before something takes some."""
        self._rooms[site.id].append(self._room(site))

    def _room(self, site: Site) -> "_Room":
        kept = {
            id_: sum(found.state != "leaving" or found.given_up for found in site.of(id_)) for id_ in self.deployments()
        }
        return _Room(self._now(), site.free, kept)

    def retires(self, site: Site, container: Container, replaced: bool) -> None:
        """Check that enough stay ready, but for those lost by faults since this was ordered."""
        id_ = container.deployment_id
        if replaced or id_ not in self.deployments():
            return
        ordered_at = self._lowered.get((id_, site.id))
        if ordered_at is None:
            return
        since = ordered_at - ORDERED_SECONDS - (ORDERED_SECONDS if self._now() - self.host_stumbled_at < 60.0 else 0.0)
        excused = sum(self.lost_since(id_, since).values())
        ready = self.ready(id_)
        if sum(ready.values()) + excused < (floor := self.floor(id_, since)):
            named = {self._name(cluster): count for cluster, count in ready.items() if count}
            self.broke(
                MINIMUM,
                f"{self._path(id_)}: {site.name} retires one; ready now {named}, {excused} lost, {floor} promised",
            )

    def lost(self, site: Site, containers: Iterable[Container]) -> None:
        """Note that these, which were ready, are gone by a fault."""
        self._lost.extend((self._now(), site.id, container.deployment_id) for container in containers)

    # members

    def _check_silence(self, member: Member) -> None:
        if member.role is not Role.CLUSTER:
            super()._check_silence(member)
            return
        least = {MemberState.SUSPECT: SUSPECT_SECONDS, MemberState.DEAD: DEAD_SECONDS}.get(member.state, 0.0)
        at, lasted = self._broke_silence.get(member.id, (NEVER, 0.0))
        silence = max(self.silence(member.id), lasted if self._now() - at < STALE_SECONDS else 0.0)
        stumbled = self._now() - max(self.deaf_at, self.host_stumbled_at) < DEAD_SECONDS + STALE_SECONDS
        if silence < least - self._slack and not stumbled:  # one that stumbles need not take in what arrives
            self.broke("nobody is given up too early", f"{member.name} is {member.state} after {silence:.1f} s")
        if member.state is MemberState.DEAD and member.id != HERE_ID:
            self._check_outage(member)

    def _check_outage(self, given_up: Member) -> None:
        """Check that nobody is given up while most clusters, here among them, are silent: the host may be cut off."""
        watched = [
            found
            for found in self.members().values()
            if found.role is Role.CLUSTER
            and (found.id == given_up.id or found.state in (MemberState.READY, MemberState.SUSPECT))
        ]
        away = SUSPECT_SECONDS + SLACK_SECONDS + self._late_seconds() + self._held_seconds()
        silent = [found for found in watched if found.id != HERE_ID and self.silence(found.id) > away]
        if len(silent) >= 2 and len(silent) * 2 > len(watched):
            self.broke("who hears nobody gives nobody up", f"{given_up.name} is dead, {len(silent)} are silent")

    def _named_by_path(self, counts: Mapping[str, int]) -> dict[str, int]:
        return {self._path(id_): count for id_, count in counts.items() if count}

    def _name(self, cluster_id: str) -> str:
        found = self.members().get(cluster_id)
        return found.name if found is not None else cluster_id

    def _path(self, deployment_id: str) -> str:
        found = self.deployments().get(deployment_id)
        return found.path if found is not None else deployment_id


def gained(before: Division, after: Division) -> dict[str, int]:
    """Return by how many replicas more each cluster is to have."""
    more = {id_: count - before.shares.get(id_, 0) for id_, count in after.shares.items()}
    return {id_: count for id_, count in more.items() if count > 0}


def floor_of(deployment: Deployment | None) -> int:
    """Return how many replicas of a deployment moves may never leave fewer of."""
    if deployment is None or deployment.deleting:
        return 0
    total, floor = deployment.spec.replicas, deployment.spec.clusters.floor
    return total if floor is None else min(total, floor)


def _said(asked: tuple[int, int]) -> str:
    told, keep = asked
    return f"{told}, keeps {keep}" if keep > told else f"{told}"


def _takes_more(member: Member) -> bool:
    return member.state is MemberState.READY and member.scheduling is Scheduling.ACTIVE
