"""The members of an etcd cluster: one channel each, the token, and every call tried until one of them answers.

The stubs and messages are those of `aetcd`; its own client knows neither TLS nor reads at a revision, and loses the
bounds of commits in a watch.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc
import structlog
from aetcd import rpc

from fallow.store.contract import Compacted, LeaseGone, OutcomeUnknown, StoreError
from fallow.store.etcd_url import PASSWORD_VARIABLE, USER_VARIABLE, EtcdUrl

TRY_SECONDS = 1.0  # until another member is asked the same; doubled every time, since all may be slow
MAX_TRY_SECONDS = 5.0
CALL_SECONDS = 15.0  # until the caller is told; several elections fit in
PAUSE_SECONDS = 0.05  # after all members were asked in vain; doubled every round
MAX_PAUSE_SECONDS = 1.0

_T = TypeVar("_T")

_log = structlog.get_logger("fallow.store")

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A member that went without a word is found out; etcd hangs up on those who ask more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)

# What may be over in a moment, or at another member. A commit that ends so may have been written.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)

# What etcd says, and what to tell and do; of several the first that fits.
_HINTS = (
    ("invalid user ID or password", f"etcd refused the user name or the password: check {USER_VARIABLE} and "
     f"{PASSWORD_VARIABLE} (or the password_file)"),
    ("user name is empty", f"etcd wants a user and a password: set {USER_VARIABLE} and {PASSWORD_VARIABLE}"),
    ("permission denied", f"etcd does not allow it: set {USER_VARIABLE} and {PASSWORD_VARIABLE} to a user whose role "
     "has readwrite on the prefix of the store's URL"),
    ("database space exceeded", "etcd has no space left: compact and defragment it, then disarm its alarm "
     "(etcdctl alarm disarm)"),
    ("request is too large", "one commit is larger than etcd takes (1.5 MiB unless --max-request-bytes says more)"),
    ("message larger than max", "one commit is larger than etcd takes (1.5 MiB unless --max-request-bytes says more)"),
    ("too many operations", "one commit has more operations than etcd takes: start it with --max-txn-ops=128 or more"),
)  # fmt: skip

_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "auth: token")


class Member:
    """One member's channel and the services it offers."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.endpoint = endpoint
        self.channel = (
            grpc.aio.secure_channel(endpoint, credentials, options=_CHANNEL_OPTIONS)
            if credentials is not None
            else grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        )
        self.kv = rpc.KVStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.auth = rpc.AuthStub(self.channel)


# Makes one attempt at a member: gets the metadata to send along and the seconds it may take.
Attempt = Callable[[Member, list[tuple[str, str]], float], Any]


