"""One generation takes the place of another: in portions, each proved before the next, and back when it fails.

A new replica has proved itself when it has been healthy for `monitor_seconds`; only then does the old one it replaces
leave. What a node does wrong is no fault of a generation: a replica on a node that is not ready never counts as failed,
nor one on a node that has only just come back.
"""

from collections.abc import Iterator
from math import ceil, floor

import msgspec

from fallow.decide.generations import Author, reverted
from fallow.decide.plan import Step
from fallow.decide.prepull import LOOK_SECONDS, ahead
from fallow.decide.slots import Slots
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.meta import Reason
from fallow.model.updates import UpdateConfig, UpdateState, UpdateStatus

DEFAULT_SHARE = 0.25  # this share of a deployment, at least one replica, is renewed at a time
# A replica that was never started may wait for its registry or for its node's engine, which come back.
NEVER_STARTED_SECONDS = 15.0
NO_ROOM_SECONDS = 15.0  # a move to an older version that has no node by then waits for nothing that comes soon
PLACED_SECONDS = 2.0  # a move that has no node by then finds no room now
STOPPED_FIRST = "Updating"
MADE_WAY = "MadeWay"
RELIED_ON = (
    20  # so many of the replicas that failed must still be as they were seen when an update is given up for them
)

_GOING = (ReplicaState.LEAVING, ReplicaState.STOPPING)
_STEPPING = (UpdateState.UPDATING, UpdateState.MONITORING, UpdateState.ROLLING_BACK)


class NothingUnderWayError(ValueError):
    """No update is under way that could be paused or resumed."""


def config_of(deployment: Deployment) -> UpdateConfig:
    """Return how the newest update is to be made."""
    status = deployment.update
    return deployment.spec.rollback if status is not None and status.rollback else deployment.spec.update


def steps_allowed(deployment: Deployment) -> bool:
    """Say whether replicas may be renewed now; one that was stored before updates had a status goes on."""
    return deployment.update is None or deployment.update.state in _STEPPING


def usual_generation(slots: Slots) -> int:
    """Return what replicas are made of that are not part of an update's portion: added, lost or moved ones.

    While a generation has not proved itself that is the good one before it.
    """
    deployment, status = slots.deployment, slots.deployment.update
    if (
        status is not None
        and status.state in (UpdateState.UPDATING, UpdateState.PAUSED)
        and not status.rollback
        and slots.template(status.from_generation) is not None
    ):
        return status.from_generation
    return deployment.generation


def stopped_first(slots: Slots) -> int:
    """Return how many replicas are on their way out so that a new one can be made in their place."""
    return sum(
        replica.state in _GOING and replica.reason is not None and replica.reason.code == STOPPED_FIRST
        for replica in slots.replicas
    )


def proven(slots: Slots, replica: Replica) -> bool:
    """Say whether the replica has been healthy for as long as the update asks."""
    return replica.healthy and slots.reached(replica.healthy_since + config_of(slots.deployment).monitor_seconds)


def failing(slots: Slots, replica: Replica) -> bool:
    """Say whether the replica counts as failed: ended for good, unwell for too long, or not healthy in time."""
    if replica.state is ReplicaState.FAILED:
        return True
    if replica.ended or replica.healthy or replica.state in _GOING:
        return False
    config = config_of(slots.deployment)
    late = slots.reached(replica.created_at + config.progress_seconds)
    if replica.state is ReplicaState.PENDING:
        return late and _takes_part(slots, replica)
    ready_since = slots.node_ready_since(replica)
    if ready_since is None:
        return False
    started = replica.state is ReplicaState.RUNNING
    patience = config.monitor_seconds if started else max(config.monitor_seconds, NEVER_STARTED_SECONDS)
    if late:
        return slots.reached(ready_since + patience)
    return replica.unwell_since > 0 and slots.reached(max(replica.unwell_since, ready_since) + patience)


