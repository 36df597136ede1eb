"""Host names and URL paths, kept to what can be written into any proxy's configuration without quoting."""

import re

from fallow.decide.compose.fields import Field
from fallow.decide.compose.problems import shown

MAX_PATH = 255

_PATH = re.compile(r"/[A-Za-z0-9._~%+:@=,/-]*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_path(field: Field, text: str | None = None) -> str:
    """Return a URL path as written in `field`, or the part of it given as `text`. Raises Refusal."""
    path = field.text() if text is None else text
    if len(path) > MAX_PATH:
        raise field.refusal(f"the path must have at most {MAX_PATH} characters")
    if not _PATH.fullmatch(path):
        raise field.refusal(
            f"the path {shown(path)} must begin with / and hold only letters, digits and . _ ~ % + : @ = , / -"
        )
    if ".." in path.split("/") or "." in path.split("/") or "//" in path:
        raise field.refusal(f"the path {shown(path)} must not hold '..', '.' or '//'")
    return path


def check_host(field: Field, text: str | None = None) -> str:
    """Return a DNS name in lower case, as written in `field` or given as `text`. Raises Refusal."""
    written = field.text() if text is None else text
    host = written.lower()
    if not written.isascii():
        raise field.refusal(f"the host {shown(written)} must be written in ASCII (its xn-- form)")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise field.refusal(f"the host {shown(written)} is not a DNS name such as shop.example.com")
    if host.rpartition(".")[2].isdigit():
        raise field.refusal(f"the host {shown(written)} is an address; routes go by DNS name, such as shop.example.com")
    return host
