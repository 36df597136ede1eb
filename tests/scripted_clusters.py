"""Clusters in tests of the host's loop that obey late, in part or not at all, lie, die, come back and are restored.

What is true of them stands beside what the host has on record, so that one can be held against the other.
"""

from copy import deepcopy
from dataclasses import dataclass, field

import msgspec
from federation_world import Ledger, cluster, here
from records import NOW, deployment

from fallow.decide.federation.reconcile import reconcile
from fallow.decide.federation.shapes import question_of
from fallow.decide.federation.stuck import HELD_SECONDS
from fallow.decide.plan import Plan
from fallow.model.clusters import HERE_ID, ClusterPolicy
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.rooms import Room, RoomAnswer, RoomSummary
from fallow.model.shares import Share, ShareReport

SUSPECT_SECONDS, DEAD_SECONDS = 5.0, 10.0
NAMES = ("here", "east", "west", "old")


@dataclass
class Running:
    """What a cluster truly runs of one deployment: by the newest order it has taken in."""

    wants: int = 0
    keep: int = 0
    revision: int = 0
    ready: int = 0
    starting: int = 0
    lost: int = 0  # by faults, since it was last reported

    @property
    def live(self) -> int:
        return self.ready + self.starting


@dataclass
class Cluster:
    """One cluster as it truly is; `heard` is false while nothing of it comes through, `lies` while it claims room."""

    id: str
    capacity: int
    runs: dict[str, Running] = field(default_factory=dict)
    heard: bool = True
    silent_since: float = 0.0
    alive: bool = True
    lies: bool = False

    @property
    def used(self) -> int:
        return sum(max(found.wants, found.live) for found in self.runs.values())

    @property
    def live(self) -> int:
        return sum(found.live for found in self.runs.values())


