"""How full the disk of a node's images may get before the node makes room by itself."""

import re

import msgspec

_TEXT = re.compile(r"([1-9][0-9]?)%:([1-9][0-9]?)%\Z")


class Watermarks(msgspec.Struct, frozen=True):
    """Above `high` used, a node cleans until `low`; both are shares of the disk. Kubernetes has the same two."""

    high: float = 0.85
    low: float = 0.80

    @property
    def text(self) -> str:
        """Return them as a person writes them."""
        return f"{self.high:.0%}:{self.low:.0%}"


def parse_watermarks(text: str) -> Watermarks | None:
    """Read `85%:80%`; `off` is None. Raises ValueError, saying what is wrong."""
    if text == "off":
        return None
    found = _TEXT.match(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not two shares such as 85%:80%, nor off")
    high, low = int(found[1]), int(found[2])
    if low >= high:
        raise ValueError(f"{text}: cleaning from {high}% can not end at {low}%, it has to be less")
    return Watermarks(high / 100, low / 100)
