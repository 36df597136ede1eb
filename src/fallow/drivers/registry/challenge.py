"""What a registry asks for with 401: `WWW-Authenticate` (RFC 9110, 11.6.1; RFC 6750; the distribution token scheme)."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_HEADER = 4096
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?: +|(?=,)|\Z)")
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))')
_COMMA = re.compile(r"[ \t]*,[ \t,]*")


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants the login itself."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token of `realm` (a URL) for `service`."""

    realm: str
    service: str


def parse_challenge(header: str, *, insecure: bool) -> Bearer | Basic:
    """Read a challenge and return the first way in that we know.

    Raises ValueError: for what is malformed, for no way that we know, and for a realm that is not an https URL, unless
    the registry is `insecure`. A realm is where the login goes: it must not be left to guessing.
    """
    for scheme, parameters in _challenges(header):
        if scheme == "bearer":
            return Bearer(_realm(parameters, insecure=insecure), parameters.get("service", ""))
        if scheme == "basic":
            return Basic()
    raise ValueError("the registry asks for a kind of login that we do not know")


def _realm(parameters: dict[str, str], *, insecure: bool) -> str:
    realm = parameters.get("realm", "")
    url = urlsplit(realm)
    if not realm.isascii() or any(each <= " " or each in "\\\x7f" for each in realm):
        raise ValueError("where the registry wants us to get a token is no URL")
    if url.scheme not in (("https", "http") if insecure else ("https",)):
        raise ValueError(f"the registry wants us to get a token at {realm[:100]!r}, which is not https")
    if not url.hostname or url.username is not None or url.password is not None or url.fragment:
        raise ValueError("where the registry wants us to get a token is no plain URL")
    return realm


def _challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Split `Bearer a="1",b=2, Basic realm="x"`; commas are between parameters and between challenges alike."""
    if len(header) > MAX_HEADER:
        raise ValueError("what the registry asks for is too long")
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(header):
        parameter = _PARAMETER.match(header, at)
        scheme = None if parameter is not None and found else _SCHEME.match(header, at)
        if parameter is not None and found:
            name = parameter[1].lower()
            if name in found[-1][1]:
                raise ValueError(f"the registry says {name!r} twice")
            found[-1][1][name] = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[3] is None else parameter[3]
            at = parameter.end()
        elif scheme is not None:
            found.append((scheme[1].lower(), {}))
            at = scheme.end()
        else:
            raise ValueError("what the registry asks for cannot be read")
        comma = _COMMA.match(header, at)
        if comma is None and at < len(header) and parameter is not None:
            raise ValueError("what the registry asks for cannot be read")
        at = comma.end() if comma is not None else at
    return found
