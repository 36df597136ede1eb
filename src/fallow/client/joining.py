"""Joining a cluster and renewing a certificate: the requests a machine makes before it has a session.

A machine that joins knows one thing about its control plane: the hash of the CA's key, from its token. It asks for the
CA's certificate without trusting anybody, compares, checks that the very server it is connected to was vouched for by
that CA, and only then sends its secret, on the same connection: no other server can have taken its place.
"""

import asyncio
import base64
import hmac
import ipaddress
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from http import HTTPStatus
from typing import Any, TypeVar

import h11
import httpx
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from fallow.client.errors import BadAnswer, ClientError, Unreachable, Untrusted
from fallow.client.transport import CONNECT_SECONDS, READ_SECONDS, problem_of, tls_context
from fallow.model.credentials import SERVER_NAME, JoinCredential
from fallow.model.members import Identity, JoinRequest, RenewRequest
from fallow.model.problems import Problem
from fallow.model.registrations import BUNDLE_CONTEXT, JoinWaiting, SignedBundle
from fallow.version import VERSION

T = TypeVar("T")

MAX_ANSWER_BYTES = 256 * 1024
PIECE_BYTES = 65536


class JoinError(ClientError):
    """The control plane refused; `problem` says why and what to do next."""

    def __init__(self, problem: Problem) -> None:
        words = [problem.title, problem.detail, problem.hint, *problem.errors]
        super().__init__(": ".join(word for word in words if word))
        self.problem = problem


def join_url(text: str) -> str:
    """Return the URL as `https://host:port`; the scheme may be left out. Raises ValueError."""
    url = text if "://" in text else f"https://{text}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from None
    if parsed.scheme != "https" or not parsed.host or parsed.query or parsed.fragment or parsed.userinfo:
        raise ValueError(f"{text!r} is not the URL of a control plane (example: https://control.example:7443)")
    return url.rstrip("/")


def ca_key_sha256(ca_pem: str) -> str:
    """Return the hex SHA-256 of a certificate's public key (DER SPKI). Raises ValueError."""
    key = x509.load_pem_x509_certificate(ca_pem.encode()).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def reached_at(request: JoinRequest, address: str, port: int) -> JoinRequest:
    """Return the request with where its sender is reached, as far as it knows and as it means something to others."""
    found = ipaddress.ip_address(address)
    if found.is_loopback or found.is_link_local:
        return request
    return msgspec.structs.replace(request, temporary_address=address, temporary_port=port)


def signed(request: JoinRequest, key: ec.EllipticCurvePrivateKey) -> SignedBundle:
    """Return what is sent: the request as text, and its signature by the key of who joins."""
    text = msgspec.json.encode(request).decode()
    signature = key.sign(BUNDLE_CONTEXT + text.encode(), ec.ECDSA(hashes.SHA256()))
    return SignedBundle(bundle=text, signature=base64.b64encode(signature).decode())


async def fetch_ca(url: str, ca_sha256: str) -> str:
    """Return the CA's certificate (PEM), from a server that it vouches for; checked against `ca_sha256`.

    Raises Unreachable, JoinError, BadAnswer, and Untrusted when it is another CA than the token was made for.
    """
    async with Line(join_url(url), _unverified()) as line:
        return await _trusted_ca(line, ca_sha256)


async def join(
    url: str, credential: JoinCredential, bundle: Callable[[str, int], SignedBundle]
) -> Identity | JoinWaiting:
    """Ask to become a member and return who we are, or that somebody has to approve it first.

    `bundle` makes what is sent, with the token's text in it, once the server is known to be the right one; it is given
    the address and port that this machine has on the connection. Asking again with the same key gives the same
    identity. Raises Unreachable, Untrusted, BadAnswer and JoinError.
    """
    async with Line(join_url(url), _unverified()) as line:
        await _trusted_ca(line, credential.ca_sha256)
        body = await line.ask("POST", "/v1/join", msgspec.json.encode(bundle(*line.own_address)))
        waits = line.status == HTTPStatus.ACCEPTED
        return _decoded(line.base, body, JoinWaiting) if waits else _decoded(line.base, body, Identity)


async def renew(url: str, ca_pem: str, request: RenewRequest) -> Identity:
    """Ask for a new certificate for a key the control plane knows. Raises as `join`."""
    async with Line(join_url(url), tls_context(ca_pem)) as line:
        return _decoded(line.base, await line.ask("POST", "/v1/renew", msgspec.json.encode(request)), Identity)


