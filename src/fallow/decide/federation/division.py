"""How every deployment's total is divided over clusters, all deployments at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """How many replicas of one deployment each cluster should run, by cluster id; who is not named should run none.

    `rules` says what made a cluster's share, `unplaced` how many replicas have no place. `fingerprint` is that of the
    policy; a division keeps it, so that another policy is noticed.
    """

    shares: dict[str, int] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    unplaced: int = 0
    unplaced_reason: str = ""
    fingerprint: str = ""
