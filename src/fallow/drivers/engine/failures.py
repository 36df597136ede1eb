"""What an engine's refusals mean. Docker and Podman say them by status and, more often, only in words."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import aiodocker
import aiohttp

from fallow.drivers.engine.contract import EngineError, ErrorKind

_CANNOT_CONNECT = 900  # aiodocker's status when there was no answer at all
_SHORTEST_SECRET = 6  # shorter values occur in any text, and hiding them would hide the text

# First match wins; the texts are lower case.
_WORDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    ("no-space", ("no space left on device", "disk quota exceeded")),
    ("port-in-use", ("port is already allocated", "address already in use", "cannot listen on the")),
)
_PULL_WORDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    ("rate-limited", ("toomanyrequests", "too many requests", "rate limit")),
    (
        "wrong-platform",
        ("no matching manifest for", "no image found in", "does not match the specified platform", "choosing an image"),
    ),
    (
        "denied",
        (
            "unauthorized",
            "authentication required",
            "no basic auth credentials",
            "access denied",
            "denied:",
            "403 (forbidden)",
            "incorrect username or password",
        ),
    ),
    ("not-found", ("manifest unknown", "name unknown", "manifest for", "repository name not known")),
    ("bad-request", ("invalid reference format", "normalizing name")),
    (
        "wrong-content",
        (
            "filesystem layer verification failed",
            "digest did not match",
            "does not match config digest",
            "did not match expected digest",
            "manifest verification failed",
            "does not match digest",
            "cannot validate manifest",
            "does not match provided manifest digest",
        ),
    ),
    (
        "registry-unreachable",
        (
            "dial tcp",
            "no such host",
            "connection refused",
            "connection reset",
            "i/o timeout",
            "tls handshake timeout",
            "awaiting headers",
            "request canceled while waiting",
            "unexpected eof",
            "x509:",
            "server gave http response",
            "unexpected http status",
            "internal server error",
            "bad gateway",
            "service unavailable",
            "gateway timeout",
            "pinging container registry",
        ),
    ),
)
_LOAD_WORDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    (
        "bad-request",
        (
            "unexpected eof",
            "archive/tar",
            "invalid tar header",
            "does not match any of the supported image formats",
            "no such file or directory",
            "invalid archive",
            "invalid character",
            "does not contain",
            "gzip:",
        ),
    ),
)
_OTHER_WORDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    (
        "in-use",
        ("is using its referenced image", "image is in use by", "image is being used by", "image used by"),
    ),
    ("not-found", ("no such image", "image not known", "no such container")),
    ("conflict", ("already in use", "container state improper", "is already in progress")),
    (
        "bad-request",
        (
            "unknown capability",
            "invalid reference format",
            "invalid container path",
            "invalid environment variable",
            "no such file or directory",
            "executable file not found",
            "minimum memory limit",
            "unable to set memory limit",
        ),
    ),
)
_STATUS: dict[int, ErrorKind] = {
    _CANNOT_CONNECT: "unreachable",
    400: "bad-request",
    401: "denied",
    403: "denied",
    404: "not-found",
    409: "conflict",
}


_WORDS_OF: dict[str, tuple[tuple[ErrorKind, tuple[str, ...]], ...]] = {
    "": _OTHER_WORDS,
    "pull": _PULL_WORDS,
    "load": _LOAD_WORDS,
}
_RETRY_AFTER = re.compile(r"retry[- ]after:?\s*\"?(\d{1,5})", re.IGNORECASE)
_LONGEST_RETRY_SECONDS = 86_400.0

Doing = Literal["", "pull", "load"]


def kind_of(status: int, text: str, doing: Doing = "") -> ErrorKind:
    """Sort a refusal. `status` is HTTP's, or 0 when it came inside a stream that began well."""
    if status == _CANNOT_CONNECT:
        return "unreachable"
    lower = text.lower()
    for kind, phrases in (*_WORDS, *_WORDS_OF[doing]):
        if any(phrase in lower for phrase in phrases):
            return kind
    return _STATUS.get(status, "failed")


def retry_after(text: str) -> float:
    """Return how many seconds a registry asked to be left alone, where an engine repeats it; 0 when it does not."""
    found = _RETRY_AFTER.search(text)
    return min(float(found[1]), _LONGEST_RETRY_SECONDS) if found else 0.0


def without(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every secret replaced, since engines like to repeat what they were given."""
    for secret in sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


@contextmanager
def translated(*, secrets: Iterable[str] = (), doing: Doing = "") -> Iterator[None]:
    """Turn what the client raises into EngineError, whose text has none of `secrets`."""
    try:
        yield
    except aiodocker.DockerError as error:
        kind = kind_of(error.status, error.message, doing)
        raise EngineError(kind, without(_text(error), secrets), retry_after(error.message)) from None
    except TimeoutError:
        raise EngineError("unreachable", "the engine did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise EngineError("unreachable", without(f"the engine cannot be reached: {error}", secrets)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError("failed", f"the engine's answer makes no sense: {type(error).__name__}") from None


def _text(error: aiodocker.DockerError) -> str:
    """Return the engine's own words, or the reason in brackets when aiodocker had no answer."""
    if error.status == _CANNOT_CONNECT:
        reason = error.message.partition("[")[2].rpartition("]")[0]
        return f"the engine cannot be reached: {reason or error.message}"
    return error.message.strip()
