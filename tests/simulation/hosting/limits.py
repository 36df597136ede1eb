"""The limit of what is lent, looked at often: it falls in time, and grows slowly."""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from fallow.decide.harvest.pressure import FLOOR_SLACK, IDLE_SHARE
from fallow.decide.harvest.suppress import FLOOR_CPUS
from fallow.model.server_pools import LendingPolicy
from simulation.hosting.servers import Server

REACTION_SECONDS = 1.5
BLIND_SECONDS = 3.0
GROWS = 0.10  # of the processors in a second
AT_ONCE_SECONDS = 1.05  # so much it may grow after a silence
LOOK_SECONDS = 0.25

HELD = "the limit falls in time"
SLOWLY = "the limit grows slowly"
WAITED = "what is lent shrinks while the primary waits"
WAIT_SECONDS = 5.0  # by then it has shrunk, and was not idle before it had
SHRUNK = 0.25  # of what could be lent


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    allowed: float  # what could be lent then
    limit: float | None


class LimitWatch:
    """Looks at the limits of servers whose agents are at work."""

    def __init__(self, broke: Callable[[str, str], None], now: Callable[[], float]) -> None:
        self._broke = broke
        self._now = now
        self._looks: dict[str, deque[_Look]] = defaultdict(lambda: deque(maxlen=int(6.0 / LOOK_SECONDS)))
        self._began: dict[str, float] = {}
        self._blind_at: dict[str, float] = {}
        self._waited: dict[str, float] = {}  # since when primaries wait while what is lent is at work

    def began(self, server: Server) -> None:
        """Note that another agent begins: it has to measure first, and knows of no silence before it."""
        self._began[server.id] = self._now()
        self._blind_at.pop(server.id, None)
        self._looks.pop(server.id, None)
        self._waited.pop(server.id, None)

    def look(self, server: Server, policy: LendingPolicy | None) -> None:
        """Look at one server. `policy`: what its agent was told; None: it is not at work."""
        if policy is None:
            self._looks.pop(server.id, None)
            self._waited.pop(server.id, None)
            self._began[server.id] = self._now()
            return
        now, looks = self._now(), self._looks[server.id]
        blind = self._blind_at.setdefault(server.id, now) if server.blind else 0.0
        if not server.blind and self._blind_at.pop(server.id, None) is not None:
            self._began[server.id] = now
            looks.clear()
        allowed = server.cpus * policy.cpu_ceiling - server.own_cpus - policy.reserve_cpus
        if blind and now - blind > BLIND_SECONDS:
            allowed = 0.0
        looks.append(_Look(now, allowed, server.limits.cpus()))
        self._check_waiting(server, looks[-1])
        began = self._began.get(server.id, now)
        if now - began < REACTION_SECONDS + LOOK_SECONDS or (blind and now - blind <= BLIND_SECONDS + REACTION_SECONDS):
            return
        lately = [each for each in looks if each.at >= now - REACTION_SECONDS]
        most = max(FLOOR_CPUS, *(each.allowed for each in lately))
        limit = looks[-1].limit
        if limit is None or limit > most + 1e-6:
            self._broke(HELD, f"{server.name} lends up to {limit} of {most:.2f} processors")
        self._check_growth(server, list(looks))

    def _check_waiting(self, server: Server, look: _Look) -> None:
        idle = server.lent_cpus() <= max(IDLE_SHARE * server.cpus, FLOOR_CPUS * FLOOR_SLACK)
        if not server.waits or server.blind or server.primary_missing or idle:
            self._waited.pop(server.id, None)
        elif look.at - self._waited.setdefault(server.id, look.at) >= WAIT_SECONDS:
            most = max(2 * FLOOR_CPUS, SHRUNK * look.allowed)
            if look.limit is None or look.limit > most:
                self._broke(WAITED, f"{server.name} lends up to {look.limit} of {look.allowed:.2f} processors")

    def _check_growth(self, server: Server, looks: list[_Look]) -> None:
        newest = looks[-1]
        for before in looks[:-1]:
            if newest.limit is None or before.limit is None:
                continue
            most = max(before.limit, FLOOR_CPUS) + GROWS * server.cpus * (newest.at - before.at + AT_ONCE_SECONDS)
            if newest.limit > most + 1e-6:
                text = f"{server.name}: {before.limit:.2f} to {newest.limit:.2f} in {newest.at - before.at:.2f} s"
                self._broke(SLOWLY, text)
                return
