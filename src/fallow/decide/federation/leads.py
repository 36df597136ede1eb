"""Two hosts with one identity: a copy of a host's store that runs beside the real one.

Every process that begins to lead a host's loops makes a name for that, which no other ever has: its *lead*. Leads of
one store follow each other, so one that was followed by another never speaks again. When it does, both are alive, and
the later one is obeyed: a host that is restored from a backup takes the place of the one that was lost.
"""

from collections.abc import Sequence

from fallow.model.peers import Leader

KEPT = 32  # leads remembered


def lead_of(leader: Leader) -> str:
    """Return the name of a lead: the same process may lead again after another."""
    return f"{leader.peer_id}.{leader.revision}"


def is_stale(known: Sequence[str], lead: str) -> bool:
    """Say whether another lead has been heard since this one; `known` are those heard, the newest last.

    A host of an older release does not name its lead (empty): nothing is known of it.
    """
    return lead in known[:-1]


def with_lead(known: tuple[str, ...], lead: str) -> tuple[str, ...]:
    """Return the leads heard when this one, which is not stale, is heard now."""
    return known if not lead or lead in known else (*known, lead)[-KEPT:]


def stale_text(url: str) -> str:
    """Say what a cluster has found out about its host, and what to do about it."""
    return (
        f"two control planes are the host {url} at once: one store is a copy of the other. This one is not obeyed, for "
        "the other has begun to lead later. Stop the copy; should it be the other one, start this one again then"
    )
