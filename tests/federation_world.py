"""Clusters that play their part in tests of the host's loop: they obey late, in part or not at all, die and come back.

What is true of them is kept beside what the host has on record, so that tests can hold one against the other.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from records import NOW, following, ids, member

from fallow.control.federation import LOOK_SECONDS
from fallow.decide.federation.division import Target
from fallow.decide.federation.reconcile import reconcile
from fallow.decide.federation.resting import Resting
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.events import Event
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.meta import Record
from fallow.model.shares import Share, ShareReport, share_id


def cluster(name: str, **changes: Any) -> Member:
    values: dict[str, Any] = {"id": f"c-{name}", "role": Role.CLUSTER, "state_since": NOW - 1000}
    return member(name, **(values | changes))


def here(**changes: Any) -> Member:
    return cluster("here", **({"id": HERE_ID, "key_sha256": "", "lease": Lease(address="")} | changes))


def report(ready: int, *, revision: int = 1, **changes: Any) -> ShareReport:
    values: dict[str, Any] = {
        "deployment_id": "d-web", "revision": revision, "replicas": ready, "placed": ready, "running": ready,
        "ready": ready, "updated": ready, "remaining": ready, "state": "serving", "generation": 1,
    }  # fmt: skip
    return ShareReport(**(values | changes))


def share(cluster_id: str, replicas: int, ready: int | None = None, *, of: str = "d-web", **changes: Any) -> Share:
    """Return a share that was told long ago; `ready` is what its cluster says, None: nothing yet."""
    said = None if ready is None else report(ready, replicas=replicas, placed=replicas, deployment_id=of)
    values: dict[str, Any] = {
        "id": share_id(of, cluster_id), "created_at": NOW, "updated_at": NOW, "revision": 1, "deployment_id": of,
        "cluster_id": cluster_id, "replicas": replicas, "since": NOW - 500, "order": 1, "least": replicas,
        "reported": said, "reported_at": NOW - 400 if said is not None else 0.0,
    }  # fmt: skip
    return Share(**(values | changes))


class Ledger:
    """Records as a store would hold them, with revisions, and steps committed as the applier does it."""

    def __init__(self, *records: Record) -> None:
        self.revision = 10
        self.records: dict[tuple[type[Record], str], Record] = {}
        self.events: list[Event] = []
        self.new_id = ids()
        self._taken = Snapshot(revision=0)
        self._kept: dict[tuple[type[Record], str], Record] = {}  # that `_taken` is made of
        self._resting = Resting()
        self._all_looked_at = 0.0
        for record in records:
            self.write(record)

    def write(self, *records: Record) -> None:
        self.revision += 1
        for record in records:
            if isinstance(record, Event):
                self.events.append(record)
                continue
            self.records[type(record), record.id] = msgspec.structs.replace(record, revision=self.revision)

    def snapshot(self) -> Snapshot:
        """Return what is stored, with indexes carried over from snapshot to snapshot."""
        puts = [record for key, record in self.records.items() if self._kept.get(key) is not record]
        gone = [record for key, record in self._kept.items() if key not in self.records]
        if puts or gone:
            self._taken, self._kept = following(self._taken, puts, gone, revision=self.revision), dict(self.records)
        return self._taken

    def commit(self, plan: Plan) -> int:
        """Commit every step that still holds; return how many did."""
        committed = 0
        for step in plan.steps:
            touched = (*step.guards, *step.puts, *step.deletes)
            if all(self._revision(record) == record.revision for record in touched if not isinstance(record, Event)):
                committed += 1
                self.write(*step.puts)
                for record in step.deletes:
                    del self.records[type(record), record.id]
        return committed

    def _revision(self, record: Record) -> int:
        found = self.records.get((type(record), record.id))
        return found.revision if found is not None else 0

    def run(self, targets: Mapping[str, Target], now: float = NOW) -> Plan:
        """Run the loop once and commit what it plans; it plans the same when it follows only what has changed."""
        plan = reconcile(self.snapshot(), now, self.new_id, lambda *_: targets)
        if now >= self._all_looked_at + LOOK_SECONDS:
            self._resting.forget()
            self._all_looked_at = now
        short = reconcile(self.snapshot(), now, ids(), lambda *_: targets, self._resting)
        assert _written(short) == _written(plan)
        assert short.wake_after_seconds == plan.wake_after_seconds
        self.commit(plan)
        return plan

    def settle(self, targets: Mapping[str, Target], now: float = NOW) -> int:
        """Run the loop until it plans nothing; return how often it planned something."""
        for count in range(20):
            if not self.run(targets, now).steps:
                return count
        raise AssertionError("the loop does not come to rest")

    def share(self, cluster_id: str, of: str = "d-web") -> Share:
        found = self.records[Share, share_id(of, cluster_id)]
        assert isinstance(found, Share)
        return found

    def told(self, of: str = "d-web") -> dict[str, int]:
        shares = [found for found in self.records.values() if isinstance(found, Share) and found.deployment_id == of]
        return {found.cluster_id: found.replicas for found in shares}

    def says(self, cluster_id: str, ready: int, now: float = NOW, **changes: Any) -> None:
        """Let a cluster report that it has taken in its newest order and has so many ready."""
        found = self.share(cluster_id)
        values = {"revision": found.order, "replicas": found.replicas, "placed": max(found.replicas, ready)}
        said = report(ready, **(values | changes))
        self.write(msgspec.structs.replace(found, reported=said, reported_at=now))

    def dies(self, cluster_id: str, now: float = NOW) -> None:
        """Let a cluster be declared dead."""
        self.change(Member, cluster_id, state=MemberState.DEAD, died_at=now, died_at_revision=self.revision)

    def spoke(self, cluster_id: str) -> None:
        """Let it be on record that a cluster has said all there is to say."""
        self.change(Member, cluster_id, spoken_at_revision=self.revision)

    def change(self, record_type: type[Record], id_: str, **changes: Any) -> None:
        self.write(msgspec.structs.replace(self.records[record_type, id_], **changes))

    def reasons(self) -> list[str]:
        return [found.reason for found in self.events]

    def division(self, of: str = "d-web") -> Division:
        found = self.records[Division, of]
        assert isinstance(found, Division)
        return found

    def deployment(self, of: str = "d-web") -> Deployment:
        found = self.records[Deployment, of]
        assert isinstance(found, Deployment)
        return found


def _written(plan: Plan) -> list[object]:
    """Return what a plan does, but for events, whose ids differ."""
    return [
        (tuple(record for record in step.puts if not isinstance(record, Event)), step.deletes, step.guards)
        for step in plan.steps
    ]
