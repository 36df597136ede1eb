"""How often one key may have its certificate renewed: a request that was captured could be sent again and again."""

from fallow.control.refusals import refuse

LEAST_SECONDS = 10.0  # an honest agent waits longer before it asks again
MAX_KNOWN = 20_000


class Renewals:
    """Remembers who had a certificate renewed by this process in the last seconds."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def check(self, key_sha256: str, now: float) -> None:
        """Raise Refused (429) when the key had its certificate renewed a moment ago; `now` in UTC seconds."""
        since = now - self._at.get(key_sha256, -LEAST_SECONDS)
        if 0 <= since < LEAST_SECONDS:
            raise refuse(
                429,
                "too-many-requests",
                "Renewed a moment ago",
                f"this key's certificate was renewed {since:.0f} s ago",
                f"ask again in {LEAST_SECONDS:.0f} s",
            )

    def note(self, key_sha256: str, now: float) -> None:
        """Remember a renewal."""
        if len(self._at) >= MAX_KNOWN:
            self._at = {key: at for key, at in self._at.items() if now - at < LEAST_SECONDS}
        self._at[key_sha256] = now