def failures(slots: Slots) -> list[Replica]:
    """Return the replicas of the newest generation that count as failed."""
    newest = slots.deployment.generation
    return [replica for replica in slots.replicas if replica.generation == newest and failing(slots, replica)]


def _takes_part(slots: Slots, replica: Replica) -> bool:
    """Say whether an update waits for the replica; one that is added, or moves, and finds no room is another matter."""
    if replica.state is not ReplicaState.PENDING:
        return True
    owner = next((found for found in slots.slots.get(replica.slot, ()) if found.id == replica.replaces), None)
    if owner is not None:
        return slots.outdated(owner)
    return bool(replica.replaces) or config_of(slots.deployment).order == "stop-first"


# what the status says


def judge(slots: Slots) -> tuple[Step | None, bool]:
    """Return what the update's status becomes, and whether another generation is wanted now.

    In that case nothing else can be decided about the deployment in this run. `slots.deployment` is made the new one.
    """
    deployment, status = slots.deployment, slots.deployment.update
    outdated = any(slots.outdated(replica) for replicas in slots.slots.values() for replica in replicas)
    known = status is not None and status.generation == deployment.generation
    if outdated and not known:  # stored before updates had a status
        begun = UpdateStatus(
            generation=deployment.generation,
            from_generation=deployment.good_generation,
            started_at=slots.now,
            changed_at=slots.now,
        )
        return _become(slots, begun), False
    if status is None or not known or not status.under_way:
        return _note_good(slots), False
    if status.state is UpdateState.PAUSED:
        return None, False
    return _judge_steps(slots, status, outdated)


def _judge_steps(slots: Slots, status: UpdateStatus, outdated: bool) -> tuple[Step | None, bool]:
    deployment, config, failed = slots.deployment, config_of(slots.deployment), failures(slots)
    tolerated = floor(config.max_failure_ratio * deployment.replicas_here) + status.forgiven
    if len(failed) > tolerated and config.failure_action != "continue":
        return _give_up(slots, status, failed)
    if not outdated and _finished(slots, config):
        return _complete(slots, status), False
    return _carry_on(slots, status, outdated), False


def _note_good(slots: Slots) -> Step | None:
    """Remember a generation that nothing was asked of yet once a replica of it has proved itself."""
    deployment = slots.deployment
    if deployment.good_generation == deployment.generation:
        return None
    if not any(proven(slots, replica) for replica in slots.replicas if deployment.wants(replica.generation)):
        return None
    slots.deployment = msgspec.structs.replace(deployment, good_generation=deployment.generation, updated_at=slots.now)
    return Step(puts=(slots.deployment,))


def _become(slots: Slots, status: UpdateStatus) -> Step:
    slots.deployment = msgspec.structs.replace(slots.deployment, update=status, updated_at=slots.now)
    return Step(puts=(slots.deployment,))


def _give_up(slots: Slots, status: UpdateStatus, failed: list[Replica]) -> tuple[Step, bool]:
    """Go back, or pause when that is asked for or when there is nothing to go back to; a rollback never goes back.

    Not if one of those that failed has just become healthy.
    """
    deployment, relied_on = slots.deployment, tuple(failed[:RELIED_ON])
    author = Author(slots.now, slots.new_id, "loop:deployments")
    reason = f"{len(failed)} of {deployment.replicas_here} replicas of generation {deployment.generation} failed: "
    reason += _why(failed[0])
    target = slots.template(status.from_generation)
    wished = config_of(deployment).failure_action == "rollback" and not status.rollback
    if wished and target is not None and target.generation != deployment.generation:
        after, template = reverted(deployment, slots.templates, target, author, reason)
        text = f"goes back to generation {target.generation} ({target.container.image}): {reason}"
        told = author.tells(after, "RollbackStarted", text, "warning")
        slots.deployment = after
        return Step(puts=(after, template, told), guards=relied_on), True
    if wished:
        reason += "; no earlier generation is known to be good, so it cannot go back"
    return _paused(slots, status, reason, author, relied_on), False


