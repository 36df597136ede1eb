"""How memory is divided over the virtual machines of a server when there is less than they have."""

from collections.abc import Mapping


def divided(limit_bytes: int, sizes: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """Return what each may have, in proportion to its size: never more than that, and never less than its least.

    So the sum may be above the limit, where the least of all is.
    """
    found: dict[str, int] = {}
    left = limit_bytes
    open_ = dict(sizes)
    while open_:
        total = sum(open_.values())
        share = min(1.0, max(0.0, left / total)) if total else 0.0
        floored = {name: least[name] for name, size in open_.items() if int(size * share) < least[name]}
        if not floored:
            return found | {name: int(size * share) for name, size in open_.items()}
        found |= {name: min(bytes_, sizes[name]) for name, bytes_ in floored.items()}
        left -= sum(found[name] for name in floored)
        open_ = {name: size for name, size in open_.items() if name not in floored}
    return found
