"""Drains that were called off in their middle: what has not moved yet, stays where it is."""

from collections.abc import Mapping

from fallow.decide.federation.migrate import held, reliable
from fallow.decide.federation.reach import only_unreached
from fallow.decide.snapshot import Snapshot
from fallow.model.divisions import Division
from fallow.model.members import Scheduling


def recalled(snapshot: Snapshot, division: Division) -> Mapping[str, int]:
    """Return a division's shares by cluster id, without the moves out of clusters that are not drained any more.

    Replacements that are ready have moved and stay; those that are not are given up, as are those that no gateway
    reaches, and what they should have replaced is kept.
    """
    shares = {share.cluster_id: share for share in snapshot.shares_by_deployment.get(division.deployment_id, ())}
    found = dict(division.shares)
    back: dict[str, int] = {}
    for id_ in division.drained:
        cluster, share = snapshot.clusters.get(id_), shares.get(id_)
        if cluster is None or share is None or cluster.scheduling is Scheduling.DRAINING:
            continue
        more = held(share) - found.get(id_, 0)
        if more > 0:
            back[id_] = more
            found[id_] = held(share)
    surplus = sum(back.values()) - division.unplaced
    deployment = snapshot.deployments.get(division.deployment_id)
    in_vain = deployment is not None and only_unreached(snapshot, deployment, division.shares)
    for id_ in sorted(set(found) - set(back)):
        share = shares.get(id_)
        moved = reliable(share) if share is not None and not in_vain else 0
        fewer = min(max(surplus, 0), found[id_] - min(found[id_], moved))
        found[id_] -= fewer
        surplus -= fewer
    for id_, more in back.items():
        fewer = min(max(surplus, 0), more)
        found[id_] -= fewer
        surplus -= fewer
    return {id_: count for id_, count in found.items() if count}
