"""What a machine that joins is called, and which address and host ports it gets."""

import ipaddress
import re
from collections.abc import Collection, Iterable

from fallow.model.members import Member, Role
from fallow.model.pools import PortRange

MAX_NAME = 40  # see meta.NAME_PATTERN
_UNFIT = re.compile(r"[^a-z0-9-]+")


def name_from_hostname(hostname: str, role: Role) -> str:
    """Return a name made from the first label of a hostname; the role where nothing of it is fit."""
    fit = _UNFIT.sub("-", hostname.strip().partition(".")[0].lower()).strip("-")
    if not fit[:1].isalpha():
        fit = f"{role}-{fit}".strip("-")
    return fit[:MAX_NAME].rstrip("-")


def free_name(wished: str, taken: Collection[str]) -> str:
    """Return `wished`, or the first of `wished-2`, `wished-3`... that nobody has."""
    name, number = wished, 1
    while name in taken:
        number += 1
        suffix = f"-{number}"
        name = wished[: MAX_NAME - len(suffix)].rstrip("-") + suffix
    return name


def lease_address(source: str) -> str:
    """Return the address a member is reached at, from where its request came.

    An IPv4 address inside IPv6 is unwrapped. Raises ValueError for what no gateway could connect to.
    """
    address = ipaddress.ip_address(source)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise ValueError(f"{address} is not an address at which a machine can be reached from others")
    return str(address)


def free_host_ports(members: Iterable[Member], address: str, whole: PortRange, size: int) -> PortRange | None:
    """Return the lowest block of `size` ports of `whole` that no other node of the same address has; None: all taken.

    Dead nodes keep theirs, since they may come back; removed ones do not.
    """
    taken = [
        member.lease.host_ports for member in members if member.role is Role.NODE and member.lease.address == address
    ]
    for first in range(whole.first, whole.last - size + 2, size):
        last = first + size - 1
        if all(last < other.first or other.last < first for other in taken):
            return PortRange(first=first, last=last)
    return None