def _paused(slots: Slots, status: UpdateStatus, reason: str, author: Author, relied_on: tuple[Replica, ...]) -> Step:
    paused = msgspec.structs.replace(status, state=UpdateState.PAUSED, paused_because=reason, changed_at=slots.now)
    slots.deployment = msgspec.structs.replace(slots.deployment, update=paused, updated_at=slots.now)
    told = author.tells(slots.deployment, "UpdatePaused", f"is paused: {reason}", "warning")
    return Step(puts=(slots.deployment, told), guards=relied_on)


def _finished(slots: Slots, config: UpdateConfig) -> bool:
    """Say whether every new replica has proved itself, or has failed and that is tolerated."""
    newest = [found for found in _fresh(slots) if _takes_part(slots, found)]
    if not all(proven(slots, replica) or failing(slots, replica) for replica in newest):
        return False
    if config.order == "start-first":
        return True
    present = len(slots.slots) + len(slots.failed_slots - set(slots.slots))
    return stopped_first(slots) == 0 and present >= slots.deployment.replicas_here


def _complete(slots: Slots, status: UpdateStatus) -> Step:
    deployment = slots.deployment
    state = UpdateState.ROLLED_BACK if status.rollback else UpdateState.COMPLETED
    good = any(replica.healthy for replica in slots.replicas if deployment.wants(replica.generation))
    slots.deployment = msgspec.structs.replace(
        deployment,
        update=msgspec.structs.replace(status, state=state, changed_at=slots.now),
        good_generation=deployment.generation if good else deployment.good_generation,
        updated_at=slots.now,
    )
    author = Author(slots.now, slots.new_id, "loop:deployments")
    if status.rollback:
        told = author.tells(slots.deployment, "RolledBack", f"is back at generation {status.from_generation}")
    else:
        told = author.tells(slots.deployment, "UpdateCompleted", f"is at generation {deployment.generation}")
    return Step(puts=(slots.deployment, told))


def _carry_on(slots: Slots, status: UpdateStatus, outdated: bool) -> Step | None:
    state = UpdateState.UPDATING if outdated else UpdateState.MONITORING
    if status.rollback or state is status.state:
        return None
    return _become(slots, msgspec.structs.replace(status, state=state, changed_at=slots.now))


def _why(replica: Replica) -> str:
    """Say what is wrong with a failed replica."""
    seen = replica.observed
    if replica.reason is not None:
        return f"{replica.id}: {replica.reason.text}"
    if seen is None:
        return f"{replica.id} has not been started in time"
    restarts = f" after {seen.restarts} restarts" if seen.restarts else ""
    told = f": {seen.message}" if seen.message else ""
    return f"{replica.id} is {seen.activity}, {seen.health}{restarts}{told}"


# what is renewed next


def _fresh(slots: Slots) -> list[Replica]:
    """Return the live replicas of the newest generation."""
    newest = slots.deployment.generation
    return [found for replicas in slots.slots.values() for found in replicas if found.generation == newest]


def unproven(slots: Slots) -> int:
    """Return how many new replicas have yet to show whether they work."""
    return sum(
        _takes_part(slots, found) and not failing(slots, found) and not proven(slots, found) for found in _fresh(slots)
    )


def may_create_renewed(slots: Slots) -> int:
    """Return how many missing replicas may be made of the newest generation although it has not proved itself.

    Only where an update stops replicas first: those that it stopped are missing now.
    """
    config = config_of(slots.deployment)
    if config.order == "start-first" or not steps_allowed(slots.deployment):
        return 0
    return max(0, portion(slots.deployment) - unproven(slots))


def portion(deployment: Deployment) -> int:
    """Return how many replicas are renewed at a time."""
    wanted = deployment.replicas_here
    asked = config_of(deployment).parallelism
    if asked is None:
        return max(1, ceil(wanted * DEFAULT_SHARE))
    return asked or max(1, wanted)


