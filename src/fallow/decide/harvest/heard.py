"""What servers said last of themselves, and how old that is."""

from collections.abc import Mapping
from dataclasses import dataclass

from fallow.model.servers import STALE_SECONDS, ServerReport


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardServer:
    """A server's newest report, and how many seconds ago it was heard."""

    report: ServerReport
    age_seconds: float = 0.0

    @property
    def fresh(self) -> bool:
        """Say whether it may be believed; a server without a fresh report is taken for full."""
        return self.age_seconds <= STALE_SECONDS


HeardServers = Mapping[str, HeardServer]  # by the server's id
