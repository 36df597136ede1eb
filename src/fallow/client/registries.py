"""The part of the client for registries and for the images that projects may run."""

from typing import TypeVar
from urllib.parse import quote

import msgspec

from fallow.client.errors import BadAnswer
from fallow.client.listing import Listing
from fallow.client.transport import Transport
from fallow.model.registries import RegistryCheck, RegistryRequest, RegistryView
from fallow.model.trust import TrustRequest, TrustView

T = TypeVar("T")


class RegistryCalls:
    """Calls of the client; what each raises is told there."""

    url: str
    _transport: Transport

    def registries(self) -> Listing[RegistryView]:
        """Return the registries that are known, by host."""
        return self._answer(Listing[RegistryView], "GET", "/v1/registries")

    def registry(self, host: str) -> RegistryView:
        """Return one registry."""
        return self._answer(RegistryView, "GET", f"/v1/registries/{_part(host)}")

    def add_registry(self, request: RegistryRequest) -> RegistryView:
        """Make a registry known, or replace all that is known of it."""
        return self._answer(RegistryView, "POST", "/v1/registries", request)

    def remove_registry(self, host: str) -> None:
        """Forget a registry and its login."""
        self._transport.send("DELETE", f"/v1/registries/{_part(host)}")

    def check_registry(self, host: str) -> RegistryCheck:
        """Try whether a registry answers the control plane, and takes its login."""
        return self._answer(RegistryCheck, "POST", f"/v1/registries/{_part(host)}/test")

    def trust_policies(self) -> Listing[TrustView]:
        """Return the rules on images, by project."""
        return self._answer(Listing[TrustView], "GET", "/v1/trust")

    def trust(self, project: str) -> TrustView:
        """Return which images a project may run."""
        return self._answer(TrustView, "GET", f"/v1/trust/{_part(project)}")

    def set_trust(self, request: TrustRequest) -> TrustView:
        """Say which images a project may run."""
        return self._answer(TrustView, "PUT", f"/v1/trust/{_part(request.project)}", request)

    def remove_trust(self, project: str) -> None:
        """Let a project run any image again."""
        self._transport.send("DELETE", f"/v1/trust/{_part(project)}")

    def _answer(self, kind: type[T], method: str, path: str, body: object = None) -> T:
        response = self._transport.send(method, path, body=body)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(self.url, str(error)) from error


def _part(text: str) -> str:
    return quote(text, safe="")