def _stops_first(slots: Slots) -> bool:
    """Say whether an update that stops replicas first is under way."""
    status, config = slots.deployment.update, config_of(slots.deployment)
    return config.order == "stop-first" and status is not None and status.state in _STEPPING


def renewed_in_place(slots: Slots, replacement: Replica) -> bool:
    """Say whether a replacement without a node only holds up that what it replaces is stopped first."""
    return replacement.state is ReplicaState.PENDING and _stops_first(slots)


def _is_move(slots: Slots, owner: Replica, found: Replica) -> bool:
    """Say whether a replica that has no node yet only moves its slot's owner, and does not renew it."""
    return found.state is ReplicaState.PENDING and slots.outdated(found) == slots.outdated(owner)


def held_up(slots: Slots, replicas: list[Replica]) -> bool:
    """Say whether what should replace a slot's owner is of an older generation too, and has found no node for a while.

    It may fit nowhere until the newer generation is there, so it must not hold that up.
    """
    return len(replicas) > 1 and all(
        found.state is ReplicaState.PENDING
        and slots.outdated(found)
        and slots.reached(found.created_at + NO_ROOM_SECONDS)
        for found in replicas[1:]
    )


def makes_way(slots: Slots, replicas: list[Replica]) -> Replica | None:
    """Return a slot's move that finds no room while an update stops replicas first: what that frees is for the update.

    It is taken back, and made again when what is under way has proved itself.
    """
    owner, found = replicas[0], replicas[-1]
    move = _stops_first(slots) and _is_move(slots, owner, found)
    if move and slots.reached(found.created_at + PLACED_SECONDS) and (_in_hand(slots) or _stoppable(slots)):
        return found
    return None


def gives_way(slots: Slots, owner: Replica) -> bool:
    """Say whether a replica that has to go waits for the portion under way, since there was no room for its move."""
    return (
        _stops_first(slots)
        and _in_hand(slots)
        and any(
            found.replaces == owner.id and found.reason is not None and found.reason.code == MADE_WAY
            for found in slots.replicas
        )
    )


def _in_hand(slots: Slots) -> bool:
    """Say whether a portion is stopped, missing or has yet to prove itself."""
    missing = len(slots.slots) < slots.deployment.replicas_here
    return missing or stopped_first(slots) > 0 or unproven(slots) > 0


def _stoppable(slots: Slots) -> bool:
    """Say whether there is something that can be renewed where it is."""
    owners = [replicas[0] for replicas in slots.slots.values()]
    return any(slots.outdated(owner) and not slots.leaves_its_node(owner) for owner in owners)


def next_portion(slots: Slots, owners: list[Replica]) -> Iterator[Step]:
    """Renew some of the outdated `owners`, each alone in its slot or held up, once the portion before is proven."""
    deployment, config = slots.deployment, config_of(slots.deployment)
    if not owners or not steps_allowed(deployment) or unproven(slots) or stopped_first(slots):
        return
    healthy_since = max((found.healthy_since for found in _fresh(slots)), default=0.0)
    if healthy_since and not slots.reached(healthy_since + config.monitor_seconds + config.delay_seconds):
        return
    owners, pulls = ahead(slots, owners)
    yield from pulls
    if not owners:
        slots.waits.append(LOOK_SECONDS)
        return
    owners = sorted(owners, key=lambda found: (found.healthy, found.slot))  # those that serve nothing first
    size = portion(deployment)
    # The room of one that has to leave its node is no use to its successor.
    staying = [owner for owner in owners if not slots.leaves_its_node(owner)]
    if config.order == "start-first" or not staying:
        yield from _start_first(slots, owners, size)
    elif not _moves_seek_room(slots):
        yield from _stop_first(slots, staying, size)


