"""Events: who did what to what, when, and why."""

from typing import Literal

from fallow.model.meta import Record


class Event(Record, frozen=True, kw_only=True):
    """One change worth telling; `updated_at` equals `created_at`."""

    actor: str  # "loop:members", "token:ci", "node:n-7d2"
    subject_kind: str  # member, deployment, replica, token, route, cluster
    subject_id: str
    subject: str  # its name, for people
    reason: str  # a CamelCase code: ReplicaPlaced, NodeSuspect
    message: str
    level: Literal["info", "warning"] = "info"
