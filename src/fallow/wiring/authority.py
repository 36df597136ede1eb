"""One CA for all processes of a control plane: kept in each one's folder, and sealed in the store they share."""

from pathlib import Path

import msgspec

from fallow.drivers.authority import Authority, AuthorityError
from fallow.drivers.authority.sealing import ClusterKey
from fallow.model.kinds import key_of
from fallow.model.secrets import SealedSecret
from fallow.store.cache import decode_item
from fallow.store.contract import Check, Conflict, Put, Store

CA_ID = "ca"


async def shared_authority(store: Store, folder: Path, key_file: Path, now: float) -> Authority:
    """Return the CA of `store`: its first process makes it in `folder`, others take it from the store.

    `now` is in UTC seconds. Raises AuthorityError when the folder's CA is another than the store's, or the key in
    `key_file` does not open it; and StoreError.
    """
    stored = await _stored(store)
    if stored is None:
        authority = Authority.create_or_load(folder, now)
        stored = await _publish(store, authority, ClusterKey.create_or_load(key_file), now)
    if not Authority.kept_in(folder):
        _take_over(stored, folder, key_file)
    authority = Authority.create_or_load(folder, now)
    if authority.ca_sha256 != stored.about:
        raise AuthorityError(
            f"{folder} holds another CA ({authority.ca_sha256[:16]}...) than this store's ({stored.about[:16]}...): "
            "use another data folder, or another store"
        )
    return authority


async def _stored(store: Store) -> SealedSecret | None:
    item = await store.get(f"secrets/{CA_ID}")
    record = decode_item(item) if item is not None else None
    return record if isinstance(record, SealedSecret) else None


async def _publish(store: Store, authority: Authority, key: ClusterKey, now: float) -> SealedSecret:
    """Store the CA, unless another process was quicker; return what is stored."""
    sealed = key.seal(authority.bundle(), authority.ca_sha256)
    record = SealedSecret(id=CA_ID, created_at=now, updated_at=now, sealed=sealed, about=authority.ca_sha256)
    try:
        await store.commit([Check(key_of(record), 0)], [Put(key_of(record), msgspec.msgpack.encode(record))])
    except Conflict:
        return await _stored(store) or record
    return record


def _take_over(stored: SealedSecret, folder: Path, key_file: Path) -> None:
    if not key_file.exists():
        raise AuthorityError(
            f"this store has a control plane already, and {key_file} is missing: copy cluster.key from the data "
            "folder of a machine where it runs, or say where it is with --cluster-key"
        )
    Authority.install(folder, ClusterKey.create_or_load(key_file).unseal(stored.sealed, stored.about))
