"""Secrets that the store keeps for every process of a control plane, sealed with the cluster key."""

from pathlib import Path

from fallow.drivers.authority import AuthorityError
from fallow.drivers.authority.sealing import ClusterKey
from fallow.model.secrets import SealedSecret
from fallow.store.cache import Cache


class Vault:
    """Seals and opens with the key in one file, which is read when it is first needed."""

    def __init__(self, cache: Cache, path: Path) -> None:
        self._cache = cache
        self._path = path
        self._key: ClusterKey | None = None

    def seal(self, secret: str, about: str) -> bytes:
        """Return what may be stored; `about` must be the same when it is opened. Raises AuthorityError."""
        return self._opened().seal(secret.encode(), about)

    def unseal(self, sealed: bytes, about: str) -> str:
        """Return what was sealed. Raises AuthorityError."""
        return self._opened().unseal(sealed, about).decode()

    def _opened(self) -> ClusterKey:
        """Return the key, once it is known to be this cluster's: what another one sealed no process could open."""
        if self._key is None:
            authority = self._cache.get("secrets", "ca")
            if isinstance(authority, SealedSecret) and not self._path.exists():
                raise AuthorityError(
                    f"{self._path} is missing: copy cluster.key from the data folder of another control plane of this "
                    "store, or say where it is with --cluster-key"
                )
            key = ClusterKey.create_or_load(self._path)
            if isinstance(authority, SealedSecret):
                key.unseal(authority.sealed, authority.about)
            self._key = key
        return self._key
