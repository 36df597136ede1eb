"""How a cluster keeps what its host says of registries: sealed, and only of those that it has orders for."""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from fallow.decide.plan import Step
from fallow.drivers.authority import AuthorityError
from fallow.model.secrets import SealedSecret
from fallow.model.shares import SHARED_REGISTRY, SharedRegistry, ShareOrder
from fallow.store.cache import Cache


class Secrets(Protocol):
    """Seals what is stored; `control.vault` is one."""

    def seal(self, secret: str, about: str) -> bytes:
        """Return what may be stored."""

    def unseal(self, sealed: bytes, about: str) -> str:
        """Return what was sealed."""


def kept_registries(
    cache: Cache, secrets: Secrets, orders: Iterable[ShareOrder], clock: Callable[[], float]
) -> Step | None:
    """Return what makes the registries that are kept those of `orders`, which are all there are; None: they are.

    Raises AuthorityError when nothing can be sealed.
    """
    wanted = {order.registry.secret_id: order.registry for order in orders if order.registry is not None}
    kept = {
        id_: found
        for id_, found in cache.records("secrets").items()
        if id_.startswith(SHARED_REGISTRY) and isinstance(found, SealedSecret)
    }
    now = clock()
    puts = []
    for id_, registry in wanted.items():
        before = kept.get(id_) or SealedSecret(id=id_, created_at=now, updated_at=now, sealed=b"")
        if _opened(secrets, before) != registry:
            sealed = secrets.seal(msgspec.json.encode(registry).decode(), id_)
            puts.append(msgspec.structs.replace(before, sealed=sealed, updated_at=now))
    deletes = [found for id_, found in kept.items() if id_ not in wanted]
    return Step(puts=tuple(puts), deletes=tuple(deletes)) if puts or deletes else None


def _opened(secrets: Secrets, kept: SealedSecret) -> SharedRegistry | None:
    """Return what is kept; None when there is nothing that could be read."""
    if not kept.sealed:
        return None
    try:
        return msgspec.json.decode(secrets.unseal(kept.sealed, kept.id), type=SharedRegistry)
    except (AuthorityError, msgspec.DecodeError):
        return None
