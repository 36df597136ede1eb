"""The typed client's calls about the images that projects may run. Every method raises a `ClientError`."""

from fallow.client.listings import Listing, decoded
from fallow.client.transport import Transport, part
from fallow.model.trust import TrustRequest, TrustView

PATH = "/v1/trust"


class TrustCalls:
    """The rules on images, by project."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def policies(self) -> Listing[TrustView]:
        """Return the rules of all projects, by name."""
        return decoded(Listing[TrustView], self._transport.send("GET", PATH), self._transport.url)

    def policy(self, project: str) -> TrustView:
        """Return which images a project may run."""
        return decoded(TrustView, self._transport.send("GET", f"{PATH}/{part(project)}"), self._transport.url)

    def set(self, request: TrustRequest) -> TrustView:
        """Say which images a project may run."""
        answer = self._transport.send("PUT", f"{PATH}/{part(request.project)}", body=request)
        return decoded(TrustView, answer, self._transport.url)

    def remove(self, project: str) -> None:
        """Let a project run any image again."""
        self._transport.send("DELETE", f"{PATH}/{part(project)}")
