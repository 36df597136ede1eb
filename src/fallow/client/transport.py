"""One HTTP connection pool to a control plane: whom it trusts, and what its failures mean."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from fallow.client.addresses import FirstReached, check_urls
from fallow.client.errors import ApiError, ClientError, Unreachable, Untrusted
from fallow.model.credentials import SERVER_NAME
from fallow.model.problems import Problem
from fallow.version import VERSION

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
IDLE_SECONDS = 2.0  # a connection is kept; the control plane closes it after five, perhaps just as it is used again

_problem = msgspec.json.Decoder(Problem)


def part(text: str) -> str:
    """Return a name as one part of a path, whatever is in it."""
    return quote(text, safe="")


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Return a context that trusts `ca_pem` alone, or the system's authorities when it is empty.

    Raises ValueError when `ca_pem` holds no certificate.
    """
    if not ca_pem:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks name and chain
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError):
        raise ValueError("the CA is not a certificate in PEM form") from None
    return context


class Transport:
    """Sends requests and turns every failure into a ClientError.

    With a CA of its own the server must prove to be SERVER_NAME, whatever host the URL names; without one the system's
    authorities and the URL's host count. Proxies and netrc of the environment are not used: neither may see the token.
    """

    def __init__(
        self,
        url: str,
        token: str,
        ca_pem: str,
        *,
        seconds: float = READ_SECONDS,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        """Take one URL, or several with commas. Raises ValueError when one, the token or the CA is unusable."""
        self._urls = check_urls(url)
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ValueError("the API token has characters no token has; it may have been copied with a line break")
        self._extensions = {"sni_hostname": SERVER_NAME} if ca_pem else {}
        self._seconds = seconds
        headers = {"User-Agent": f"fallow/{VERSION}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._addresses = FirstReached(self._urls, inner or _connections(self._urls[0], ca_pem))
        self._http = httpx.Client(
            base_url=self._urls[0],
            headers=headers,
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            trust_env=False,
            transport=self._addresses,
        )

    @property
    def url(self) -> str:
        """Return the address that was asked last; the first one until then."""
        return self._addresses.url

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        if_match: int | None = None,
        key: str = "",
    ) -> httpx.Response:
        """Send one request and return the whole answer, whose status is a success; the same `key` does it once.

        Raises ClientError.
        """
        headers = {"Accept": "application/json", **({"Idempotency-Key": key} if key else {})}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        with self._failures():
            response = self._http.request(
                method, path, params=query, content=content, headers=headers, extensions=dict(self._extensions)
            )
        if not response.is_success:
            raise ApiError(problem_of(response))
        return response

    def upload(
        self,
        path: str,
        pieces: Iterator[bytes],
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        seconds: float,
    ) -> httpx.Response:
        """Send a long body piece by piece and return the answer, which may take up to `seconds`.

        Nothing is repeated: `pieces` can be read only once. Raises ClientError.
        """
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, self._seconds), write=self._seconds)
        with self._failures():
            response = self._http.post(
                path,
                params=query,
                content=pieces,
                headers={**headers, "Accept": "application/json"},
                timeout=timeout,
                extensions=dict(self._extensions),
            )
        if not response.is_success:
            raise ApiError(problem_of(response))
        return response

    @contextmanager
    def stream(
        self, path: str, *, query: Mapping[str, str], headers: Mapping[str, str], silence_seconds: float | None
    ) -> Iterator[Iterator[bytes]]:
        """Yield the pieces of a long answer as they arrive; more silence than `silence_seconds` is a failure.

        Raises ClientError, also while the pieces are read.
        """
        timeout = httpx.Timeout(silence_seconds, connect=min(CONNECT_SECONDS, self._seconds), write=self._seconds)
        with (
            self._failures(),
            self._http.stream(
                "GET",
                path,
                params=query,
                headers=dict(headers),
                timeout=timeout,
                extensions=dict(self._extensions),
            ) as response,
        ):
            if not response.is_success:
                response.read()
                raise ApiError(problem_of(response))
            yield response.iter_bytes()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        except httpx.InvalidURL as error:
            raise Unreachable(self.url, str(error)) from error

    def _failure(self, error: httpx.HTTPError) -> ClientError:
        nowhere = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        url = ", ".join(self._urls) if nowhere else self.url
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Untrusted(url, cause.verify_message or "its certificate does not verify")
            if isinstance(cause, ssl.SSLError):
                return Unreachable(url, "it does not speak TLS as a control plane does")
            if isinstance(cause, ConnectionRefusedError):
                return Unreachable(url, "nothing listens there (connection refused)")
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(url, "it did not answer in time")
        return Unreachable(url, str(error) or type(error).__name__)


def _connections(url: str, ca_pem: str) -> httpx.HTTPTransport:
    # Loading the system's authorities takes longer than a request; plain HTTP, to this machine, trusts none.
    trusted = tls_context(ca_pem) if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.HTTPTransport(verify=trusted, limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS), trust_env=False)


def peer_certificate(url: str, ca_pem: str) -> float | None:
    """Return when the certificate shown at `url` ends, in UTC seconds; None over plain HTTP. Raises ClientError."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return None
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 443), timeout=CONNECT_SECONDS) as plain,
            tls_context(ca_pem).wrap_socket(plain, server_hostname=SERVER_NAME if ca_pem else parts.hostname) as secure,
        ):
            shown = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(url, error.verify_message) from error
    except OSError as error:
        raise Unreachable(url, str(error)) from error
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem an answer tells of; one is made up from the status when something else answered."""
    try:
        return _problem.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = response.status_code
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "(a status of its own)"
        plain = response.headers.get("content-type", "").startswith("text/plain")
        return Problem(
            type="about:blank",
            title=f"the server answered {status} {phrase}",
            status=status,
            detail=response.text[:500].strip() if plain else "",
        )
