"""Mirrors that we run: a registry as a pull-through cache of another one, a deployment of one replica."""

import msgspec

from fallow.model.image_jobs import ImageTarget
from fallow.model.images import ReferenceText
from fallow.model.meta import Name
from fallow.model.registries import RegistryHost

MIRRORS = "mirrors"  # the project of their deployments
# Any image of the CNCF distribution registry will do; before version 3 it fetches twice what it does not have yet.
MIRROR_IMAGE = "docker.io/library/registry:3"
MIRROR_PORT = 5000


class MirrorRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run a mirror of a registry on one of the nodes that `target` means; of a share none can be meant."""

    name: Name
    registry: RegistryHost
    target: ImageTarget
    image: ReferenceText = MIRROR_IMAGE


class MirrorView(msgspec.Struct, frozen=True, kw_only=True):
    """A mirror as the API shows it; `address` (host:port) is empty while it does not serve, and nodes do without it."""

    name: str
    registry: str
    image: str = ""
    state: str = ""  # of its deployment; `gone` when that was deleted
    reason: str = ""
    node: str = ""
    address: str = ""
