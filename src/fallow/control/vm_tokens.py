"""Tokens for virtual machines: given to the server that makes one, and used inside it to join. Never logged."""

import secrets
from collections import deque
from collections.abc import Callable

import structlog

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused
from fallow.control.settings import Settings
from fallow.control.tokens import ID_LENGTH, SECRET_BYTES, secret_sha256
from fallow.decide.harvest.vm_tokens import NewToken, refusal, token_step
from fallow.decide.plan import Step
from fallow.model.credentials import JoinCredential
from fallow.model.server_frames import VmTokenGranted
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

ASKED_SECONDS = 60.0
MOST_ASKED = 6  # tokens for one virtual machine in so many seconds
MOST_ANSWERED = 120  # answers to one server in so many seconds, whatever they are

_log = structlog.get_logger("fallow.vms")


class VmTokens:
    """Answers servers that ask for a token. `clock` gives UTC seconds, `steady` seconds that nobody sets."""

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        settings: Settings,
        ca_sha256: str,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._settings = settings
        self._ca_sha256 = ca_sha256
        self._clock = clock
        self._steady = steady
        self._times: dict[str, deque[float]] = {}  # by `steady`: of tokens by vm id, of answers by server id

    async def grant(self, server_id: str, vm_id: str) -> VmTokenGranted:
        """Return a new token for a virtual machine of a server, or why there is none. Raises nothing it could cause.

        Asked again, it gives another one and ends the one before: the answer may have been lost, and what is stored
        of a token does not tell its secret.
        """
        try:
            wait = self._wait(server_id, MOST_ANSWERED) or self._wait(vm_id, MOST_ASKED)
            if wait:
                return VmTokenGranted(vm_id=vm_id, problem=f"asked for too often; try again in {wait:.0f} s")
            self._times.setdefault(server_id, deque()).append(self._steady())
            problem, text = await self._minted(server_id, vm_id)
        except (StoreError, Refused) as error:
            _log.warning("no token for a virtual machine", member=server_id, vm=vm_id, reason=str(error))
            return VmTokenGranted(vm_id=vm_id, problem=f"the control plane cannot tell now: {error}")
        if problem:
            _log.info("no token for a virtual machine", member=server_id, vm=vm_id, reason=problem)
            return VmTokenGranted(vm_id=vm_id, problem=problem)
        self._times.setdefault(vm_id, deque()).append(self._steady())
        return VmTokenGranted(vm_id=vm_id, token=text, url=self._settings.public_url)

    async def _minted(self, server_id: str, vm_id: str) -> tuple[str, str]:
        """Return (why there is no token, the token)."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        made = NewToken(
            id=new_id(ID_LENGTH), secret_sha256=secret_sha256(secret), ttl_seconds=self._settings.join_token_seconds
        )
        text = JoinCredential(token_id=made.id, secret=secret, ca_sha256=self._ca_sha256).text()

        def decide() -> tuple[Step | None, tuple[str, str]]:
            snapshot = self._cache.snapshot()
            problem = refusal(snapshot, server_id, vm_id)
            if problem:
                return None, (problem, "")
            return token_step(snapshot, snapshot.vms[vm_id], made, self._clock(), new_id), ("", text)

        return await commit_again(self._applier, decide)

    def _wait(self, id_: str, most: int) -> float:
        """Return after how many seconds there may be another of an id; 0: now. Forgets what is long ago."""
        oldest, times = self._steady() - ASKED_SECONDS, self._times.get(id_, deque())
        while times and times[0] <= oldest:
            times.popleft()
        if not times:
            self._times.pop(id_, None)
        return max(1.0, times[-most] - oldest) if len(times) >= most else 0.0
