"""The typed client's calls about servers that lend, their pools and their virtual machines.

Every method raises a `ClientError`.
"""

from typing import TypeVar

from fallow.client.listings import Listing, decoded
from fallow.client.transport import Transport, part
from fallow.model.server_pools import ServerPoolChange, ServerPoolRequest, ServerPoolView
from fallow.model.servers import HarvestReport, ServerView
from fallow.model.vms import VmChange, VmRequest, VmView

T = TypeVar("T")


class _Calls:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _get(self, kind: type[T], path: str, query: dict[str, str] | None = None) -> T:
        return decoded(kind, self._transport.send("GET", path, query=query or {}), self._transport.url)

    def _send(self, kind: type[T], method: str, path: str, body: object) -> T:
        return decoded(kind, self._transport.send(method, path, body=body), self._transport.url)


class ServerCalls(_Calls):
    """Servers, and what they lent. They are labelled, drained and removed as other members are."""

    def all(self) -> Listing[ServerView]:
        """Return servers, by name."""
        return self._get(Listing[ServerView], "/v1/servers")

    def one(self, ref: str) -> ServerView:
        """Return the server with that id or name."""
        return self._get(ServerView, f"/v1/servers/{part(ref)}")

    def harvest(self, since: float, price: float = 0.0) -> HarvestReport:
        """Return what was lent since a moment (UTC seconds); `price` is that of a core-hour elsewhere."""
        return self._get(HarvestReport, "/v1/harvest", {"since": f"{since:.3f}", "price": f"{price}"})


class ServerPoolCalls(_Calls):
    """Server pools, and how their servers lend."""

    def all(self) -> Listing[ServerPoolView]:
        """Return server pools, by name; `default` is always among them."""
        return self._get(Listing[ServerPoolView], "/v1/server-pools")

    def one(self, name: str) -> ServerPoolView:
        """Return one server pool."""
        return self._get(ServerPoolView, f"/v1/server-pools/{part(name)}")

    def create(self, request: ServerPoolRequest) -> ServerPoolView:
        """Make a server pool; the same once more changes nothing."""
        return self._send(ServerPoolView, "POST", "/v1/server-pools", request)

    def change(self, name: str, change: ServerPoolChange) -> ServerPoolView:
        """Change whom a server pool picks, or how its servers lend."""
        return self._send(ServerPoolView, "PATCH", f"/v1/server-pools/{part(name)}", change)

    def delete(self, name: str) -> None:
        """Delete a server pool; refused (409) while a server belongs to it."""
        self._transport.send("DELETE", f"/v1/server-pools/{part(name)}")


class VmCalls(_Calls):
    """Virtual machines on servers."""

    def all(self, server: str = "") -> Listing[VmView]:
        """Return virtual machines by server and name, all or those of one server."""
        return self._get(Listing[VmView], "/v1/vms", {"server": server} if server else {})

    def one(self, ref: str) -> VmView:
        """Return the virtual machine with that id or name."""
        return self._get(VmView, f"/v1/vms/{part(ref)}")

    def create(self, request: VmRequest) -> VmView:
        """Make a virtual machine on a server."""
        return self._send(VmView, "POST", "/v1/vms", request)

    def change(self, ref: str, change: VmChange) -> VmView:
        """Resize, drain, stop or start a virtual machine; it stops once what it holds has moved."""
        return self._send(VmView, "PATCH", f"/v1/vms/{part(ref)}", change)

    def delete(self, ref: str) -> None:
        """Ask for the end of a virtual machine and its disk; it is gone once what it holds has moved."""
        self._transport.send("DELETE", f"/v1/vms/{part(ref)}")
