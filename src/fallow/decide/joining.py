"""What a machine that joins is called, which address and host ports it gets, and what it may say of itself."""

import ipaddress
import re
from collections.abc import Callable, Collection

from fallow.model.members import JoinRequest, Role

MAX_NAME = 40  # see meta.NAME_PATTERN
_UNFIT = re.compile(r"[^a-z0-9-]+")
# Where clouds tell machines their secrets; the one of IPv4, 169.254.169.254, is link-local.
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})


def name_from_hostname(hostname: str, role: Role) -> str:
    """Return a name made from the first label of a hostname; the role where nothing of it is fit."""
    fit = _UNFIT.sub("-", hostname.strip().partition(".")[0].lower()).strip("-")
    if not fit[:1].isalpha():
        fit = f"{role}-{fit}".strip("-")
    return fit[:MAX_NAME].rstrip("-")


def free_name(wished: str, is_taken: Callable[[str], bool], first: int = 1) -> tuple[str, int]:
    """Return `wished`, or the first of `wished-2`, `wished-3`... that nobody has, and its number (1: as wished).

    Numbers below `first` are not tried: whoever names many machines alike knows that they are taken.
    """
    number = first
    while is_taken(name := _numbered(wished, number)):
        number += 1
    return name, number


def _numbered(wished: str, number: int) -> str:
    suffix = f"-{number}" if number > 1 else ""
    return wished[: MAX_NAME - len(suffix)].rstrip("-") + suffix


def lease_address(source: str) -> str:
    """Return the address a member is reached at, from where its request came.

    An IPv4 address inside IPv6 is unwrapped. Raises ValueError for what no gateway could connect to.
    """
    address = _plain(source)
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise ValueError(f"{address} is not an address at which a machine can be reached from others")
    return str(address)


def unfit_claim(claimed: str, observed: str, control: Collection[str]) -> str:
    """Return why a machine cannot be at the address it claims, or empty.

    `observed` is where its request came from, which it may always name; `control` are the control plane's addresses.
    """
    try:
        address = _plain(claimed)
    except ValueError:
        return "it is not an IP address"
    if str(address) == observed:
        return ""
    found = (
        ("a loopback address", address.is_loopback),
        ("a link-local address, which clouds serve their metadata at", address.is_link_local),
        ("an address clouds serve their metadata at", address in _METADATA),
        ("a multicast address", address.is_multicast),
        ("no address of one machine", address.is_unspecified or address.is_reserved),
        ("an address of the control plane", str(address) in control),
    )
    return next((f"it is {what}, and the request came from {observed}" for what, holds in found if holds), "")


def plain_address(text: str) -> str:
    """Return an address in its usual form; empty stays empty. Raises ValueError."""
    return str(_plain(text)) if text else ""


def unfit_text(request: JoinRequest) -> str:
    """Return which text of a request has characters that nobody could read, such as NUL or a line's end; or empty."""
    facts = request.facts
    texts = {
        "function": request.function,
        "hostname": facts.hostname,
        "os": facts.os,
        "kernel": facts.kernel,
        "architecture": facts.architecture,
        "engine": facts.engine,
        "agent version": facts.agent_version,
    } | {f"variable {variable.name}": variable.value for variable in request.variables}
    return next((name for name, text in texts.items() if not text.isprintable()), "")


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address, unwrapped if it is one of IPv4 inside IPv6. Raises ValueError."""
    if "%" in text:  # a zone may have any characters, and means something to one machine only
        raise ValueError("an address with a zone is of one machine only")
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
