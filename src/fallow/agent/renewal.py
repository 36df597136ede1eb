"""When and how a member's certificate is renewed: through its session, or over HTTPS when there is none."""

import asyncio
import random
from collections.abc import Callable

import structlog

from fallow.agent.identity import IdentityError, IdentityStore
from fallow.client import joining
from fallow.client.errors import ClientError
from fallow.model.members import Identity, RenewRequest
from fallow.model.wire import RenewAsked

_log = structlog.get_logger("fallow.agent.identity")

ASK_AGAIN_SECONDS = 30.0
SESSION_WAIT_SECONDS = 60.0  # so long a due renewal waits for a session before it takes the other way


class Renewal:
    """Keeps one identity fresh. `clock` gives UTC seconds, `chance` a number 0..1."""

    def __init__(
        self, store: IdentityStore, clock: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._clock = clock
        self._jitter = chance()
        self._asked_at = 0.0
        self._alone_since = clock()
        self._distrusted = False

    def distrust(self) -> None:
        """Note that the control plane takes our certificate for expired, whatever our clock says."""
        self._distrusted = True

    def due_in(self) -> float:
        """Return after how many seconds to ask, 0 when at once; no sooner than a while after the last try."""
        now = self._clock()
        due = now if self._distrusted else self._store.renew_at(self._jitter)
        # A clock that was set back must not make us wait for the time of the last try to come again.
        again = self._asked_at + ASK_AGAIN_SECONDS if self._asked_at <= now else now
        return max(0.0, max(due, again) - now)

    async def request(self) -> RenewAsked:
        """Return the frame that asks through a session."""
        self._asked_at = self._clock()
        return RenewAsked(csr_pem=await asyncio.to_thread(self._store.csr_pem))

    def take_in(self, identity: Identity) -> None:
        """Keep what the control plane answered; what is not ours is only logged."""
        try:
            self._store.renewed(identity)
        except (IdentityError, OSError) as error:
            _log.error("renewed certificate not kept", reason=str(error))
        else:
            self._asked_at = 0.0
            self._distrusted = False
            _log.info("certificate renewed", member=identity.member_id)

    def session_ended(self) -> None:
        """Note that there is no session from now on."""
        self._alone_since = self._clock()

    async def without_session(self, url: str) -> None:
        """Renew over HTTPS at `url`, if the certificate has expired or has long been due. Raises ClientError."""
        now = self._clock()
        waited = now - self._alone_since >= SESSION_WAIT_SECONDS
        if self.due_in() > 0 or not (waited or self._distrusted or now >= self._store.expires_at()):
            return
        self._asked_at = now
        saved = self._store.saved
        csr_pem = await asyncio.to_thread(self._store.csr_pem)
        request = RenewRequest(member_id=saved.identity.member_id, csr_pem=csr_pem)
        try:
            identity = await joining.renew(url, saved.identity.ca_pem, request)
        except ClientError as error:
            _log.warning("certificate not renewed", reason=str(error))
            raise
        self.take_in(identity)
