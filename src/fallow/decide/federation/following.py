"""One deployment on its way to its division: what is written of it next, in one commit."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from fallow.decide.events import event
from fallow.decide.federation.causes import cause_of, listed
from fallow.decide.federation.division import Target
from fallow.decide.federation.fence import fenced_off
from fallow.decide.federation.migrate import Side, Told, needed, next_told, retold, side_of
from fallow.decide.federation.reach import only_unreached
from fallow.decide.federation.rebalancing import CAUSE, Course
from fallow.decide.federation.stuck import timed
from fallow.decide.federation.words import ALL_HEARD, Words
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.divisions import HISTORY, Division, PastDivision
from fallow.model.events import Event
from fallow.model.members import MemberState
from fallow.model.meta import Record
from fallow.model.shares import Share, share_id
from fallow.model.units import format_duration

SHARES_AT_ONCE = 40  # of one deployment in one commit; a store may not take many more
RELIED_AT_ONCE = 30  # clusters whose reports one commit is held to


@dataclass(kw_only=True)
class Following:
    """A deployment and where it goes; `waits` are seconds until something is due that is not yet."""

    snapshot: Snapshot
    deployment: Deployment
    course: Course
    now: float
    new_id: Callable[[], str]
    words: Words = ALL_HEARD
    waits: list[float] = field(default_factory=list)

    def step(self) -> Step | None:
        """Return all that is to be written now; None: nothing."""
        changed = self._changed_shares()
        division, events = self._division({share.cluster_id: share for share in changed})
        puts: list[Record] = [*changed, *([division] if division is not None else [])]
        here = {share.cluster_id: share for share in (*self.shares.values(), *changed)}.get(HERE_ID)
        told = (here.replicas, here.keep) if here is not None else (0, 0)
        follows = (self.deployment.share, self.deployment.keep) == told
        if not follows:
            puts.append(msgspec.structs.replace(self.deployment, share=told[0], keep=told[1], updated_at=self.now))
        if not puts:
            return None
        lowered = {share.cluster_id for share in changed if share.most < self._most(share.cluster_id)}
        guards = [self.deployment] if follows else []
        written = {share.cluster_id for share in changed}
        return Step(puts=(*puts, *events), guards=(*guards, *(self._relied_on(lowered, written) if lowered else ())))

    @property
    def target(self) -> Target:
        """Return how many replicas each cluster should have."""
        return self.course.target

    @cached_property
    def shares(self) -> Mapping[str, Share]:
        """Return the shares as they are stored, by cluster id."""
        found = self.snapshot.shares_by_deployment.get(self.deployment.id, ())
        return {share.cluster_id: share for share in found}

    @cached_property
    def known(self) -> Division | None:
        """Return the division as it is stored."""
        return self.snapshot.divisions.get(self.deployment.id)

    @cached_property
    def sides(self) -> Mapping[str, Side]:
        """Return how every cluster stands that has a share or should get one, by its id."""
        found = {}
        for id_ in dict.fromkeys((*self.shares, *self.target.shares)):
            cluster = self.snapshot.clusters.get(id_)
            if cluster is not None:
                side = side_of(self.shares.get(id_), cluster, self.target.shares.get(id_, 0), self.words)
                found[id_] = replace(side, lowerable=True) if fenced_off(self.deployment, cluster, self.now) else side
        if only_unreached(self.snapshot, self.deployment, self.target.shares):
            # A drain would end with replicas that are ready, and with no gateway here that can ask any of them.
            found = {id_: replace(side, lowerable=side.lowerable and not side.leaves) for id_, side in found.items()}
        if self.target.waits:  # it was divided when each replica asked for less, perhaps
            found = {id_: replace(side, raisable=False) for id_, side in found.items()}
        return found

    def _most(self, cluster_id: str) -> int:
        share = self.shares.get(cluster_id)
        return share.most if share is not None else 0

    def _changed_shares(self) -> list[Share]:
        """Return shares that are told another number, those that get more first, and those whose times are noted."""
        spec = self.deployment.spec
        told = next_told(self.sides, needed(spec.replicas, spec.clusters.floor, self.target.shares.values()))
        moves = [id_ for id_, side in self.sides.items() if told[id_] != side.asked]
        moves.sort(key=lambda id_: told[id_].replicas < self.sides[id_].told)
        retold_ = [self._retold(id_, told[id_]) for id_ in moves[:SHARES_AT_ONCE]]
        noted = []
        for id_, share in self.shares.items():
            cluster = self.snapshot.clusters.get(id_)
            if cluster is None or id_ in moves:
                continue
            after, wait = timed(share, cluster, self.now)
            if wait is not None:
                self.waits.append(wait)
            if after is not share:
                noted.append(msgspec.structs.replace(after, updated_at=self.now))
        return [*retold_, *noted[: SHARES_AT_ONCE - len(retold_)]]

    def _retold(self, cluster_id: str, told: Told) -> Share:
        share = self.shares.get(cluster_id)
        if share is None:
            return Share(
                id=share_id(self.deployment.id, cluster_id), created_at=self.now, updated_at=self.now,
                deployment_id=self.deployment.id, cluster_id=cluster_id, replicas=told.replicas, since=self.now,
                order=self.snapshot.revision + 1, highest=told.replicas,
            )  # fmt: skip
        return retold(share, told, self.snapshot.revision, self.now)

    def _relied_on(self, lowered: Iterable[str], written: Iterable[str]) -> Iterable[Record]:
        """Return the reports that allow to lower clusters, and who gave them; none where they are too many."""
        relied = [id_ for id_, side in self.sides.items() if side.sure and id_ not in lowered]
        if len(relied) > RELIED_AT_ONCE:
            return ()
        reports = [self.shares[id_] for id_ in relied if id_ not in written]
        return (*reports, *(self.snapshot.clusters[id_] for id_ in relied))

    def _division(self, changed: Mapping[str, Share]) -> tuple[Division | None, tuple[Event, ...]]:
        """Return the division as it is to be stored, if it is to be, and what is told of it."""
        before, target, total = self.known, self.target, self.deployment.spec.replicas
        if before is None or (before.policy, before.total, before.shares, before.unplaced) != (
            target.fingerprint,
            total,
            target.shares,
            target.unplaced,
        ):
            return self._redivided()
        if self.course.wait is not None:
            self.waits.append(self.course.wait)
        if before.moving_since and self._settled(changed):
            took = format_duration(self.now - before.moving_since)
            text = f"{self.deployment.path} has moved: {self._named(before.shares)}; that took {took}"
            after = msgspec.structs.replace(before, moving_since=0.0, updated_at=self.now)
            return self._off(after), (self._event("Moved", text),)
        after = self._off(before)
        return (after if after != before else None), ()

    def _off(self, division: Division) -> Division:
        """Return a division with since when, and how, its policy would have it otherwise."""
        off = self.course.off_since, dict(self.course.off_shares)
        if off == (division.off_since, division.off_shares):
            return division
        return msgspec.structs.replace(division, off_since=off[0], off_shares=off[1], updated_at=self.now)

    def _redivided(self) -> tuple[Division, tuple[Event, ...]]:
        before, target, total = self.known, self.target, self.deployment.spec.replicas
        shares = dict(target.shares)
        cause = CAUSE if self.course.step else cause_of(self.snapshot, self.deployment, before, target)
        history, events = before.history if before is not None else (), []
        if before is None or (before.shares, before.total) != (shares, total):
            names = {self._name(id_): count for id_, count in shares.items()}
            past = PastDivision(at=self.now, total=total, shares=names, cause=cause)
            history = (*history, past)[-HISTORY:]
            was = f" (was {self._named(before.shares)})" if before is not None else ""
            events.append(self._event("Divided", f"{self.deployment.path}: {self._named(shares)}{was}: {cause}"))
        if target.unplaced and (before is None or before.unplaced != target.unplaced):
            text = f"{target.unplaced} replicas of {self.deployment.path} fit nowhere: {target.unplaced_reason}"
            events.append(self._event("CannotMove", f"{text}; what runs, runs on", warning=True))
        moving = any(side.told > side.target for side in self.sides.values())
        since = before.moving_since if before is not None else 0.0
        division = Division(
            id=self.deployment.id, created_at=before.created_at if before is not None else self.now,
            updated_at=self.now, revision=before.revision if before is not None else 0,
            deployment_id=self.deployment.id, policy=target.fingerprint, total=total, shares=shares,
            rules=dict(target.rules), unplaced=target.unplaced, unplaced_reason=target.unplaced_reason,
            moving_since=(since or self.now) if moving else 0.0, drained=self._drained(), history=history,
            off_since=self.course.off_since, off_shares=dict(self.course.off_shares),
        )  # fmt: skip
        return division, tuple(events)

    def _drained(self) -> tuple[str, ...]:
        """Return the clusters that are to run less because they are drained: that may be called off."""
        return tuple(id_ for id_, side in self.sides.items() if side.leaves and side.told > side.target)

    def _settled(self, changed: Mapping[str, Share]) -> bool:
        """Say whether every cluster that speaks is told what it should have, and has it ready."""
        return not changed and all(
            side.told == side.target and side.sure >= side.target
            for id_, side in self.sides.items()
            if self.snapshot.clusters[id_].state is MemberState.READY
        )

    def _name(self, cluster_id: str) -> str:
        cluster = self.snapshot.clusters.get(cluster_id)
        return cluster.name if cluster is not None else cluster_id

    def _named(self, shares: Mapping[str, int]) -> str:
        return listed({self._name(id_): count for id_, count in shares.items()})

    def _event(self, reason: str, text: str, *, warning: bool = False) -> Event:
        return event(
            self.new_id(), self.now, "loop:federation", "deployment", self.deployment.id, self.deployment.path,
            reason, text, "warning" if warning else "info",
        )  # fmt: skip
