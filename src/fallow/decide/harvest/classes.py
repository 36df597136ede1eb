"""Which part of caches and of memory bandwidth what is lent may use, in the words of the kernel's resctrl file system.

Format and rounding are those of the kernel's own page (Documentation/filesystems/resctrl.rst).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WHOLE = 1.0  # a share that limits nothing
CACHES = ("L3", "L3CODE", "L3DATA")  # the latter two where code and data have masks of their own
BANDWIDTH = "MB"
_TINY = 1e-9  # 0.07 * 100 is 7.000000000000001

Schemata = Mapping[str, Mapping[int, int]]  # by resource and domain: a mask of cache ways, or a percentage


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """What the kernel says of a cache that can be divided."""

    mask: int  # all its ways
    least_ways: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bandwidth:
    """What the kernel says of memory bandwidth that can be divided, in percent."""

    least: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the class of what is lent should have, and what is asked for but cannot be had here."""

    schemata: Schemata
    lacks: tuple[str, ...]


def mask_of(share: float, cache: Cache) -> int:
    """Return the mask of as many ways as `share` of a cache is, rounded down; one and the cache's least at least.

    They are next to each other, as most processors demand, and the lowest: devices fill the highest, too.
    """
    ways = cache.mask.bit_count()
    return (1 << min(ways, max(1, cache.least_ways, int(share * ways)))) - 1


def percent_of(share: float, bandwidth: Bandwidth) -> int:
    """Return `share` in percent, rounded up to the next step as the kernel does, at most 100."""
    least = max(bandwidth.least, math.ceil(share * 100 - _TINY))
    return min(100, math.ceil(least / bandwidth.step) * bandwidth.step)


def wanted(
    cache: float, bandwidth: float, caches: Mapping[str, Cache], bandwidths: Bandwidth | None, root: Schemata
) -> Wanted:
    """Return what the class should have for both shares. `root` is what all others have: it names the domains.

    A resource whose share is whole, or that cannot be divided here, is left as it is.
    """
    found: dict[str, dict[int, int]] = {}
    lacks = []
    if cache < WHOLE:
        divisible = [name for name in CACHES if name in caches and root.get(name)]
        found.update({name: dict.fromkeys(root[name], mask_of(cache, caches[name])) for name in divisible})
        lacks += [] if divisible else ["the L3 cache cannot be divided here: this processor cannot, or resctrl says so"]
    if bandwidth < WHOLE:
        now = root.get(BANDWIDTH, {})
        if bandwidths is None or not now:
            lacks.append("memory bandwidth cannot be divided here: this processor cannot, or resctrl says so")
        elif bandwidths.least < 1 or max(now.values()) > 100:  # AMD's processors, and the mount option mba_MBps
            lacks.append("memory bandwidth is counted in amounts here and not in percent, so that no share can be set")
        else:
            found[BANDWIDTH] = dict.fromkeys(now, percent_of(bandwidth, bandwidths))
    return Wanted(schemata=found, lacks=tuple(lacks))


def schemata(text: str) -> Schemata:
    """Read what a `schemata` file says of caches and memory bandwidth; what is not understood is left out.

    Masks are hexadecimal and percentages decimal; the kernel pads names and numbers (`    MB:0= 30;1=100`).
    """
    found = {}
    for line in text.splitlines():
        name, _, domains = (part.strip() for part in line.partition(":"))
        if name in (*CACHES, BANDWIDTH):
            pairs = (pair.partition("=")[::2] for pair in domains.split(";"))
            try:
                found[name] = {int(domain): int(value, 10 if name == BANDWIDTH else 16) for domain, value in pairs}
            except ValueError:
                continue
    return found


def schema(resource: str, values: Mapping[int, int]) -> str:
    """Write the line of one resource as a `schemata` file takes it."""
    kind = "d" if resource == BANDWIDTH else "x"
    return f"{resource}:{';'.join(f'{domain}={value:{kind}}' for domain, value in sorted(values.items()))}\n"


def described(held: Schemata, resources: Iterable[str], caches: Mapping[str, Cache]) -> str:
    """Say for people what of `resources` the class holds: `4 of 20 ways of L3, 30% of memory bandwidth`."""
    parts = []
    for name in resources:
        most = max(held.get(name, {}).values(), key=int.bit_count if name in caches else int, default=None)
        if most is not None and name in caches:
            parts.append(f"{most.bit_count()} of {caches[name].mask.bit_count()} ways of {name}")
        elif most is not None:
            parts.append(f"{most}% of memory bandwidth")
    return ", ".join(parts)
