"""The pace of complaints: one about each of those that give cause for them, then none for a while."""

COMPLAIN_SECONDS = 300.0


class Complaints:
    """When somebody was last complained about, by id. A clock that is set back lets complaints through."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def may(self, id_: str, now: float) -> bool:
        """Say whether to complain again; then it is not for a while."""
        before = self._last.get(id_)
        if before is not None and 0 <= now - before < COMPLAIN_SECONDS:
            return False
        self._last[id_] = now
        return True
