"""Which clusters a policy may use, and how far: each cluster is judged once a policy, not once a deployment."""

import enum
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fallow.decide.matching import matches, trouble_of
from fallow.decide.placement import phrases
from fallow.decide.selectors import format_selector
from fallow.model.clusters import ClusterPolicy
from fallow.model.labels import LabelSet, Selector
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.taints import Taint, Toleration, taint_text

NAME_KEY = "name"  # under which a selector finds a cluster's name
_FINGERPRINT_LENGTH = 24

_encoder = msgspec.json.Encoder(order="deterministic")


class Use(enum.IntEnum):
    """How far a cluster may be used."""

    NONE = 0  # it gets nothing, and what it has leaves
    TOLD = 1  # it keeps what it is told to run, and gets no more
    KEPT = 2  # as before; what it is yet to be told stays foreseen for it, too
    OPEN = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cluster in the eyes of one policy; `why` it may not be used freely, and its place in `fallback`.

    What one that is `fenced` has may still run there: nobody else gets it.
    """

    use: Use
    why: str = ""
    tier: int = 0
    fenced: bool = False


def fingerprint_of(policy: ClusterPolicy) -> str:
    """Return what tells policies apart that divide differently; how fast and how far moves go does not."""
    told = msgspec.structs.replace(policy, rebalance=None, fence_seconds=0.0, floor=None)
    return hashlib.sha256(_encoder.encode(told)).hexdigest()[:_FINGERPRINT_LENGTH]


def candidates(
    policy: ClusterPolicy, clusters: Sequence[Member], sets: Mapping[str, LabelSet], fenced: Collection[str] = ()
) -> tuple[Candidate, ...]:
    """Return how far a policy may use each of the clusters.

    What a dead one ran is not replaced while its id is in `fenced`: it may run there still.
    Replicas that are duplicated stand in one fallback group: the first in which a cluster may be used at all.
    """
    found = tuple(_judged(policy, cluster, sets, cluster.id in fenced) for cluster in clusters)
    if policy.divide != "duplicate" or not policy.fallback:
        return found
    first = min((each.tier for each in found if each.use), default=0)
    return tuple(
        Candidate(Use.NONE, f"fallback group {each.tier + 1} is not needed")
        if each.use and each.tier > first and not each.fenced
        else each
        for each in found
    )


def weight_of(policy: ClusterPolicy, cluster: Member) -> int:
    """Return the weight of a cluster in a policy that divides by weights."""
    return policy.weights.get(cluster.name, 0 if policy.weights and not policy.where.requirements else 1)


def known_labels(cluster: Member) -> Mapping[str, str]:
    """Return what selectors see of a cluster: labels assigned to it, and its name."""
    return {**cluster.labels, NAME_KEY: cluster.name}


def _judged(policy: ClusterPolicy, cluster: Member, sets: Mapping[str, LabelSet], fenced: bool) -> Candidate:
    labels = known_labels(cluster)
    tier = next((index for index, each in enumerate(policy.fallback) if matches(each, labels, sets)), None)
    if cluster.state is MemberState.DEAD and fenced:  # whatever the policy says by now
        why = "dead; what it ran is not replaced before its fence has passed"
        return Candidate(Use.KEPT, why, len(policy.fallback) if tier is None else tier, fenced=True)
    if not matches(policy.where, labels, sets):
        return Candidate(Use.NONE, _mismatch(policy.where, sets))
    if policy.fallback and tier is None:
        return Candidate(Use.NONE, "is in none of the fallback groups")
    found = _in_service(cluster) or _untainted(cluster, policy.tolerate)
    return Candidate(found.use if found else Use.OPEN, found.why if found else "", tier or 0)


def _in_service(cluster: Member) -> Candidate | None:
    if cluster.state in (MemberState.JOINING, MemberState.DEAD):
        return Candidate(Use.NONE, "has not come up yet" if cluster.state is MemberState.JOINING else "dead")
    if cluster.scheduling is Scheduling.DRAINING:
        return Candidate(Use.NONE, phrases.DRAINING)
    if cluster.scheduling is Scheduling.CORDONED:
        return Candidate(Use.TOLD, phrases.CORDONED)
    return None


def _untainted(cluster: Member, tolerate: Iterable[Toleration]) -> Candidate | None:
    tolerations = tuple(tolerate)
    against = [taint for taint in cluster.taints if not any(_tolerated(taint, each) for each in tolerations)]
    for taint in sorted(against, key=lambda taint: taint.effect != "move"):
        return Candidate(Use.NONE if taint.effect == "move" else Use.TOLD, f"tainted {taint_text(taint)}")
    if cluster.state is MemberState.SUSPECT:
        return Candidate(Use.KEPT, "suspect: nothing is heard of it just now")
    return None


def _tolerated(taint: Taint, toleration: Toleration) -> bool:
    return taint.key == toleration.key and toleration.value in (None, taint.value)


def _mismatch(where: Selector, sets: Mapping[str, LabelSet]) -> str:
    return trouble_of(where, sets, trusted=True) or f"does not match {format_selector(where)}"
