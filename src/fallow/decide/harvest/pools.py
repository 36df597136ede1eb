"""Which server pool a server belongs to, and so how it lends."""

from fallow.decide.matching import matches
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member
from fallow.model.server_pools import DEFAULT_POOL, LendingPolicy

_DEFAULT = LendingPolicy()


def pool_of(snapshot: Snapshot, server: Member) -> tuple[str, LendingPolicy]:
    """Return the name of a server's pool and its policy: the first pool by name that picks its assigned labels.

    The pool `default` is for those that no other picks, whatever its selector; it need not be stored.
    """
    for name in sorted(snapshot.server_pools):
        pool = snapshot.server_pools[name]
        if name != DEFAULT_POOL and matches(pool.selector, server.labels, snapshot.label_sets):
            return name, pool.policy
    kept = snapshot.server_pools.get(DEFAULT_POOL)
    return DEFAULT_POOL, kept.policy if kept is not None else _DEFAULT
