"""What registries answer when they refuse, sorted, and in words that hold no credential and no control character."""

import email.utils
import unicodedata
from collections.abc import Iterable, Mapping

import msgspec

from fallow.drivers.registry.contract import MAX_RETRY_AFTER_SECONDS, RegistryError
from fallow.model.images import ImageErrorKind

MAX_TEXT = 500
_SHORTEST_SECRET = 4  # a shorter one is a word like any other

_KINDS: dict[int, ImageErrorKind] = {
    400: "bad-request",
    401: "denied",
    403: "denied",
    404: "not-found",
    405: "bad-request",
    416: "bad-request",
    429: "rate-limited",
}
# A registry's own code says more than its status: Docker Hub answers 401 for what is not there.
_CODES: dict[str, ImageErrorKind] = {
    "TOOMANYREQUESTS": "rate-limited",
    "MANIFEST_UNKNOWN": "not-found",
    "NAME_UNKNOWN": "not-found",
    "BLOB_UNKNOWN": "not-found",
}


class _Fault(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct, frozen=True):
    errors: tuple[_Fault, ...] = ()


def refusal(
    what: str, status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str], now: float
) -> RegistryError:
    """Return the error for an answer other than the one hoped for; `what` names what was asked for, `now` is UTC."""
    try:
        faults = msgspec.json.decode(body, type=_Faults).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        faults = ()
    kind: ImageErrorKind = _KINDS.get(status, "unreachable" if status >= 500 else "failed")
    for fault in faults:
        kind = _CODES.get(fault.code, kind)
    told = "; ".join(fault.message or fault.code for fault in faults if fault.message or fault.code)
    said = f": {told}" if told else ""
    text = without(f"{what}: the registry answered {status}{said}", secrets)
    return RegistryError(kind, text, retry_after(headers.get("Retry-After", ""), now))


def retry_after(value: str, now: float) -> float:
    """Read `Retry-After` (RFC 9110, 10.2.3), seconds or a date, as seconds from `now` on; 0 when it is neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_SECONDS)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, at - now), MAX_RETRY_AFTER_SECONDS)


def without(text: str, secrets: Iterable[str]) -> str:
    """Return words of others fit for logs: without secrets, since registries may repeat them, on one line, and cut."""
    for secret in sorted({one for one in secrets if len(one) >= _SHORTEST_SECRET}, key=len, reverse=True):
        text = text.replace(secret, "***")
    printable = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in text)
    return " ".join(printable.split())[:MAX_TEXT]
