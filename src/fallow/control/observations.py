"""Takes in what agents say of their replicas; the only writer of the transitions that follow from it."""

from collections.abc import Callable, Sequence

from fallow.control.ids import new_id
from fallow.control.intake import Batch, Intake
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.replicas import observe
from fallow.model.deployments import Observation, Replica, ReplicaState
from fallow.store.applier import Applier
from fallow.store.cache import Cache

_TOLD = (ReplicaState.FAILED, ReplicaState.STOPPED)


class Observations(Intake[Observation]):
    """Observations of replicas."""

    what = "observations"

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        super().__init__(applier)
        self._cache = cache
        self._clock = clock

    def steps(self, batches: Sequence[Batch[Observation]]) -> list[Step]:
        """Return the replicas that are different by what their own nodes say."""
        now = self._clock()
        changed: dict[str, Replica] = {}
        before: dict[str, ReplicaState] = {}
        for batch in batches:
            for observation in batch.items:
                id_ = observation.replica_id
                replica = changed.get(id_) or self._cache.get("replicas", id_)
                if not isinstance(replica, Replica) or replica.node_id != batch.member_id:
                    continue  # forgotten already, or another node's: not this one's to speak of
                after = observe(replica, observation, now)
                if after is not None:
                    before.setdefault(id_, replica.state)
                    changed[id_] = after
        return [self._step(replica, before[replica.id], now) for replica in changed.values()]

    def _step(self, replica: Replica, before: ReplicaState, now: float) -> Step:
        if replica.state is before or replica.state not in _TOLD:
            return Step(puts=(replica,))
        text = f"{replica.id} {replica.state}" + (f": {replica.reason.text}" if replica.reason else "")
        told = event(
            new_id(), now, f"node:{replica.node_id}", "replica", replica.id, replica.id,
            f"Replica{replica.state.title()}", text, "warning" if replica.state is ReplicaState.FAILED else "info",
        )  # fmt: skip
        return Step(puts=(replica, told))
