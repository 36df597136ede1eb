"""Divisions: how a deployment's total is divided over clusters, and how it came to be."""

import msgspec

from fallow.model.meta import Record
from fallow.model.shares import ShareView

HISTORY = 20  # divisions of one deployment that are kept


class PastDivision(msgspec.Struct, frozen=True, kw_only=True):
    """One division: cluster name -> share, and what made it necessary."""

    at: float
    total: int
    shares: dict[str, int]
    cause: str


class Division(Record, frozen=True, kw_only=True):
    """The newest division of a deployment; its id is the deployment's. Shares follow it as fast as moves allow."""

    deployment_id: str
    policy: str  # fingerprint of the policy it was made by: another one divides afresh
    total: int
    shares: dict[str, int]  # cluster id -> target
    rules: dict[str, str] = {}  # cluster id -> what made its share
    unplaced: int = 0
    unplaced_reason: str = ""
    off_since: float = 0.0  # since when the policy would divide otherwise, the same way all the time; 0: it would not
    off_shares: dict[str, int] = {}  # that way
    moving_since: float = 0.0  # replicas have to leave clusters for others, since then; 0: none has
    drained: tuple[str, ...] = ()  # ids of clusters that lose replicas by it since they are drained
    history: tuple[PastDivision, ...] = ()  # newest last


class DivisionView(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's division as the API shows it."""

    deployment: str  # project/name
    total: int
    ready: int
    placed: int
    moving: int  # replicas that are wanted elsewhere than they are
    unplaced: int
    unplaced_reason: str = ""
    shares: tuple[ShareView, ...] = ()
    history: tuple[PastDivision, ...] = ()
