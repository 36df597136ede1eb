"""The part of the client for the host of this cluster."""

from fallow.client.listings import decoded
from fallow.client.transport import Transport
from fallow.model.hosts import HostRequest, HostView


class HostCalls:
    """Whose member this cluster is; what each call raises is told in `api`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def show(self) -> HostView:
        """Return whose member this cluster is."""
        return decoded(HostView, self._transport.send("GET", "/v1/host"), self._transport.url)

    def join(self, request: HostRequest) -> HostView:
        """Make this cluster a member of a host."""
        return decoded(HostView, self._transport.send("POST", "/v1/host", body=request), self._transport.url)

    def leave(self, remove: bool = False) -> None:
        """Make this cluster a member no more; `remove` also ends what it runs for the host."""
        self._transport.send("DELETE", "/v1/host", query={"remove": str(remove).lower()})