class Members:
    """All members; one is asked until it fails, then the next."""

    def __init__(self, url: EtcdUrl) -> None:
        credentials = (
            grpc.ssl_channel_credentials(url.ca, url.private_key, url.certificate) if url.ca is not None else None
        )
        self._url = url
        self._members = [Member(endpoint, credentials) for endpoint in url.endpoints]
        self._current = 0
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()  # those that wait for a member
        self._ended: set[asyncio.Task[Any]] = set()  # those of them that closing the store has ended
        self._closed = False

    @property
    def names(self) -> str:
        """Return all endpoints, as errors tell them."""
        return ", ".join(self._url.endpoints)

    @property
    def current(self) -> Member:
        """Return the member that is asked next."""
        return self._members[self._current]

    def turn_from(self, member: Member) -> None:
        """Ask another member from now on, unless that has been decided already."""
        if self.current is member:
            self._current = (self._current + 1) % len(self._members)

    def is_open(self) -> bool:
        """Say whether the store is not closed yet."""
        return not self._closed

    def require_open(self) -> None:
        """Raise StoreError when the store is closed."""
        if self._closed:
            raise StoreError("the store is closed")

    async def call(self, attempt: Attempt, *, writes: bool = False) -> Any:
        """Return what `attempt` returns at the first member that answers; it may be made several times.

        Raises StoreError when etcd refuses it or does not answer in time; the latter is an OutcomeUnknown for what
        `writes`.
        """
        self.require_open()
        loop = asyncio.get_running_loop()
        until = loop.time() + CALL_SECONDS
        tries = 0
        renewed = False
        while True:
            member = self.current
            try:
                seconds = min(TRY_SECONDS * 2**tries, MAX_TRY_SECONDS, until - loop.time())
                return await self.guarded(self._attempt(member, attempt, seconds))
            except grpc.aio.AioRpcError as error:
                if not renewed and is_stale_token(error):
                    renewed = True
                    self.forget_token()
                    continue
                if error.code() not in _PASSING:
                    raise refusal(error) from error
                failure = error
            self.turn_from(member)
            tries += 1
            pause = self._pause(tries)
            if loop.time() + pause >= until:
                raise self._unanswered(failure, writes=writes) from failure
            await asyncio.sleep(pause)

    async def ask(self, method: Callable[[Member], Any], request: Any) -> Any:
        """Return the answer to one request that does no harm when it is made twice. Raises StoreError."""
        return await self.call(
            lambda member, metadata, seconds: method(member)(request, metadata=metadata, timeout=seconds)
        )

    async def ask_all(self, method: Callable[[Member], Any], request: Any) -> Sequence[bool]:
        """Say of every member whether it answers one request within TRY_SECONDS. Raises StoreError when closed."""

        async def answers(member: Member) -> bool:
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    await method(member)(request, metadata=await self.metadata(member))
            except (grpc.aio.AioRpcError, TimeoutError):
                return False
            return True

        async def together() -> Sequence[bool]:
            return await asyncio.gather(*map(answers, self._members))

        return await self.guarded(together())

    async def metadata(self, member: Member) -> list[tuple[str, str]]:
        """Return what is to be sent along with every call: the token, where there is a user."""
        if not self._url.user:
            return []
        async with self._login:
            if self._token is None:
                request = rpc.AuthenticateRequest(name=self._url.user, password=self._url.password)
                try:
                    self._token = (await member.auth.Authenticate(request, timeout=MAX_TRY_SECONDS)).token
                except grpc.aio.AioRpcError as error:
                    if "authentication is not enabled" not in (error.details() or ""):
                        raise
                    _log.warning("etcd does not ask for the user that is configured", user=self._url.user)
                    self._token = ""
            return [("token", self._token)] if self._token else []

    def forget_token(self) -> None:
        """Log in again with the next call."""
        self._token = None

    @contextlib.asynccontextmanager
    async def stream(self, member: Member) -> AsyncIterator[Any]:
        """Give a stream of watches at a member. What it raises is for the caller."""
        metadata = [*await self.metadata(member), ("hasleader", "true")]
        self.require_open()
        call = member.watch.Watch(metadata=metadata)
        try:
            yield call
        finally:
            call.cancel()

    async def guarded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await `work` so that closing the store ends it: with a StoreError, not as if the caller were cancelled."""
        if self._closed:
            work.close()
            self.require_open()
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        self._running.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._ended and task.uncancel() <= cancelled:
                raise StoreError("the store is closed") from None
            raise
        finally:
            self._running.discard(task)
            self._ended.discard(task)

    async def close(self) -> None:
        """End all calls and hang up."""
        self._closed = True
        self._ended = set(self._running)
        for task in self._ended:
            task.cancel()
        await asyncio.sleep(0)  # lets them see it before the channels cancel what they wait for
        for member in self._members:
            await member.channel.close()

    async def _attempt(self, member: Member, attempt: Attempt, seconds: float) -> Any:
        return await attempt(member, await self.metadata(member), seconds)

    def _pause(self, tries: int) -> float:
        """Return how long to wait: not at all until every member was asked, then ever longer after each round."""
        rounds, within = divmod(tries, len(self._members))
        return float(min(PAUSE_SECONDS * 2**rounds, MAX_PAUSE_SECONDS)) if within == 0 else 0.0

    def _unanswered(self, error: grpc.aio.AioRpcError, *, writes: bool) -> StoreError:
        why = (error.details() or error.code().name).strip()
        text = f"etcd ({self.names}) did not answer within {CALL_SECONDS:.0f} s: {why}"
        if writes:
            return OutcomeUnknown(f"{text}; whether the commit was written will be known when it answers again")
        return StoreError(f"{text}; check that most of its members run and can be reached from here")


def is_stale_token(error: grpc.aio.AioRpcError) -> bool:
    """Say whether logging in again may help: tokens end by time, and with changes of users."""
    details = error.details() or ""
    return any(text in details for text in _STALE_TOKEN)


def refusal(error: grpc.aio.AioRpcError) -> StoreError:
    """Return what to tell of an error that trying again does not help."""
    details = (error.details() or error.code().name).strip()
    if "required revision has been compacted" in details:
        return Compacted(0)
    if "requested lease not found" in details:
        return LeaseGone("the lease has ended")
    return StoreError(told(details))


def told(details: str) -> str:
    """Return what to tell of what etcd says: what to do, where that is known."""
    return next((hint for text, hint in _HINTS if text in details), f"etcd refused: {details}")
