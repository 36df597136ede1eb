"""Image tasks of a node: the shell around their state machine, and what it needs of those who fetch for it."""

from typing import Protocol

from fallow.model.images import PlatformImage, PullGrant


class Fetcher(Protocol):
    """Offers the engine a place on this machine to pull from, behind which are the node's neighbours and the mirror."""

    async def source(self, grant: PullGrant, image: PlatformImage) -> str | None:
        """Return the name the engine is to pull, such as `127.0.0.1:40001/shop/api@sha256:...`, over plain HTTP.

        None: pull from the registry itself, with the grant's login. The name stays good until this image's next call.
        Whatever goes wrong behind it, the engine is then told to pull from the registry itself, once.
        """
