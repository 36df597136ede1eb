"""What a server's primary applications are expected to need at most in the time ahead."""

from fallow.decide.harvest.lending import Expected
from fallow.decide.harvest.measured import Measured

MARGIN = 0.40  # of capacity, above what is used now: Koordinator's default


class Peaks:
    """Foretells peaks of what is not lent. Calls come once a second."""

    def add(self, measured: Measured) -> None:
        """Take in one second."""

    def expected(self, measured: Measured) -> Expected:
        """Return the peak that is expected now."""
        return Expected(
            cpus=min(measured.cpus, measured.own_cpus + MARGIN * measured.cpus),
            memory_bytes=min(measured.memory_bytes, measured.own_memory_bytes + int(MARGIN * measured.memory_bytes)),
            predictor=f"fixed {MARGIN * 100:g}",
            why="nothing is known yet of its history",
        )