def _moves_seek_room(slots: Slots) -> bool:
    """Say whether a move may still find a node, before something stops whose room it would take."""
    for owner, *more in slots.slots.values():
        since = more[-1].created_at if more else slots.now
        pending = more[-1].state is ReplicaState.PENDING if more else slots.leaves_its_node(owner)
        if pending and not slots.reached(since + PLACED_SECONDS):
            return True
    return False


def _start_first(slots: Slots, owners: list[Replica], size: int) -> Iterator[Step]:
    rollback = slots.deployment.update is not None and slots.deployment.update.rollback
    doubled = [replicas for replicas in slots.slots.values() if len(replicas) > 1]
    held = [owner for owner in owners if len(slots.slots[owner.slot]) > 1]  # one takes another's place: none is added
    alone = [owner for owner in owners if len(slots.slots[owner.slot]) == 1]
    room = max(0, size - sum(not held_up(slots, replicas) for replicas in doubled))
    for owner in (*held[:room], *alone[: max(0, size - len(doubled))]):
        if rollback and not owner.healthy:
            # It serves nothing, and may hold the very room that its successor needs.
            yield slots.retire(owner, Reason(code="RolledBack", text="an earlier generation is wanted again"))
        else:
            replacement = slots.new_replica(owner.slot, slots.deployment.generation, owner.id)
            outdated = Reason(code="Outdated", text="a newer generation is wanted")
            waiting = [slots.retire(found, outdated) for found in slots.slots[owner.slot][1:]]
            gone = [put for step in waiting for put in step.puts]
            yield Step(puts=(replacement, *gone), guards=(slots.deployment, owner))


def _stop_first(slots: Slots, owners: list[Replica], size: int) -> Iterator[Step]:
    """Retire a portion; what does not serve anyway goes first, and what serves only as far as the portion allows."""
    serving = sum(any(found.healthy for found in replicas) for replicas in slots.slots.values())
    excused = len(failures(slots))  # tolerated ones would hold up everything for ever
    missing = max(0, slots.deployment.replicas_here - serving - excused)
    for position, owner in enumerate(owners[:size]):
        if owner.healthy and position + missing >= size:
            return
        yield slots.retire(owner, Reason(code=STOPPED_FIRST, text="a newer generation takes its place"))
        missing -= 0 if owner.healthy else 1


# what an operator does


def paused(deployment: Deployment, author: Author) -> Step | None:
    """Return what stops an update from taking further steps, None when it is paused. Raises NothingUnderWayError."""
    status = _under_way(deployment, "pause")
    if status.state is UpdateState.PAUSED:
        return None
    return _told(deployment, status, UpdateState.PAUSED, author, f"{author.actor} asked for it")


def resumed(slots: Slots, author: Author) -> Step | None:
    """Return what lets an update go on, None when it does; what has failed until now no longer counts against it.

    Raises NothingUnderWayError.
    """
    status = _under_way(slots.deployment, "resume")
    if status.state is not UpdateState.PAUSED:
        return None
    state = UpdateState.ROLLING_BACK if status.rollback else UpdateState.UPDATING
    forgiving = msgspec.structs.replace(status, forgiven=len(failures(slots)))
    return _told(slots.deployment, forgiving, state, author, "")


def _under_way(deployment: Deployment, wish: str) -> UpdateStatus:
    if deployment.update is None or not deployment.update.under_way:
        raise NothingUnderWayError(f"{deployment.path} has no update under way; there is nothing to {wish}")
    return deployment.update


def _told(deployment: Deployment, status: UpdateStatus, state: UpdateState, author: Author, reason: str) -> Step:
    status = msgspec.structs.replace(status, state=state, changed_at=author.now, paused_because=reason)
    after = msgspec.structs.replace(deployment, update=status, updated_at=author.now)
    if state is UpdateState.PAUSED:
        told = author.tells(after, "UpdatePaused", f"is paused at generation {status.generation}: {reason}")
    else:
        told = author.tells(after, "UpdateResumed", f"goes on with generation {status.generation}")
    return Step(puts=(after, told))
