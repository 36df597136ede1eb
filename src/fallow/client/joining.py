"""Joining a cluster and renewing a certificate: the requests a machine makes before it has a session.

A machine that joins knows one thing about its control plane: the hash of the CA's key, from its token. It fetches the
CA's certificate without trusting anybody, compares, and sends its secret only to a server that the CA vouches for.
"""

import hmac
import ssl
from hashlib import sha256
from http import HTTPStatus

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fallow.client.errors import BadAnswer, ClientError, Unreachable, Untrusted
from fallow.client.transport import CONNECT_SECONDS, READ_SECONDS, problem_of, tls_context
from fallow.model.credentials import SERVER_NAME, JoinCredential
from fallow.model.members import Identity, JoinRequest, RenewRequest
from fallow.model.problems import Problem
from fallow.version import VERSION

MAX_ANSWER_BYTES = 256 * 1024


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


async def fetch_ca(url: str, ca_sha256: str) -> str:
    """Return the CA's certificate (PEM), fetched from an unverified server and checked against `ca_sha256`.

    Raises Unreachable, JoinError, and Untrusted when it is another CA than the token was made for.
    """
    base = join_url(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing secret is sent, and what is received is checked below
    body = await _ask(base, "GET", "/v1/ca", context, None)
    try:
        pem = body.decode("ascii")
        found = ca_key_sha256(pem)
    except ValueError:
        raise BadAnswer(base, "what it calls its CA is not a certificate; is this a control plane?") from None
    if not hmac.compare_digest(found, ca_sha256):
        raise Untrusted(base, "its CA is not the one this token was made for; a wrong URL, or somebody in between")
    return pem


async def join(url: str, credential: JoinCredential, request: JoinRequest) -> Identity:
    """Ask to become a member and return who we are. `request` carries the token's text.

    Sending the same request twice gives the same identity as long as the key is the same.
    Raises Unreachable, Untrusted, BadAnswer and JoinError.
    """
    ca_pem = await fetch_ca(url, credential.ca_sha256)
    return await _identity(url, ca_pem, "/v1/join", request)


async def renew(url: str, ca_pem: str, request: RenewRequest) -> Identity:
    """Ask for a new certificate for a key the control plane knows. Raises as `join`."""
    return await _identity(url, ca_pem, "/v1/renew", request)


async def _identity(url: str, ca_pem: str, path: str, request: JoinRequest | RenewRequest) -> Identity:
    base = join_url(url)
    body = await _ask(base, "POST", path, tls_context(ca_pem), msgspec.json.encode(request))
    try:
        return msgspec.json.decode(body, type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(base, str(error)) from None


async def _ask(base: str, method: str, path: str, context: ssl.SSLContext, content: bytes | None) -> bytes:
    """Send one request and return the body of a success. The server must prove to be SERVER_NAME if `context` asks."""
    headers = {"User-Agent": f"fallow/{VERSION}"}
    if content is not None:
        headers["Content-Type"] = "application/json"
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    extensions = {"sni_hostname": SERVER_NAME}
    # Proxies of the environment are not used: the session that follows goes directly, too.
    async with httpx.AsyncClient(verify=context, timeout=timeout, trust_env=False, headers=headers) as http:
        try:
            async with http.stream(method, base + path, content=content, extensions=extensions) as response:
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise BadAnswer(base, f"it is longer than {MAX_ANSWER_BYTES} bytes")
        except httpx.HTTPError as error:
            raise _failure(base, error) from error
    if response.status_code not in (HTTPStatus.OK, HTTPStatus.CREATED):
        whole = httpx.Response(response.status_code, headers=_content_type(response), content=body)
        raise JoinError(problem_of(whole))
    return body


def _content_type(response: httpx.Response) -> dict[str, str]:
    return {"content-type": response.headers.get("content-type", "")}


def _failure(base: str, error: httpx.HTTPError) -> ClientError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(base, cause.verify_message or "its certificate does not verify")
        if isinstance(cause, ConnectionRefusedError):
            return Unreachable(base, "nothing listens there (connection refused)")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(base, "it did not answer in time")
    return Unreachable(base, str(error) or type(error).__name__)
