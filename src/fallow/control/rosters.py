"""What keeps two control planes from giving away the same name, port or key at once."""

import msgspec

from fallow.decide.plan import Step
from fallow.model.peers import Roster
from fallow.store.cache import Cache


def guarded(cache: Cache, step: Step, kind: str, now: float) -> Step:
    """Return `step` so that it fails with a Conflict when another that is guarded for `kind` was committed meanwhile.

    For steps whose new record has to differ from all others of its kind, as the cache has them at this moment.
    """
    found = cache.get("rosters", kind)
    before = found if isinstance(found, Roster) else Roster(id=kind, created_at=now, updated_at=now)
    roster = msgspec.structs.replace(before, updated_at=now)
    return Step(puts=(*step.puts, roster), deletes=step.deletes, guards=step.guards)
