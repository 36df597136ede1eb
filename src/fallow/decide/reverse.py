"""Addresses back to names: which reverse zones are ours, and what is in them."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fallow.model.names import HostName

_WHOLE: dict[tuple[str, ...], int] = {
    ("in-addr", "arpa"): 4,
    ("ip6", "arpa"): 32,
}  # how many labels a whole address has
_BITS = {4: 8, 6: 4}  # that one label stands for, by IP version

Labels = tuple[str, ...]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def zones_of(network: Network) -> Iterable[str]:
    """Yield the apexes of the reverse zones that together are a network: of /16 one, of /12 sixteen."""
    bits = _BITS[network.version]
    whole = -(-network.prefixlen // bits) * bits
    for subnet in network.subnets(new_prefix=whole):
        labels = subnet.network_address.reverse_pointer.split(".")
        yield ".".join(labels[(subnet.max_prefixlen - whole) // bits :])


@dataclass(frozen=True, kw_only=True)
class Reverse:
    """The names of addresses. A zone of its own is each of `pools` (apexes), and each address outside of them."""

    domain: str
    hosts: Mapping[tuple[str, str], HostName] = field(default_factory=dict)
    pools: frozenset[str] = frozenset()

    def apex(self, name: Labels) -> str | None:
        """Return the apex of the zone that a name lies in; None when it lies in none of ours."""
        whole = _WHOLE.get(name[-2:])
        if whole is None:
            return None
        for length in range(3, min(len(name), whole + 2) + 1):
            if (suffix := ".".join(name[-length:])) in self.pools:
                return suffix
        alone = name[-(whole + 2) :]
        return ".".join(alone) if _address(alone) in self.owners else None

    def names(self, name: Labels) -> Sequence[str] | None:
        """Return the names of the address that `name` stands for; none when it only leads to others, None: it does not.

        Call it for names that have an apex.
        """
        missing = _WHOLE[name[-2:]] + 2 - len(name)
        if missing > 0:
            return () if ".".join(name) in self._parents else None
        return self.owners.get(_address(name)) if missing == 0 else None

    @cached_property
    def owners(self) -> Mapping[str, Sequence[str]]:
        """Return the names of every address."""
        found: dict[str, list[str]] = defaultdict(list)
        for role, name in sorted(self.hosts):
            found[self.hosts[role, name].address].append(f"{name}.{role}.{self.domain}")
        return dict(found)

    @cached_property
    def _parents(self) -> frozenset[str]:
        """Return every name that an address's own lies below."""
        found: set[str] = set()
        for address in self.owners:
            _, _, parent = ipaddress.ip_address(address).reverse_pointer.partition(".")
            while parent not in found and parent.count(".") > 1:
                found.add(parent)
                _, _, parent = parent.partition(".")
        return frozenset(found)


def _address(name: Labels) -> str:
    """Return the address a whole reverse name stands for; empty: none."""
    digits = name[-3::-1]
    text = ".".join(digits)
    if name[-2] == "ip6":
        if any(len(digit) != 1 for digit in digits):
            return ""
        text = ":".join("".join(digits[at : at + 4]) for at in range(0, len(digits), 4))
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
