"""Deployments that needed nothing when they were last looked at, so that a wake looks at those that changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fallow.decide.federation.rebalancing import Course
from fallow.decide.federation.words import ALL_HEARD, Words
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment


@dataclass
class Resting:
    """What was looked at, and needed nothing: no step now, nor one that is due later.

    It still needs nothing as long as all of that is the very same, but for what time alone brings (a cluster that has
    long been back, a fence that is over). So whoever keeps this forgets it every so often, and looks at all again.
    """

    _clusters: tuple[Mapping[str, int], Words] = field(default=({}, ALL_HEARD))  # revisions, and who was heard
    _seen: dict[str, tuple[tuple[object, ...], Course]] = field(default_factory=dict)  # by deployment id

    def forget(self) -> None:
        """Look at all again."""
        self._seen.clear()

    def begin(self, snapshot: Snapshot, words: Words = ALL_HEARD) -> None:
        """Begin another run of the loop; where a cluster differs every deployment may need something."""
        clusters = {id_: cluster.revision for id_, cluster in snapshot.clusters.items()}, words
        if clusters != self._clusters:
            self._clusters = clusters
            self._seen.clear()

    def rests(self, snapshot: Snapshot, deployment: Deployment, course: Course) -> bool:
        """Say whether a deployment needs nothing, as far as that is known without following it."""
        seen = self._seen.get(deployment.id)
        if seen is None:
            return False
        records, known = seen
        return known == course and all(map(_same, records, _records(snapshot, deployment)))

    def note(self, snapshot: Snapshot, deployment: Deployment, course: Course, *, rests: bool) -> None:
        """Note what was found by following a deployment."""
        if rests:
            self._seen[deployment.id] = _records(snapshot, deployment), course
        else:
            self._seen.pop(deployment.id, None)


def _records(snapshot: Snapshot, deployment: Deployment) -> tuple[object, ...]:
    """Return all records that decide on a deployment's next step, but for clusters."""
    id_ = deployment.id
    return deployment, snapshot.divisions.get(id_), snapshot.shares_by_deployment.get(id_)


def _same(one: object, other: object) -> bool:
    return one is other
