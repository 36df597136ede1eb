"""What images nodes have: by image, by node, and where that is not what it should be."""

from collections.abc import Sequence
from typing import Any

from litestar import get
from litestar.params import FromQuery
from litestar.types import Guard

from fallow.api.lists import DriftList, ImageList, NodeImagesList
from fallow.api.lookups import member_called
from fallow.api.problems import problems
from fallow.api.routes.image_tasks import Filter
from fallow.api.services import Needs
from fallow.control.image_drift import newest
from fallow.decide.image_drift import drift
from fallow.decide.image_views import image_views, node_images_view
from fallow.model.images import NodeImage
from fallow.model.references import qualified
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of what nodes have."""
    viewer = [guards[ApiRole.VIEWER]]
    return (
        get("/v1/images", guards=viewer, responses=problems())(list_images),
        get("/v1/images/drift", guards=viewer, responses=problems())(list_drift),
        get("/v1/node-images", guards=viewer, responses=problems(404))(list_node_images),
    )


async def list_images(services: Needs, image: Filter = None) -> ImageList:
    """List images by their ids with the nodes that have each; `image` is a reference, an id or a digest, or a part.

    Without a tag a reference means all tags of its repository.
    """
    return ImageList(
        revision=services.cache.revision, items=tuple(image_views(services.cache.snapshot(), _matching(image)))
    )


async def list_node_images(services: Needs, node: Filter = None) -> NodeImagesList:
    """List what every node has, or one, by its name or id."""
    snapshot = services.cache.snapshot()
    only = member_called(snapshot, node).id if node is not None else None
    views = [
        node_images_view(snapshot, found)
        for found in snapshot.node_images.values()
        if found.id in snapshot.members and only in (None, found.id)
    ]
    return NodeImagesList(revision=services.cache.revision, items=tuple(sorted(views, key=lambda view: view.node)))


async def list_drift(services: Needs, resolve: FromQuery[bool] = False) -> DriftList:
    """List nodes that have another image than a reference stands for, or lack one they pulled.

    What references stand for was asked when jobs were made; with `resolve` the registries are asked again now.
    """
    asked = (
        await newest(services.cache.snapshot(), services.image_requests.resolver, services.clock()) if resolve else {}
    )
    return DriftList(revision=services.cache.revision, items=tuple(drift(services.cache.snapshot(), asked)))


def _matching(image: str | None) -> "Matches":
    return Matches(image)


class Matches:
    """Says whether an image is the one that is asked for."""

    def __init__(self, asked: str | None) -> None:
        self._asked = asked or ""
        full = qualified(self._asked) if self._asked else ""
        tagged = self._asked.endswith(full.rpartition(":")[2]) if full else False
        self._names = (full,) if tagged else (f"{full.rpartition(':')[0]}:",)

    def __call__(self, image: NodeImage) -> bool:
        """Say whether it is."""
        if not self._asked:
            return True
        if image.id.removeprefix("sha256:").startswith(self._asked.removeprefix("sha256:")) and len(self._asked) >= 6:
            return True
        return any(name.startswith(self._names) for name in image.references) or any(
            digest.endswith(self._asked) and "sha256:" in self._asked for digest in image.digests
        )
