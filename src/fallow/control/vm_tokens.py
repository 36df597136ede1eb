"""Tokens for virtual machines: given to the server that makes one, and used inside it to join. Never logged."""

import secrets
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
        self._given: dict[str, list[float]] = {}  # vm id -> when tokens were given here, by `steady`

    async def grant(self, server_id: str, vm_id: str) -> VmTokenGranted:
        """Return a new token for a virtual machine of a server, or why there is none. Raises nothing it could cause.

        Asked again, it gives another one and ends the one before: the answer may have been lost, and what is stored
        of a token does not tell its secret.
        """
        try:
            if wait := self._too_often(vm_id):
                return VmTokenGranted(vm_id=vm_id, problem=f"asked for too often; try again in {wait:.0f} s")
            problem, text = await self._minted(server_id, vm_id)
        except (StoreError, Refused) as error:
            _log.warning("no token for a virtual machine", member=server_id, vm=vm_id, reason=str(error))
            return VmTokenGranted(vm_id=vm_id, problem=f"the control plane cannot tell now: {error}")
        if problem:
            _log.info("no token for a virtual machine", member=server_id, vm=vm_id, reason=problem)
            return VmTokenGranted(vm_id=vm_id, problem=problem)
        self._given.setdefault(vm_id, []).append(self._steady())
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

    def _too_often(self, vm_id: str) -> float:
        """Return after how many seconds another token may be given; 0: now. Forgets what is long ago."""
        oldest = self._steady() - ASKED_SECONDS
        self._given = {id_: kept for id_, times in self._given.items() if (kept := [at for at in times if at > oldest])}
        times = self._given.get(vm_id, [])
        return max(1.0, times[-MOST_ASKED] - oldest) if len(times) >= MOST_ASKED else 0.0