def check_server(base: str, shown: bytes, ca: x509.Certificate, now: float) -> None:
    """Check that `shown`, the certificate (DER) of a TLS server, is a control plane's and issued by `ca`.

    TLS itself has proved that the server holds its key. `now` in UTC seconds. Raises Untrusted.
    """
    try:
        leaf = x509.load_der_x509_certificate(shown)
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        vouches = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound):
        raise Untrusted(base, "its certificate is not issued by its CA; somebody may be in between") from None
    named = SERVER_NAME in names.get_values_for_type(x509.DNSName)
    if not (vouches and named and ExtendedKeyUsageOID.SERVER_AUTH in usages):
        raise Untrusted(base, "its certificate is not that of a control plane; somebody may be in between")
    for certificate in (leaf, ca):
        begins = certificate.not_valid_before_utc.timestamp()
        ends = certificate.not_valid_after_utc.timestamp()
        if not begins <= now <= ends:
            raise Untrusted(
                base,
                f"its certificate is valid from {_utc(begins)} to {_utc(ends)}, and this machine's clock says "
                f"{_utc(now)}: set the clock",
            )


class Line:
    """One connection to a control plane, for a few requests in turn; never opened again by itself."""

    def __init__(self, base: str, context: ssl.SSLContext) -> None:
        self.base = base
        self.status = 0
        self._context = context
        self._http = h11.Connection(h11.CLIENT)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> "Line":
        """Connect; the server must prove to be SERVER_NAME if the context asks. Raises Unreachable and Untrusted."""
        url = httpx.URL(self.base)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(
                    url.host, url.port or 443, ssl=self._context, server_hostname=SERVER_NAME
                )
        except (OSError, TimeoutError) as error:
            raise _failure(self.base, error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    @property
    def shown(self) -> bytes:
        """Return the certificate the server has shown, DER."""
        return bytes(self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")

    @property
    def own_address(self) -> tuple[str, int]:
        """Return the address and port of this machine on the connection."""
        name = self._writer.get_extra_info("sockname")
        return str(name[0]).partition("%")[0], int(name[1])

    async def ask(self, method: str, path: str, content: bytes = b"") -> bytes:
        """Send one request and return the body of a success. Raises JoinError, BadAnswer and Unreachable."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._ask(method, path, content)
        except (OSError, TimeoutError) as error:
            raise _failure(self.base, error) from error
        except (h11.LocalProtocolError, h11.RemoteProtocolError) as error:
            raise Unreachable(self.base, f"it does not answer as a control plane does: {error}") from error

    async def _ask(self, method: str, path: str, content: bytes) -> bytes:
        url = httpx.URL(self.base)
        headers = [("Host", url.netloc.decode()), ("User-Agent", f"fallow/{VERSION}")]
        if content:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = h11.Request(method=method, target=url.path.rstrip("/") + path, headers=headers)
        sent = [self._http.send(request), self._http.send(h11.Data(content)), self._http.send(h11.EndOfMessage())]
        self._writer.write(b"".join(part or b"" for part in sent))
        await self._writer.drain()
        response, body = await self._answer()
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            kind = dict(response.headers).get(b"content-type", b"").decode("latin-1")
            whole = httpx.Response(response.status_code, headers={"content-type": kind}, content=body)
            raise JoinError(problem_of(whole))
        self.status = response.status_code
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return body

    async def _answer(self) -> tuple[h11.Response, bytes]:
        response, body = None, b""
        while True:
            event: Any = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(PIECE_BYTES))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_ANSWER_BYTES:
                    raise BadAnswer(self.base, f"it is longer than {MAX_ANSWER_BYTES} bytes")
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                return response, body
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("it closed the connection")


async def _trusted_ca(line: Line, ca_sha256: str) -> str:
    """Return the CA's certificate (PEM) once it is the right one and has issued the server's. Raises ClientError."""
    body = await line.ask("GET", "/v1/ca")
    try:
        pem = body.decode("ascii")
        ca, found = x509.load_pem_x509_certificate(body), ca_key_sha256(pem)
    except ValueError:
        raise BadAnswer(line.base, "what it calls its CA is not a certificate; is this a control plane?") from None
    if not hmac.compare_digest(found, ca_sha256):
        raise Untrusted(line.base, "its CA is not the one this token was made for; a wrong URL, or somebody in between")
    check_server(line.base, line.shown, ca, time.time())
    return pem


def _unverified() -> ssl.SSLContext:
    """Return a context that trusts everybody: what it leads to is checked before anything secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _decoded(base: str, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(base, str(error)) from None


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _failure(base: str, error: BaseException) -> ClientError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Untrusted(base, error.verify_message or "its certificate does not verify")
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(base, "nothing listens there (connection refused)")
    if isinstance(error, TimeoutError):
        return Unreachable(base, "it did not answer in time")
    if isinstance(error, ssl.SSLError):
        return Unreachable(base, "it does not speak TLS as a control plane does")
    return Unreachable(base, str(error) or type(error).__name__)
