"""One CA for every process of a control plane."""

import stat
from pathlib import Path

import pytest

from fallow.drivers.authority import AuthorityError
from fallow.drivers.authority.sealing import ClusterKey
from fallow.store.memory import MemoryStore
from fallow.wiring.authority import shared_authority

NOW = 1_800_000_000.0


@pytest.fixture
async def store():
    made = MemoryStore()
    yield made
    await made.close()


async def authority(store, folder: Path):
    return await shared_authority(store, folder / "ca", folder / "cluster.key", NOW)


async def test_the_first_makes_it_and_others_with_the_key_take_it_over(store, tmp_path):
    first = await authority(store, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/cluster.key").write_bytes((tmp_path / "a/cluster.key").read_bytes())
    (tmp_path / "b/cluster.key").chmod(0o600)
    for _ in range(2):  # the second time from its own folder
        second = await authority(store, tmp_path / "b")
        assert (second.ca_pem, second.bundle()) == (first.ca_pem, first.bundle())
    for name in ("ca/ca.key", "cluster.key"):
        assert stat.S_IMODE((tmp_path / "b" / name).stat().st_mode) == 0o600


async def test_what_is_stored_tells_nothing_without_the_key(store, tmp_path):
    first = await authority(store, tmp_path / "a")
    items, _ = await store.list("")
    key_pem = first.bundle().split(b"-----BEGIN CERTIFICATE")[0].strip()
    assert items
    assert not any(key_pem in item.value or b"PRIVATE KEY" in item.value for item in items)


async def test_without_the_key_it_says_where_to_get_it(store, tmp_path):
    await authority(store, tmp_path / "a")
    with pytest.raises(AuthorityError, match="copy cluster"):
        await authority(store, tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_another_clusters_key_is_refused(store, tmp_path):
    await authority(store, tmp_path / "a")
    ClusterKey.create_or_load(tmp_path / "b/cluster.key")
    with pytest.raises(AuthorityError, match="does not open"):
        await authority(store, tmp_path / "b")


async def test_a_folder_of_another_cluster_is_refused(store, tmp_path):
    await authority(store, tmp_path / "a")
    other = MemoryStore()
    await authority(other, tmp_path / "b")
    await other.close()
    with pytest.raises(AuthorityError, match="another CA"):
        await authority(store, tmp_path / "b")


async def test_a_store_from_before_gets_the_ca_of_its_folder(store, tmp_path):
    before = await authority(MemoryStore(), tmp_path / "a")
    (tmp_path / "a/cluster.key").unlink()
    assert (await authority(store, tmp_path / "a")).ca_sha256 == before.ca_sha256


def test_a_sealed_secret_is_whole_or_refused(tmp_path):
    key = ClusterKey.create_or_load(tmp_path / "k")
    sealed = key.seal(b"secret", "ca")
    assert key.seal(b"secret", "ca") != sealed
    assert ClusterKey.create_or_load(tmp_path / "k").unseal(sealed, "ca") == b"secret"
    for broken, about in ((sealed[:-1], "ca"), (sealed[:5], "ca"), (b"", "ca"), (sealed, "another")):
        with pytest.raises(AuthorityError):
            key.unseal(broken, about)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe", b"QUJD"])
def test_a_file_that_is_no_key_is_refused(tmp_path, content):
    (tmp_path / "k").write_bytes(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(AuthorityError, match="not a cluster key"):
        ClusterKey.create_or_load(tmp_path / "k")
