"""What every back-end asks of a commit before it looks at any data."""

from collections.abc import Sequence

from fallow.store.contract import Check, Write


def refuse_malformed(checks: Sequence[Check], writes: Sequence[Write]) -> None:
    """Raise ValueError for an empty key, a key that is not UTF-8 text, a negative revision or a key written twice."""
    seen: set[str] = set()
    for write in writes:
        if write.key in seen:
            raise ValueError(f"{write.key!r} is written twice in one commit")
        seen.add(write.key)
    for check in checks:
        if check.revision < 0:
            raise ValueError(f"{check.key!r} is checked against revision {check.revision}, which cannot be")
        seen.add(check.key)
    for key in seen:
        if not key:
            raise ValueError("a key cannot be empty")
        key.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair


def refuse_ttl(ttl_seconds: float) -> None:
    """Raise ValueError unless a lease can last that long."""
    if not 0 < ttl_seconds < float("inf"):
        raise ValueError(f"a lease cannot last {ttl_seconds} seconds")
