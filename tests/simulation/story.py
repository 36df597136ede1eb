"""What happened in a run, line by line, and the first thing that should not have."""

import hashlib
from collections import deque
from collections.abc import Callable

KEEP_LINES = 4000
SHOWN_LINES = 60


class Violation(AssertionError):  # noqa: N818 - the field's word
    """An invariant broke; the text says which, and how."""


class Story:
    """Lines with virtual times. It ends with the first violation, so that the last lines are those that matter."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lines: deque[str] = deque(maxlen=KEEP_LINES)
        self._hash = hashlib.sha256()
        self.count = 0
        self.violation: str | None = None
        self.on_violation: Callable[[], None] = lambda: None

    def tell(self, who: str, what: str) -> None:
        if self.violation is not None:
            return
        line = f"{self._now():10.3f}  {who:<14} {what}"
        self._lines.append(line)
        self._hash.update(line.encode())
        self.count += 1

    def broke(self, invariant: str, how: str) -> None:
        """Note a violation; only the first counts."""
        if self.violation is None:
            self.tell("INVARIANT", f"{invariant}: {how}")
            self.violation = f"{invariant}: {how}"
            self.on_violation()

    @property
    def digest(self) -> str:
        """Return a hash of every line, kept or not."""
        return self._hash.hexdigest()

    def lines(self, last: int = SHOWN_LINES) -> list[str]:
        return list(self._lines)[-last:]
