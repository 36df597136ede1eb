"""Who a cluster is at its host: files made from what is sealed in the store, and never said by who leads no more."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bundles import csr_of, new_key
from cryptography.hazmat.primitives import serialization
from records import NOW

from fallow.agent.cluster import FILES, HostIdentity, _check_leads
from fallow.agent.identity import SavedIdentity
from fallow.agent.session import SessionBroken
from fallow.drivers.authority import Authority
from fallow.model.hosts import Host, HostKey
from fallow.model.members import Identity, Lease, Role
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Check
from fallow.store.open import open_store

HOST = Host(id="host", created_at=NOW, updated_at=NOW, url="https://host.example:7443", member_id="c-1", name="west")


def proof(authority: Authority, saved_at: float, member_id: str = "c-1", key: Any = None) -> HostKey:
    key = key or new_key()
    issued = authority.issue_member(csr_of(key), Role.CLUSTER, member_id, time.time(), 3600.0)
    identity = Identity(
        member_id=member_id, name="west", role=Role.CLUSTER, certificate_pem=issued.certificate_pem,
        ca_pem=authority.ca_pem, session_host="127.0.0.1", session_port=1, lease=Lease(address="127.0.0.1"),
    )  # fmt: skip
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return HostKey(key_pem=pem, ca_sha256=authority.ca_sha256, identity=identity, saved_at=saved_at)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create_or_load(tmp_path / "ca")


def identity(folder: Path, given: list[SavedIdentity] | None = None) -> HostIdentity:
    return HostIdentity(folder / "host", time.time, (given if given is not None else []).append)


def test_files_are_made_of_what_is_stored_and_are_private(authority: Authority, tmp_path: Path) -> None:
    found = identity(tmp_path)
    key = proof(authority, 10.0)
    found.fill(HOST, key, b"[]")
    assert found.identity == key.identity
    assert found.saved.url == HOST.url
    found.tls()
    assert {file.name for file in found.folder.iterdir()} <= set(FILES)
    assert {file.stat().st_mode & 0o777 for file in found.folder.iterdir()} == {0o600}
    found.clear()
    assert not list(found.folder.iterdir())


def test_a_newer_certificate_of_the_same_key_stays_and_that_of_another_goes(
    authority: Authority, tmp_path: Path
) -> None:
    key = new_key()
    stored, newer, other = (proof(authority, at, key=key) for at in (10.0, 20.0, 30.0))
    found = identity(tmp_path)
    found.fill(HOST, newer, b"[]")
    again = identity(tmp_path)
    again.fill(HOST, stored, b"[]")  # the process was killed before it could store the renewed one
    assert again.identity == newer.identity
    again.fill(HOST, other, b"[]")
    assert again.identity == other.identity
    another = proof(authority, 1.0, "c-2")
    last = identity(tmp_path)
    last.fill(msgspec.structs.replace(HOST, member_id="c-2"), another, b"[]")
    assert last.identity == another.identity
    last.tls()


def test_every_new_certificate_is_handed_on(authority: Authority, tmp_path: Path) -> None:
    key, given = new_key(), list[SavedIdentity]()
    found = identity(tmp_path, given)
    found.fill(HOST, proof(authority, 10.0, key=key), b"[]")
    assert given == []
    renewed = proof(authority, 20.0, key=key).identity
    assert renewed is not None
    found.renewed(renewed)
    assert [each.identity for each in given] == [renewed]


async def test_who_leads_no_more_says_no_hello() -> None:
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    try:
        await _check_leads(Applier(store, cache, fence=Check("leaders/loops", 0)))
        with pytest.raises(SessionBroken, match="may lead no more"):
            await _check_leads(Applier(store, cache, fence=Check("leaders/loops", 7)))
    finally:
        await cache.stop()
        await store.close()