class Federation:
    """A host with its clusters; `guaranteed` is how many ready replicas moves must leave of each deployment."""

    def __init__(self, totals: dict[str, int], capacities: dict[str, int]) -> None:
        self.now = NOW
        made = [deployment(name, total, share=0, updated_at=NOW - 60) for name, total in totals.items()]
        self.clusters = {
            id_: Cluster(id_, capacities[name])
            for name in NAMES
            for id_ in [HERE_ID if name == "here" else f"c-{name}"]
        }
        members = [here(), *(cluster(name) for name in NAMES[1:])]
        self.ledger = Ledger(*members, *made)
        self.names = [found.id for found in made]
        self.guaranteed = dict.fromkeys(self.names, 0)
        self.saved: dict[str, Cluster] = {}
        for id_ in self.clusters:
            self.answer(id_)

    # What is so

    def member(self, id_: str) -> Member:
        found = self.ledger.records[Member, id_]
        assert isinstance(found, Member)
        return found

    def ready(self, of: str) -> int:
        return sum(each.runs[of].ready for each in self.clusters.values() if of in each.runs)

    def need(self, of: str) -> int:
        spec = self.ledger.deployment(of).spec
        floor = spec.clusters.floor
        return spec.replicas if floor is None else min(floor, spec.replicas)

    def firm(self, of: str) -> int:
        """Return how many are ready that no order under way takes."""
        found = 0
        for share in self.shares():
            running = self.clusters[share.cluster_id].runs.get(of) if share.deployment_id == of else None
            if running is not None:
                found += min(running.ready, max(running.wants, running.keep), share.most)
        return found

    def note(self) -> None:
        """Raise what is guaranteed to what is there to stay, as far as it is needed."""
        for of in self.names:
            need = self.need(of)
            self.guaranteed[of] = min(need, max(self.guaranteed[of], self.firm(of)))

    def fault(self, of: str, running: Running, taken: int) -> None:
        """Lose so many ready replicas without the host having any part in it."""
        running.ready -= taken
        running.lost += taken
        self.guaranteed[of] = max(0, self.guaranteed[of] - taken)

    def unknown(self, of: str) -> int:
        """Return how many ready replicas were lost of which the host does not know yet."""
        found = 0
        for share in self.shares():
            running = self.clusters[share.cluster_id].runs.get(of) if share.deployment_id == of else None
            if running is not None and share.reported is not None:
                found += min(running.lost, max(0, share.reported.ready - running.ready))
        return found

    # What the host does

    def run(self, seconds: float = 0.0) -> Plan:
        """Let time pass, judge who is silent, run the loop once and commit.

        Reports are repeated until they are stored: who is heard has said all it has to say when much time has passed.
        """
        self.now += seconds
        for found in self.clusters.values() if seconds >= 20.0 else ():
            self.report(found.id)
        for found in self.clusters.values():
            self._judge(found)
        plan = reconcile(self.ledger.snapshot(), self.now, self.ledger.new_id)
        before = {share.id: share.replicas for share in self.shares()}
        assert self.ledger.commit(plan) == len(plan.steps)
        for share in self.shares():
            if share.replicas < before.get(share.id, 0):  # it may have been lowered for what is no more
                of = share.deployment_id
                self.guaranteed[of] = min(self.guaranteed[of], max(0, self.need(of) - self.unknown(of)))
        self._check_raises(before)
        return plan

    def settle(self) -> None:
        """Run the loop until it has nothing more to do as things are."""
        for _ in range(6):
            if not self.run().steps:
                return
        raise AssertionError("the loop does not come to rest although nothing changes")

    def shares(self) -> list[Share]:
        return [found for found in self.ledger.records.values() if isinstance(found, Share)]

    def _judge(self, found: Cluster) -> None:
        member = self.member(found.id)
        state = MemberState.READY
        silence = self.now - found.silent_since
        if not found.heard:
            state = MemberState.SUSPECT if silence > SUSPECT_SECONDS else member.state
            state = MemberState.DEAD if silence > DEAD_SECONDS else state
        if state is not member.state:
            died = (self.now, self.ledger.revision) if state is MemberState.DEAD else None
            died_at, revision = died or (member.died_at, member.died_at_revision)
            self.ledger.change(
                Member, found.id, state=state, state_since=self.now, died_at=died_at, died_at_revision=revision
            )

    def _check_raises(self, before: dict[str, int]) -> None:
        """Nobody is told more than its target, and targets are no more than the total."""
        for share in self.shares():
            target = self.ledger.division(share.deployment_id).shares
            total = self.ledger.deployment(share.deployment_id).spec.replicas
            assert sum(target.values()) <= total
            if share.replicas > before.get(share.id, 0):
                assert share.replicas <= target.get(share.cluster_id, 0)
                assert self.member(share.cluster_id).state is MemberState.READY
            if share.replicas < before.get(share.id, 0):
                assert self.member(share.cluster_id).state is MemberState.READY

    # What clusters do

    def deliver(self, id_: str) -> None:
        """Let a cluster take in its newest orders."""
        found = self.clusters[id_]
        if not found.heard:
            return
        ordered = {share.deployment_id: share for share in self.shares() if share.cluster_id == id_}
        for of in found.runs.keys() - ordered.keys():
            found.runs[of].wants = found.runs[of].keep = 0
        for of, share in ordered.items():
            running = found.runs.setdefault(of, Running())
            running.wants, running.keep, running.revision = share.replicas, share.keep, share.order

    def act(self, id_: str, most: int) -> None:
        """Let a cluster start some of what it wants, and stop all it does not want: those not ready first."""
        found = self.clusters[id_]
        for running in found.runs.values() if found.alive else ():
            excess = max(0, running.live - running.wants)
            idle = min(excess, running.starting)
            running.starting -= idle
            running.ready -= min(excess - idle, max(0, running.ready - running.keep))
            free = max(0, found.capacity - found.live)
            running.starting += min(max(0, running.wants - running.live), free, most)

    def mature(self, id_: str, most: int) -> None:
        """Let some of what has started become ready."""
        found = self.clusters[id_]
        for running in found.runs.values() if found.alive else ():
            count = min(running.starting, most)
            running.starting -= count
            running.ready += count

    def report(self, id_: str) -> None:
        """Let a cluster say what it runs."""
        found = self.clusters[id_]
        if not found.heard:
            return
        for share in self.shares():
            running = found.runs.get(share.deployment_id)
            if share.cluster_id != id_ or running is None:
                continue
            said = ShareReport(
                deployment_id=share.deployment_id, revision=running.revision, generation=1,
                replicas=max(running.wants, min(running.keep, running.live)),
                placed=running.live, running=running.live, ready=running.ready, updated=running.ready,
                remaining=running.live, state="serving" if running.ready >= running.wants else "waiting",
            )  # fmt: skip
            self.ledger.write(msgspec.structs.replace(share, reported=said, reported_at=self.now))
            running.lost = 0
        self.ledger.spoke(id_)

    def answer(self, id_: str) -> None:
        """Let a cluster say what it has room for, true or not."""
        found = self.clusters[id_]
        if not found.heard:
            return
        more = 50 if found.lies else max(0, found.capacity - found.used)
        key = question_of(self.ledger.deployment(self.names[0])).key
        known = self.ledger.records.get((Room, id_))
        room = Room(
            id=id_, created_at=NOW, updated_at=self.now, revision=known.revision if known is not None else 0,
            answers={key: RoomAnswer(key=key, more=more)}, summary=RoomSummary(nodes=4, cpus=64.0),
            orders={of: running.revision for of, running in found.runs.items()},
        )  # fmt: skip
        self.ledger.write(room)

    # Faults

    def lose(self, id_: str, of: str, count: int) -> None:
        """Let ready replicas crash; the cluster starts them anew."""
        running = self.clusters[id_].runs.get(of)
        if running is not None:
            taken = min(count, running.ready)
            self.fault(of, running, taken)
            running.starting += taken

    def kill(self, id_: str) -> None:
        """Let a cluster die with all it runs; what it knows of its orders is kept."""
        for of, running in self.clusters[id_].runs.items():
            self.fault(of, running, running.ready)
            running.starting = 0
        self.clusters[id_].alive = False
        self.cut(id_)

    def cut(self, id_: str) -> None:
        """Let nothing through to a cluster, or from it; it runs on."""
        found = self.clusters[id_]
        if found.heard:
            found.heard, found.silent_since = False, self.now

    def come_back(self, id_: str) -> None:
        """Let a cluster be heard again."""
        found = self.clusters[id_]
        if not found.heard:
            self.ledger.change(Member, id_, opened_at_revision=self.ledger.revision)
        found.heard = found.alive = True

    def save(self, id_: str) -> None:
        """Keep a backup of a cluster."""
        self.saved[id_] = deepcopy(self.clusters[id_])

    def restore(self, id_: str) -> None:
        """Set a cluster back to its backup: older orders, and what runs by them at the most."""
        old = self.saved.get(id_)
        if old is None:
            return
        found = self.clusters[id_]
        for of, running in found.runs.items():
            past = old.runs.get(of, Running())
            self.fault(of, running, max(0, running.ready - past.ready))
            running.wants, running.keep, running.revision = past.wants, past.keep, past.revision
            running.starting = 0

    # Wishes

    def schedule(self, id_: str, scheduling: Scheduling) -> None:
        self.ledger.change(Member, id_, scheduling=scheduling)

    def wish(self, of: str, total: int | None = None, policy: ClusterPolicy | None = None) -> None:
        found = self.ledger.deployment(of)
        spec = msgspec.structs.replace(
            found.spec,
            replicas=found.spec.replicas if total is None else total,
            clusters=found.spec.clusters if policy is None else policy,
        )
        self.ledger.change(Deployment, of, spec=spec)
        self.guaranteed[of] = min(self.guaranteed[of], self.need(of))

    # The end of all trouble

    def heal(self) -> None:
        """Let all clusters be well, honest and obedient until nothing is left to do."""
        for found in self.clusters.values():
            self.come_back(found.id)
            found.lies = False
            self.schedule(found.id, Scheduling.ACTIVE)
        quiet = 0
        for _ in range(80):
            quiet = 0 if self.round().steps else quiet + 1
            if quiet > HELD_SECONDS / 20.0:
                break
        else:
            raise AssertionError("there is always something more to do")
        before = [record for record in self.ledger.records.values() if isinstance(record, Share)]
        assert not self.run(1.0).steps
        assert before == self.shares()

    def round(self) -> Plan:
        """Let everybody do what is to be done once; 20 s pass."""
        for id_ in self.clusters:
            self.deliver(id_)
            self.act(id_, 100)
            self.check()
            self.mature(id_, 100)
            self.report(id_)
            self.answer(id_)
        plan = self.run(20.0)
        self.check()
        return plan

    def check(self) -> None:
        """No move has taken what must stay ready."""
        for of in self.names:
            assert self.ready(of) >= self.guaranteed[of], f"{of}: {self.ready(of)} ready of {self.guaranteed[of]}"
        self.note()
