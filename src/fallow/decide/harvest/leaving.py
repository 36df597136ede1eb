"""A server that shuts down, or may lend nothing for another reason, and what goes on record about that."""

from collections.abc import Callable, Iterator

import msgspec

from fallow.decide.clones import superseded
from fallow.decide.events import event
from fallow.decide.harvest.orders import closed, leaving
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member
from fallow.model.servers import Lending


def leaving_step(
    snapshot: Snapshot, server_id: str, instance: str, reason: str, now: float, new_id: Callable[[], str]
) -> Step | None:
    """Return what stores that a server shuts down, as the start `instance` of its agent says.

    None: it is on record, or another start has followed that one.
    """
    server = snapshot.servers.get(server_id)
    if server is None or not instance or superseded(server.runs, instance):
        return None
    lending = lending_of(snapshot, server, now)
    words = " ".join(reason.split()) or "its host stops"
    if lending.left_by == instance and lending.leaving:
        return None
    changed = msgspec.structs.replace(
        lending, leaving=words, left_by=instance, closed=f"it shuts down: {words}", updated_at=now
    )
    told = event(
        new_id(), now, f"server:{server.name}", "member", server.id, server.name, "ServerLeaving",
        f"server {server.name} shuts down ({words}): what it has lent moves away", "warning",
    )  # fmt: skip
    return Step(puts=(changed, told))


def closings(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Yield what brings on record why each server may lend nothing, or that it may again."""
    for server in snapshot.servers.values():
        why, lending = closed(snapshot, server), lending_of(snapshot, server, now)
        back = bool(lending.leaving) and not leaving(server, lending)
        if why == lending.closed and not back:
            continue
        changed = msgspec.structs.replace(lending, closed=why, updated_at=now)
        if back:
            changed = msgspec.structs.replace(changed, leaving="", left_by="")
        told = event(
            new_id(), now, "loop:vms", "member", server.id, server.name, "ServerClosed" if why else "ServerOpened",
            f"server {server.name} lends nothing: {why}" if why else f"server {server.name} lends again",
        )  # fmt: skip
        yield Step(puts=(changed, told) if why != lending.closed else (changed,), guards=(server,))


def lending_of(snapshot: Snapshot, server: Member, now: float) -> Lending:
    """Return what is on record about a server's lending, or the beginning of it."""
    found = snapshot.lendings.get(server.id)
    return found if found is not None else Lending(id=server.id, created_at=now, updated_at=now)
