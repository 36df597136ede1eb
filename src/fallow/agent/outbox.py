"""Observations on their way to the control plane."""

from collections.abc import Iterable

from fallow.agent.repeating import Repeating
from fallow.model.deployments import Observation
from fallow.model.wire import Observed

BATCH_OBSERVATIONS = 500  # 500 of the longest messages stay far below the size of a frame


class Outbox(Repeating[Observation, Observed]):
    """Holds at most one observation a replica."""

    def put(self, observations: Iterable[Observation]) -> None:
        """Take in observations; an older one of the same replica that has not left is forgotten."""
        for seen in observations:
            known = self._waiting.get(seen.replica_id)
            if known is None or known.serial < seen.serial:
                self._waiting[seen.replica_id] = seen
        self._changed.set()

    def pack(self, batch: int) -> Observed:
        """Take the first ones, up to BATCH_OBSERVATIONS."""
        ids = list(self._waiting)[:BATCH_OBSERVATIONS]
        return Observed(batch=batch, observations=tuple(self._waiting.pop(id_) for id_ in ids))

    def take_back(self, frame: Observed) -> None:
        """Let observations wait again, but for those of replicas that something newer was seen of."""
        self.put(frame.observations)
