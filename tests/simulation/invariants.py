"""What must hold after every commit, and at every start and end of a container."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from fallow.control.settings import Settings
from fallow.decide.placement import place
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import STOPPED_FIRST
from fallow.model.deployments import Deployment, Replica, ReplicaState, Template
from fallow.model.lifecycle import MEMBER_TRANSITIONS, REPLICA_TRANSITIONS
from fallow.model.members import Member, MemberState, Role, Scheduling
from fallow.model.meta import Record
from fallow.model.peers import LEADER_ID, Leader
from fallow.model.updates import UpdateState, UpdateStatus
from fallow.store.cache import decode_item
from fallow.store.contract import Item, Put, Write
from simulation.clock import acting
from simulation.machines import Machine
from simulation.members import GatewayHost
from simulation.promises import config_of, is_shared, least_healthy, put_up_with, surge
from simulation.story import Story

LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
DECIDED_ON = ("members", "deployments", "templates", "replicas", "join-tokens", "api-tokens")
SEEN = frozenset({*DECIDED_ON, "peers", "leaders"})
SLACK_SECONDS = 0.5
PEER_SECONDS = 1.0  # so much later is known what another process has heard
SILENCE_SECONDS = 1.5  # longer than between two heartbeats
DECIDED_SECONDS = 1.5  # between a decision and its commit, when nothing but the store is slow
NEVER = -1e9
STALE_SECONDS = 4.0  # a decision may be this much older than its commit, when the store is slow

Records = dict[str, dict[str, Record]]


class Watch:
    """Sees every commit and every container, and says what should not have been. Times are the loop's seconds."""

    seen = SEEN
    kept_for_snapshots = DECIDED_ON
    roomy = True  # when people have tidied up there is room for all

    def __init__(self, story: Story, now: Callable[[], float], settings: Settings, seed: int) -> None:
        self.peers: dict[str, str] = {}  # ids of peers by the names of their processes
        self.deaf_at = NEVER  # when a control plane was last seen to be cut off or frozen
        self.held_up: dict[str, tuple[float, float]] = {}  # processes that were frozen: from when to when, last
        self._committed_at: dict[int, float] = {}  # by revision
        self._heard_of: dict[str, tuple[float, float]] = {}  # processes: when of a commit last, and how late that was
        self._slack = SLACK_SECONDS + (PEER_SECONDS if is_shared(seed) else 0.0)
        self._story = story
        self._now = now
        self._settings = settings
        self._heard_at: dict[str, float] = {}  # members
        self._broke_silence: dict[str, tuple[float, float]] = {}  # members: when, and after how many seconds
        self.records: Records = {kind: {} for kind in sorted(self.seen)}
        self.machines: dict[str, Machine] = {}
        self.gateways: dict[str, GatewayHost] = {}
        self.removed: set[str] = set()  # members that an operator removed
        self.node_of: dict[str, str] = {}  # every replica that ever had a node
        self._revision = 0
        self._drained_at: dict[str, float] = {}  # nodes by when they were last seen draining
        self._unwell_at: dict[str, float] = {}  # replicas by when they were last seen to become unhealthy
        self._ready_since: dict[str, float] = {}  # members
        self._ready_until: dict[str, float] = {}  # members by when they were last seen ready
        self._replaced: dict[str, list[tuple[float, Deployment]]] = {}  # deployments as they were until lately
        self._leaving_since: dict[str, float] = {}

    def snapshot(self) -> Snapshot:
        """Return what is stored."""
        found: dict[str, Any] = {kind.replace("-", "_"): self.records[kind] for kind in self.kept_for_snapshots}
        return Snapshot(revision=self._revision, **found)

    def deployments(self) -> Mapping[str, Deployment]:
        return self.records["deployments"]  # type: ignore[return-value]

    def templates(self) -> list[Template]:
        return list(self.records["templates"].values())  # type: ignore[arg-type]

    def replicas(self) -> Mapping[str, Replica]:
        return self.records["replicas"]  # type: ignore[return-value]

    def members(self) -> Mapping[str, Member]:
        return self.records["members"]  # type: ignore[return-value]

    def leader(self) -> str:
        """Return the id of the peer that leads; empty when none does."""
        found = self.records["leaders"].get(LEADER_ID)
        return found.peer_id if isinstance(found, Leader) else ""

    def unplaced(self) -> Set[str]:
        """Return the templates of which some replica fits nowhere."""
        return {found.template_id for found in place(self.snapshot(), 0.0).rejections}

    def broke(self, invariant: str, how: str) -> None:
        self._story.broke(invariant, how)

    # commits

    def heard_of(self, name: str, revision: int) -> None:
        """Note that a process learns of a commit."""
        self._heard_of[name] = self._now(), self._now() - self._committed_at[revision]

    def committed(self, revision: int, writes: Sequence[Write]) -> None:
        """Take in one commit."""
        if revision < self._revision or (revision == self._revision and writes):
            self.broke("revisions only grow", f"{revision} after {self._revision}")
        self._revision = revision
        self._committed_at[revision] = self._now()
        changed: list[tuple[str, str, Record | None, Record | None]] = []
        for write in writes:
            kind, _, id_ = write.key.partition("/")
            if kind not in self.seen:
                continue
            before = self.records[kind].get(id_)
            after = decode_item(Item(write.key, write.value, revision, 0)) if isinstance(write, Put) else None
            changed.append((kind, id_, before, after))
        before_by_deployment = self._by_deployment(changed)
        for kind, id_, _, after in changed:
            if after is None:
                self.records[kind].pop(id_, None)
            else:
                self.records[kind][id_] = after
        for kind, _, before, after in changed:
            if kind == "replicas":
                self._replica_changed(before, after)  # type: ignore[arg-type]
            elif kind == "members":
                self._member_changed(before, after)  # type: ignore[arg-type]
            elif kind == "leaders" and (before is None or after is None):
                self._story.tell("store", f"{acting() or 'no process'} leads" if after else "no process leads")
            elif kind == "deployments":
                self._deployment_changed(before, after)  # type: ignore[arg-type]
        for deployment_id, old in before_by_deployment.items():
            self._check_deployment(deployment_id, old)

    def _by_deployment(self, changed: Iterable[tuple[str, str, Record | None, Record | None]]) -> dict[str, list[Any]]:
        """Return the replicas of every deployment of which a replica changes, as they were before."""
        ids: dict[str, None] = {}
        for kind, _, before, after in changed:
            replica: Any = after or before
            if kind == "replicas" and replica is not None:
                ids[replica.deployment_id] = None
        found: dict[str, list[Any]] = {id_: [] for id_ in ids}
        for replica in self.replicas().values() if ids else ():
            if replica.deployment_id in found:
                found[replica.deployment_id].append(replica)
        return found

    def _replica_changed(self, before: Replica | None, after: Replica | None) -> None:
        if after is None:
            if before is not None and not before.ended:
                self.broke("states only advance", f"{before.id} is deleted while {before.state}")
            return
        self._tell_replica(before, after)
        self._check_advance(before, after)
        old = before.state if before is not None else None
        if before is not None and before.healthy and after.state is ReplicaState.RUNNING and not after.healthy:
            self._unwell_at[after.id] = self._now()
        if after.state is ReplicaState.PLACED and old is ReplicaState.PENDING:
            self._check_node(after)
        if after.state is ReplicaState.LEAVING:
            self._leaving_since.setdefault(after.id, self._now())
        if after.state is ReplicaState.STOPPING and old is ReplicaState.LEAVING:
            self._check_drained(after)

    def _tell_replica(self, before: Replica | None, after: Replica) -> None:
        old = before.state if before is not None else None
        if old is not after.state:
            where = f" on {after.node_id} {after.host_ports}" if after.state is ReplicaState.PLACED else ""
            why = f" ({after.reason.text})" if after.reason is not None else ""
            self._story.tell("store", f"replica {after.id}: {old or 'new'} -> {after.state}{where}{why}")
        elif before is not None and before.healthy != after.healthy:
            self._story.tell("store", f"replica {after.id}: {'healthy' if after.healthy else 'not healthy'}")

    def _check_advance(self, before: Replica | None, after: Replica) -> None:
        if before is None and after.state is not ReplicaState.PENDING:
            self.broke("states only advance", f"{after.id} begins as {after.state}")
        if before is not None and before.state is not after.state:
            self._check_transition(after.id, before.state, after.state)
        writer = REPLICA_TRANSITIONS.get((before.state, after.state), "") if before is not None else "deployments"
        if before is None or before.state is not after.state:
            self._check_decider(writer, after.id)
        seen = before.observed if before is not None else None
        if seen is not None and (after.observed is None or after.observed.serial < seen.serial):
            self.broke("observations only grow newer", after.id)
        if after.node_id and self.node_of.setdefault(after.id, after.node_id) != after.node_id:
            self.broke("a replica keeps its node", f"{after.id}: {self.node_of[after.id]} -> {after.node_id}")

    def _check_decider(self, writer: str, what: str) -> None:
        """Check that only the process that leads, as it is stored in this very instant, runs the loops."""
        peer = self.peers.get(acting(), "")
        if writer != "observations" and peer != self.leader():
            self.broke("only who leads decides", f"{acting()} decided about {what}, {self.leader() or 'nobody'} leads")

    def _check_transition(self, id_: str, before: Any, after: Any) -> None:
        if (before, after) not in REPLICA_TRANSITIONS and (before, after) not in MEMBER_TRANSITIONS:
            self.broke("states only advance", f"{id_}: {before} -> {after}")

    def _member_changed(self, before: Member | None, after: Member | None) -> None:
        if after is None:
            assert before is not None
            self._story.tell("store", f"member {before.name} removed")
            self.removed.add(before.id)
            return
        old = before.state if before is not None else None
        if before is not None and before.state is not after.state:
            self._check_transition(after.id, before.state, after.state)
            self._check_decider("members", after.name)
            self._check_silence(after)
        if old is MemberState.READY:
            self._ready_until[after.id] = self._now()
        if after.state is MemberState.READY and old is not MemberState.READY:
            self._ready_since[after.id] = self._now()
        if old is not after.state:
            self._story.tell("store", f"member {after.name}: {old or 'new'} -> {after.state} ({after.state_reason})")
        if before is not None and before.scheduling is not after.scheduling:
            self._story.tell("store", f"member {after.name} is {after.scheduling}")
        if before is not None and before.scheduling is Scheduling.DRAINING:
            self._drained_at[after.id] = self._now()
        others = [other for other in self.members().values() if other.id != after.id]
        if any(other.name == after.name for other in others):
            self.broke("a name has one owner", after.name)
        if after.role is Role.NODE:
            first, last = after.lease.host_ports.first, after.lease.host_ports.last
            for other in others:
                taken = other.lease.host_ports
                same = other.role is Role.NODE and other.lease.address == after.lease.address
                if same and first <= taken.last and taken.first <= last:
                    self.broke("an address has one owner", f"{after.name} and {other.name} share {after.lease}")

    def _check_silence(self, member: Member) -> None:
        """Check that nobody is given up sooner than is promised; it may have been heard since that was decided."""
        least = {
            MemberState.SUSPECT: self._settings.suspect_after_seconds,
            MemberState.DEAD: self._settings.dead_after_seconds,
        }
        deaf = self._now() - self.deaf_at < STALE_SECONDS
        if deaf and member.state is MemberState.SUSPECT:
            return  # the process that leads may have been cut off from all; it must not give anybody up
        silence = self._now() - self._heard_at.get(member.id, 0.0)
        slack = self._slack + (STALE_SECONDS if deaf else 0.0)  # it may be cut off from who hears the member
        at, lasted = self._broke_silence.get(member.id, (0.0, 0.0))
        if self._now() - at < STALE_SECONDS:
            silence = max(silence, lasted)
        if silence < least.get(member.state, 0.0) - slack:
            self.broke("nobody is given up too early", f"{member.name} is {member.state} after {silence:.1f} s")

    def _deployment_changed(self, before: Deployment | None, after: Deployment | None) -> None:
        if after is None:
            self._story.tell("store", f"deployment {before.path if before else '?'} is gone")
        elif before is None or before.spec != after.spec or before.deleting != after.deleting:
            what = (
                "is being deleted" if after.deleting else f"wants {after.spec.replicas} of {after.spec.container.image}"
            )
            self._story.tell("store", f"deployment {after.path} generation {after.generation} {what}")
        if before is None or after is None:
            return
        self._replaced[after.id] = [(self._now(), before), *self._recent(after.id)]
        if after.generation < before.generation:
            self.broke("generations only grow", after.path)
        if after.update is not None and after.update != before.update:
            self._update_changed(before, after, after.update)

    def _recent(self, deployment_id: str) -> list[tuple[float, Deployment]]:
        """Return what a deployment was when decisions that are committed now may have been made."""
        return [entry for entry in self._replaced.get(deployment_id, ()) if self._may_not_know(entry[0])]

    def _may_not_know(self, at: float) -> bool:
        """Say whether what is committed now may have been decided before `at`: its process may have been held up."""
        return self._now() - at < STALE_SECONDS + self._held_seconds()

    def _held_seconds(self) -> float:
        """Return for how long the process whose turn it is took nothing in, because it was frozen until just now."""
        began, ended = self.held_up.get(acting(), (0.0, 0.0))
        return ended - began if self._now() - ended < STALE_SECONDS else 0.0

    def _unstored_seconds(self) -> float:
        """Return for how long what any process was told may not be stored yet.

        One that was frozen until just now has not read it; one that hears late of what is stored, stores late.
        """
        late = [seconds for at, seconds in self._heard_of.values() if self._now() - at < STALE_SECONDS]
        return max((self._longest_held(STALE_SECONDS), *late))

    def _longest_held(self, lately: float = 2 * STALE_SECONDS) -> float:
        """Return for how long any process was frozen that went on so lately."""
        held = (ended - began for began, ended in self.held_up.values() if self._now() - ended < lately)
        return max(held, default=0.0)

    def _update_changed(self, before: Deployment, after: Deployment, status: UpdateStatus) -> None:
        said = f": {status.reason or status.paused_because}" if status.reason or status.paused_because else ""
        self._story.tell("store", f"update of {after.path} to {status.generation} is {status.state}{said}")
        template = self.records["templates"].get(f"{after.id}.{after.generation}")
        by_itself = isinstance(template, Template) and template.actor == "loop:deployments"
        if after.generation > before.generation and by_itself:
            if before.update is None or before.update.rollback or before.update.generation != before.generation:
                self.broke("a rollback is not rolled back", f"{after.path}: {before.update} -> {status}")
            self._check_failed(before, after)
        elif status.state is UpdateState.PAUSED and "asked" not in status.paused_because:
            self._check_failed(before, after)

    def _check_failed(self, before: Deployment, after: Deployment) -> None:
        """Check that a generation is given up for its own faults, not for those of nodes."""
        if self._now() - self.deaf_at < STALE_SECONDS:
            return  # decided before the process was frozen, and what has happened since need not keep it from that
        replicas = self.replicas().values()
        failed = [found.id for found in replicas if self._may_have_failed(before, found, after.updated_at)]
        if len(failed) <= put_up_with(before):
            self.broke("a generation fails by its own fault", f"{after.path} {before.generation}: only {failed} failed")

    def _may_have_failed(self, deployment: Deployment, replica: Replica, decided_at: float) -> bool:
        """Say whether it fails now, and its node was there for long enough to tell; `decided_at` is a stored time."""
        if replica.deployment_id != deployment.id or replica.generation != deployment.generation:
            return False
        if replica.state is ReplicaState.FAILED:
            return True
        if replica.healthy or replica.state not in LIVE:
            return False
        node = self.members().get(replica.node_id)
        if node is None or node.state is not MemberState.READY:
            lately = self._now() - self._ready_until.get(replica.node_id, NEVER) < DECIDED_SECONDS
            return lately or not replica.node_id
        return not 0.0 <= decided_at - node.state_since < config_of(deployment).monitor_seconds

    def _check_node(self, placed: Replica) -> None:
        """Check that nothing on the node is promised twice."""
        members = self.members()
        replicas = [found for found in self.replicas().values() if found.node_id in members and not found.ended]
        ports = Counter(
            (found.address, key.rpartition("/")[2], port)
            for found in replicas
            if found.address == placed.address
            for key, port in found.host_ports.items()
        )
        for (address, protocol, port), count in ports.items():
            if count > 1:
                self.broke("a host port has one owner", f"{address}:{port}/{protocol} has {count}")
        node = self.members().get(placed.node_id)
        asked = 0.0
        for found in replicas:
            template = self.records["templates"].get(found.template_id)
            if found.node_id == placed.node_id and isinstance(template, Template):
                asked += template.container.resources.cpus
        if node is not None and asked > node.facts.cpus + 1e-6:
            self.broke("a node holds what it has room for", f"{node.name}: {asked} of {node.facts.cpus} processors")

    def _check_deployment(self, deployment_id: str, before: list[Replica]) -> None:
        deployment = self.deployments().get(deployment_id)
        after = [found for found in self.replicas().values() if found.deployment_id == deployment_id]
        self._check_slots(deployment_id, after)
        if deployment is not None:
            self._check_surge(deployment, before, after)
            self._check_minimum(deployment, before, after)
            self._check_pause(deployment, before, after)

    def _check_slots(self, deployment_id: str, after: list[Replica]) -> None:
        live = {found.id: found for found in after if found.state in LIVE}
        slots: dict[int, list[Replica]] = defaultdict(list)
        for replica in live.values():
            slots[replica.slot].append(replica)
        for slot, found in slots.items():
            owners = [replica for replica in found if replica.replaces not in live]
            if len(found) > 2 or len(owners) > 1:
                names = ", ".join(f"{replica.id} ({replica.state})" for replica in found)
                self.broke("a slot has one owner and one replacement", f"slot {slot} of {deployment_id}: {names}")

    def _check_surge(self, deployment: Deployment, before: list[Replica], after: list[Replica]) -> None:
        old = {found.id: found for found in before if found.state in LIVE}
        live = {found.id: found for found in after if found.state in LIVE}
        new = [found for found in live.values() if found.id not in old]
        if not new:
            return
        slots = {found.slot for found in live.values()}
        plain = [found for found in new if found.replaces not in live]
        if plain and len(slots) > deployment.spec.replicas:
            self.broke("never more than wanted", f"{deployment.path}: {len(slots)} slots of {deployment.spec.replicas}")
        renewed = [found for found in new if found.replaces in live and not self._draining(live[found.replaces])]
        stayed = [found for found in live.values() if found.id in old]
        doubled = len(stayed) - len({found.slot for found in stayed})
        allowed = max(surge(deployment), *(surge(found) for _, found in self._recent(deployment.id)), 0)
        if renewed and doubled + len(renewed) > allowed:
            self.broke(
                "never more than the surge",
                f"{deployment.path}: {doubled} + {len(renewed)} replacements, {allowed} allowed",
            )

    def _check_pause(self, deployment: Deployment, before: list[Replica], after: list[Replica]) -> None:
        """Check that a paused update renews nothing; what has to leave its node is made anew all the same."""
        if not _is_paused(deployment):
            return
        old = {found.id: found.state for found in before}
        live = {found.id: found for found in after if found.state in LIVE}
        long_paused = all(_is_paused(was) for _, was in self._recent(deployment.id))
        for found in after:
            begun = found.id not in old and found.replaces in live and not self._draining(live[found.replaces])
            stopped = found.state is ReplicaState.LEAVING and old.get(found.id) in LIVE
            code = found.reason.code if found.reason is not None else ""
            if begun:
                self.broke("a paused update takes no step", f"{found.id} replaces {found.replaces}")
            elif stopped and code == STOPPED_FIRST and long_paused:
                self.broke("a paused update takes no step", f"{found.id} is stopped first")

    def _draining(self, replica: Replica) -> bool:
        """Say whether its node is drained, or was when a decision just committed may have been made."""
        node = self.members().get(replica.node_id)
        now_or_never = self._may_not_know(self._drained_at.get(replica.node_id, NEVER))
        return now_or_never or (node is not None and node.scheduling is Scheduling.DRAINING)

    def _check_minimum(self, deployment: Deployment, before: list[Replica], after: list[Replica]) -> None:
        old = {found.slot for found in before if found.healthy}
        # What fell ill after the decision was made was still counted on by it.
        new = {found.slot for found in after if found.healthy or self._was_well(found)}
        states = {found.id: found.state for found in after}
        let_go = {
            found.slot
            for found in before
            if found.healthy and states.get(found.id) is ReplicaState.LEAVING and not self._excused(found)
        }
        ours = (old - new) & let_go
        least = min(
            least_healthy(deployment, before),
            *(least_healthy(found, before) for _, found in self._recent(deployment.id)),
            1000,
        )
        if ours and len(new) < min(least, len(new) + len(ours)):
            self.broke(
                "never below the promised minimum by our own doing",
                f"{deployment.path}: {len(old)} -> {len(new)} healthy of {deployment.spec.replicas}: {sorted(ours)}",
            )

    def _excused(self, replica: Replica) -> bool:
        """Say whether a replica may go before another serves in its place."""
        return False

    def _was_well(self, replica: Replica) -> bool:
        return self._may_not_know(self._unwell_at.get(replica.id, NEVER)) and replica.state is ReplicaState.RUNNING

    def _check_drained(self, replica: Replica) -> None:
        waited = self._now() - self._leaving_since.get(replica.id, self._now())
        if waited >= self._settings.drain_seconds - SLACK_SECONDS:
            return
        for gateway_id, host in self.gateways.items():
            member = self.members().get(gateway_id)
            if member is None or member.state is not MemberState.READY:
                continue
            if self._now() - self._ready_since.get(gateway_id, 0.0) < STALE_SECONDS:
                continue  # it was not ready when this was decided, and so not waited for
            if replica.id in host.sends_to():
                self.broke("withdrawn before it is stopped", f"{member.name} still sends requests to {replica.id}")
            elif replica.id in host.under_way():
                self.broke("drained before it is stopped", f"{member.name} has unfinished requests at {replica.id}")

    def heard(self, member_id: str, at: float) -> None:
        """Note that a word of a member has arrived at a control plane."""
        lasted = at - self._heard_at.get(member_id, at)
        if lasted > SILENCE_SECONDS:
            self._broke_silence[member_id] = (at, lasted)
        self._heard_at[member_id] = at

    # containers

    def container_ordered(self, machine: Machine, replica_id: str) -> None:
        replica = self.replicas().get(replica_id)
        if replica is None or replica.ended:
            return  # taken back while it waited for its turn: its container goes again, journal or not
        if not any(kept.replica_id == replica_id for kept in _journalled(machine)):
            self.broke("the journal knows before anything starts", f"{replica_id} on {machine.node_id}")

    def container_started(self, machine: Machine, replica_id: str) -> None:
        self._story.tell(machine.node_id, f"container of {replica_id} runs")
        if self.node_of.get(replica_id) != machine.node_id:
            self.broke("a container runs where its replica is", f"{replica_id} runs on {machine.node_id}")
        elsewhere = [
            other.node_id
            for other in self.machines.values()
            if other is not machine and other.powered and other.containers().get(replica_id) == "running"
        ]
        if elsewhere or machine.running().count(replica_id) > 1:
            self.broke("one container a replica", f"{replica_id} also runs on {elsewhere or machine.node_id}")

    def container_ended(self, machine: Machine, replica_id: str, exit_code: int, asked: bool) -> None:
        how = "stopped" if asked else f"ended by itself with {exit_code}"
        self._story.tell(machine.node_id, f"container of {replica_id} {how}")
        if not asked or machine.node_id in self.removed:
            return
        replica = self.replicas().get(replica_id)
        if replica is not None and replica.state in (ReplicaState.PLACED, ReplicaState.RUNNING, ReplicaState.LEAVING):
            self.broke(
                "only what is let go is stopped", f"{replica_id} is {replica.state} and its container is stopped"
            )


def _is_paused(deployment: Deployment) -> bool:
    return deployment.update is not None and deployment.update.state is UpdateState.PAUSED


def _journalled(machine: Machine) -> Iterable[Any]:
    known = machine.disk.journal()
    return known.assignments if known is not None else ()
