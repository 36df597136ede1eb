"""Who may move what from which state to which: one writer for every transition, states that only advance."""

from fallow.model.deployments import ReplicaState as R
from fallow.model.members import MemberState as M

# (from, to) -> the one part that writes it
REPLICA_TRANSITIONS: dict[tuple[R, R], str] = {
    (R.PENDING, R.PLACED): "placement",
    (R.PENDING, R.STOPPED): "deployments",
    (R.PLACED, R.RUNNING): "observations",
    (R.PLACED, R.FAILED): "observations",
    (R.RUNNING, R.FAILED): "observations",
    (R.PLACED, R.LEAVING): "deployments",
    (R.RUNNING, R.LEAVING): "deployments",
    (R.LEAVING, R.STOPPING): "routes",
    (R.LEAVING, R.STOPPED): "observations",
    (R.STOPPING, R.STOPPED): "observations",
    (R.PLACED, R.LOST): "deployments",
    (R.RUNNING, R.LOST): "deployments",
    (R.LEAVING, R.LOST): "deployments",
    (R.STOPPING, R.LOST): "deployments",
}

MEMBER_TRANSITIONS: dict[tuple[M, M], str] = {
    (M.JOINING, M.READY): "members",
    (M.JOINING, M.DEAD): "members",
    (M.READY, M.SUSPECT): "members",
    (M.SUSPECT, M.READY): "members",
    (M.READY, M.DEAD): "members",  # it is fenced
    (M.SUSPECT, M.DEAD): "members",
    (M.DEAD, M.READY): "members",
}


def may_replica_move(before: R, after: R, writer: str) -> bool:
    """Say whether `writer` may move a replica from `before` to `after`."""
    return REPLICA_TRANSITIONS.get((before, after)) == writer


def may_member_move(before: M, after: M, writer: str) -> bool:
    """Say whether `writer` may move a member from `before` to `after`."""
    return MEMBER_TRANSITIONS.get((before, after)) == writer
