"""The typed client's calls about registries. Every method raises a `ClientError`."""

from fallow.client.listings import Listing, decoded
from fallow.client.transport import Transport, part
from fallow.model.mirrors import MirrorRequest, MirrorView
from fallow.model.registries import RegistryCheck, RegistryRequest, RegistryView

PATH = "/v1/registries"
MIRRORS = "/v1/registry-mirrors"


class RegistryCalls:
    """Registries that the control plane knows."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def known(self) -> Listing[RegistryView]:
        """Return the registries that are known, by host."""
        return decoded(Listing[RegistryView], self._transport.send("GET", PATH), self._transport.url)

    def registry(self, host: str) -> RegistryView:
        """Return one registry."""
        return decoded(RegistryView, self._transport.send("GET", f"{PATH}/{part(host)}"), self._transport.url)

    def add(self, request: RegistryRequest) -> RegistryView:
        """Make a registry known, or replace all that is known of it."""
        return decoded(RegistryView, self._transport.send("POST", PATH, body=request), self._transport.url)

    def remove(self, host: str) -> None:
        """Forget a registry and its login."""
        self._transport.send("DELETE", f"{PATH}/{part(host)}")

    def check(self, host: str) -> RegistryCheck:
        """Try whether a registry answers the control plane, and takes its login."""
        return decoded(RegistryCheck, self._transport.send("POST", f"{PATH}/{part(host)}/test"), self._transport.url)

    def mirrors(self) -> Listing[MirrorView]:
        """Return the mirrors that the control plane runs, by name."""
        return decoded(Listing[MirrorView], self._transport.send("GET", MIRRORS), self._transport.url)

    def create_mirror(self, request: MirrorRequest) -> MirrorView:
        """Run a mirror of a registry, or change the one of this name."""
        return decoded(MirrorView, self._transport.send("POST", MIRRORS, body=request), self._transport.url)

    def delete_mirror(self, name: str) -> None:
        """Run a mirror no more."""
        self._transport.send("DELETE", f"{MIRRORS}/{part(name)}")
