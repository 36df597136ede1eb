"""Requests to registries: who we are is told where it is asked for, and redirects lead it nowhere else."""

import base64
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
import msgspec
from yarl import URL

from fallow.drivers.registry.answers import refusal
from fallow.drivers.registry.challenge import Basic, Bearer, parse_challenge
from fallow.drivers.registry.contract import Access, RegistryError
from fallow.model.images import RegistryLogin
from fallow.model.references import DEFAULT_REGISTRY

MAX_REDIRECTS = 5
MAX_TOKEN_BYTES = 64 * 1024
MAX_PASSES = 1000
BASIC_SECONDS = 300.0
MIN_TOKEN_SECONDS = 60.0  # what a token is good for when it does not say (the distribution token specification)
MAX_TOKEN_SECONDS = 3600.0
CONNECTIONS_PER_HOST = 16
_DOCKER_HUB = "registry-1.docker.io"  # where the registry that references call docker.io is


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long to wait: for a connection, for the next byte, and for an answer that is read whole."""

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    whole_seconds: float = 60.0


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float = 0.0


@dataclass(frozen=True, slots=True)
class _Pass:
    """What to send as Authorization, and until when, by the steady clock."""

    authorization: str
    until: float


_Key = tuple[Access, str]  # and the repository


class Requests:
    """The HTTP client of registries. `clock` gives UTC seconds, `steady` seconds that nobody sets."""

    def __init__(
        self, timeouts: Timeouts, clock: Callable[[], float], steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._steady = steady
        self._session: aiohttp.ClientSession | None = None
        self._passes: dict[_Key, _Pass] = {}

    async def open(
        self, access: Access, repository: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Return the answer to a GET below `/v2/`, whatever its status, not yet read. Raises RegistryError.

        Also raises what the client raises; see `failures.translated`.
        """
        url = _url(access, repository, path)
        key = (access, repository)
        known = self._passes.get(key)
        authorization = known.authorization if known is not None and known.until > self._steady() else ""
        response = await self._get(access, url, headers, authorization)
        if response.status != 401 or response.url.origin() != url.origin():
            return response
        asked = response.headers.getall("WWW-Authenticate", [])
        try:
            challenge = parse_challenge(", ".join(asked), insecure=access.insecure)
        except ValueError as error:
            response.close()
            raise RegistryError("denied", f"{access.host}: {error}") from None
        if isinstance(challenge, Basic) and access.login is None:
            return response  # its own words say it best
        response.close()
        made = await self._pass(access, repository, challenge)
        if len(self._passes) >= MAX_PASSES:
            self._passes.clear()
        self._passes[key] = made
        return await self._get(access, url, headers, made.authorization)

    def secrets(self, access: Access) -> tuple[str, ...]:
        """Return what must not be repeated of what a registry was told."""
        login = access.login
        own = () if login is None else (login.password, _basic(login).partition(" ")[2])
        tokens = (
            each.authorization.partition(" ")[2] for key, each in self._passes.items() if key[0].host == access.host
        )
        return (*own, *tokens)

    async def close(self) -> None:
        """Release connections."""
        self._passes.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _pass(self, access: Access, repository: str, challenge: Basic | Bearer) -> _Pass:
        if isinstance(challenge, Basic):
            assert access.login is not None
            return _Pass(_basic(access.login), self._steady() + BASIC_SECONDS)
        query = {"service": challenge.service} if challenge.service else {}
        if repository:
            query["scope"] = f"repository:{repository}:pull"  # not what the registry says: no more than we need
        url = URL(challenge.realm).update_query(query)
        headers = {"Authorization": _basic(access.login)} if access.login is not None else {}
        what = f"{access.host}: a token of {url.host}"
        async with await self._ask(access, url, headers) as response:
            body = await response.content.read(MAX_TOKEN_BYTES)
            if response.status != 200:
                raise refusal(what, response.status, response.headers, body, self.secrets(access), self._clock())
        try:
            found = msgspec.json.decode(body, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RegistryError("failed", f"{what}: what came is no token") from None
        token = found.token or found.access_token
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryError("failed", f"{what}: what came is no token")
        lasts = min(max(found.expires_in, MIN_TOKEN_SECONDS), MAX_TOKEN_SECONDS)
        return _Pass(f"Bearer {token}", self._steady() + lasts * 0.8)

    async def _get(
        self, access: Access, url: URL, headers: Mapping[str, str], authorization: str
    ) -> aiohttp.ClientResponse:
        """Follow redirects; who we are goes only where the first request goes."""
        home = url.origin()
        for _ in range(MAX_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization and url.origin() == home else {}
            response = await self._ask(access, url, {**headers, **own})
            if response.status not in (301, 302, 303, 307, 308):
                return response
            place = response.headers.get("Location", "")
            response.close()
            url = _redirected(url, place)
        raise RegistryError("failed", f"{home}: it only sends us from place to place")

    async def _ask(self, access: Access, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        trusted = _trusting(access.ca_pem) if access.ca_pem else True
        proxy = access.proxy or None
        return await self._client().get(url, headers=headers, allow_redirects=False, ssl=trusted, proxy=proxy)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeouts = self._timeouts
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=timeouts.connect_seconds, sock_read=timeouts.stall_seconds
                ),
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_HOST),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "fallow"},
            )
        return self._session


@lru_cache(maxsize=64)
def _trusting(ca_pem: str) -> ssl.SSLContext:
    """Return the system's rules of trust with these certificates added. Raises ssl.SSLError."""
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=ca_pem)
    return context


def _url(access: Access, repository: str, path: str) -> URL:
    scheme = "http" if access.insecure else "https"
    host = _DOCKER_HUB if access.host == DEFAULT_REGISTRY else access.host
    return URL(f"{scheme}://{host}/v2/{repository}{'/' if repository else ''}{path}", encoded=True)


def _redirected(url: URL, place: str) -> URL:
    """Return where a redirect leads. Raises RegistryError."""
    try:
        target = url.join(URL(place, encoded=True))
        fit = bool(place) and target.host is not None and target.user is None and target.password is None
    except ValueError:
        fit = False
    if not fit:
        raise RegistryError("failed", f"{url.origin()}: it sends us to a place that is no URL")
    if target.scheme not in ("https", "http") or (url.scheme == "https" and target.scheme != "https"):
        raise RegistryError("failed", f"{url.origin()}: it sends us on to a place that is not safe ({target.scheme})")
    return target


def _basic(login: RegistryLogin) -> str:
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
