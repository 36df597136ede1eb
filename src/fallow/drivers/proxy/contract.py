"""What a proxy must do for a gateway. Back-ends pass `tests/contract/test_proxy.py`."""

from typing import Protocol

from fallow.model.routes import ProxyReport, ProxyState


class ProxyError(Exception):
    """The proxy refused, or could not be started or reached; the text is for a person."""


class Proxy(Protocol):
    """A reverse proxy under our control. Every method raises ProxyError."""

    async def start(self, last_known: ProxyState | None) -> None:
        """Start it, or adopt the one left running by our predecessor, serving `last_known` at once."""

    async def apply(self, state: ProxyState) -> None:
        """Make it do `state`: new endpoints are probed, then serve; only then are missing ones drained.

        Returns when what can be done at once is done; draining goes on and shows in `report`. The same state again
        is cheap and changes nothing, but probes once more what was refused.
        """

    async def report(self) -> ProxyReport:
        """Return what it does now."""

    async def version(self) -> str:
        """Return name and version: `haproxy 2.6.12`."""

    async def stop(self) -> None:
        """Stop it; connections get a moment to finish."""
