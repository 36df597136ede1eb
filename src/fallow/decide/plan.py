"""Plans: what a decision wants written, and under which conditions it still holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fallow.model.meta import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Writes that belong together: all of them are committed, or none.

    A `put` whose record has revision 0 must not exist yet; otherwise it and every `delete` must still have the
    revision the decision saw. `guards` are records that are not written but must be unchanged.
    """

    puts: tuple[Record, ...] = ()
    deletes: tuple[Record, ...] = ()
    guards: tuple[Record, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Steps, each on its own, in order of importance; `wake_after_seconds` asks to be run again by then."""

    steps: Sequence[Step] = field(default_factory=tuple)
    wake_after_seconds: float | None = None
