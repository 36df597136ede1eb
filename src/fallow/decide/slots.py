"""One deployment's replicas by slot, and what can be told of each without knowing the others.

A slot is a replica's number in its deployment. At any time a slot has one owner, and beside it at most one
replacement that takes over from it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Deployment, Replica, ReplicaState, Template
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.meta import Reason

WAKE_LATE_SECONDS = 0.02  # so that a loop woken for a moment finds it past

CLOCKS_APART_SECONDS = 5.0  # so far the clocks of control planes may differ

LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)


@dataclass(kw_only=True)
class Slots:
    """A deployment, its replicas, and what making decisions about it needs."""

    deployment: Deployment
    members: Mapping[str, Member]
    templates: Mapping[str, Template]
    replicas: list[Replica]
    now: float
    new_id: Callable[[], str]
    snapshot: Snapshot = field(default_factory=Snapshot)  # for what is decided from more than replicas
    heard: Heard = field(default_factory=dict)  # what nodes said last that they use
    servers: HeardServers = field(default_factory=dict)  # what servers that lend said last
    gone: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # reason -> replicas let go
    waits: list[float] = field(default_factory=list)  # seconds until something may be decided that cannot be yet
    slots: dict[int, list[Replica]] = field(init=False)  # live replicas by slot, a replacement last

    def __post_init__(self) -> None:
        self.slots = defaultdict(list)
        live = {replica.id: replica for replica in self.replicas if replica.state in LIVE}
        # Not by age alone: clocks may jump back between the making of a replica and of its replacement.
        for replica in sorted(live.values(), key=lambda found: (found.replaces in live, found.created_at, found.id)):
            self.slots[replica.slot].append(replica)

    @cached_property
    def failed_slots(self) -> set[int]:
        """Return slots whose replica of this generation has ended for good: trying again would not help."""
        return {
            replica.slot
            for replica in self.replicas
            if replica.state is ReplicaState.FAILED and replica.generation == self.deployment.generation
        }

    def leaves_its_node(self, replica: Replica) -> bool:
        """Say whether the replica's node is being drained, or the server that it is on needs what it lent."""
        if replica.move is not None:
            return True
        node = self.members.get(replica.node_id)
        return node is not None and node.scheduling is Scheduling.DRAINING

    def node_ready_since(self, replica: Replica) -> float | None:
        """Return since when the replica's node is well, and what is wrong with it its own fault; None: the node is not.

        What is known of a replica is as old as its node's last word; a node that is back needs a moment to say more.
        """
        node = self.members.get(replica.node_id)
        if node is None or node.state is not MemberState.READY:
            return None
        return 0.0 if node.state_since > self.now + CLOCKS_APART_SECONDS else node.state_since

    def outdated(self, replica: Replica) -> bool:
        """Say whether the replica is made of something else than is wanted now."""
        return not self.deployment.wants(replica.generation)

    def reached(self, moment: float) -> bool:
        """Say whether `moment` has come; otherwise remember to look again then."""
        if self.now >= moment:
            return True
        self.waits.append(moment - self.now + WAKE_LATE_SECONDS)
        return False

    def template(self, generation: int) -> Template | None:
        """Return what a generation is made of, None when it is not kept any more."""
        return self.templates.get(f"{self.deployment.id}.{generation}")

    def new_replica(self, slot: int, generation: int, replaces: str = "") -> Replica:
        """Return a replica that nobody has given a node yet."""
        deployment = self.deployment
        return Replica(
            id=f"{deployment.name}-{slot}-{self.new_id()}",
            created_at=self.now,
            updated_at=self.now,
            deployment_id=deployment.id,
            project=deployment.project,
            deployment=deployment.name,
            slot=slot,
            generation=generation,
            template_id=f"{deployment.id}.{generation}",
            replaces=replaces,
            state_since=self.now,
        )

    def retire(self, replica: Replica, reason: Reason, *relied_on: Replica) -> Step:
        """Let a live replica go, if those `relied_on` in its place are as they were seen.

        At once when it has no node yet, by way of the gateways otherwise.
        """
        pending = replica.state is ReplicaState.PENDING
        self.gone[reason.text].append(replica.id)
        gone = moved(replica, ReplicaState.STOPPED if pending else ReplicaState.LEAVING, self.now, reason)
        return Step(puts=(gone,), guards=relied_on)


def from_the_future(replicas: Iterable[Replica], now: float) -> Iterator[Step]:
    """Date replicas anew whose times lie ahead: the clock was set back, and nothing would be reached for as long."""
    for replica in replicas:
        newest = max(replica.created_at, replica.healthy_since, replica.unwell_since)
        if newest > now + CLOCKS_APART_SECONDS and not replica.ended:
            dated = msgspec.structs.replace(
                replica,
                created_at=min(replica.created_at, now),
                healthy_since=min(replica.healthy_since, now),
                unwell_since=min(replica.unwell_since, now),
                updated_at=now,
            )
            yield Step(puts=(dated,))


def slots_of(snapshot: Snapshot, deployment: Deployment, now: float, new_id: Callable[[], str]) -> Slots:
    """Return a deployment's replicas by slot as they are stored."""
    return Slots(
        deployment=deployment,
        members=snapshot.members,
        templates=snapshot.templates,
        replicas=snapshot.replicas_by_deployment.get(deployment.id, []),
        now=now,
        new_id=new_id,
        snapshot=snapshot,
    )


def moved(replica: Replica, state: ReplicaState, now: float, reason: Reason) -> Replica:
    """Return the replica in a state in which it does not serve."""
    return msgspec.structs.replace(
        replica, state=state, state_since=now, updated_at=now, reason=reason, healthy_since=0.0
    )
