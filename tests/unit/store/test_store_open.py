import stat

import pytest

from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.store.contract import Put, StoreError
from fallow.store.memory import MemoryStore
from fallow.store.open import open_store
from fallow.store.sqlite import SqliteStore


async def test_memory():
    store = await open_store("memory:")
    assert isinstance(store, MemoryStore)
    assert (await store.get(SCHEMA_KEY)).value == str(SCHEMA_VERSION).encode()
    await store.close()


async def test_sqlite_makes_its_folder_for_its_owner_only_and_opens_again(tmp_path):
    url = f"sqlite:{tmp_path}/new/folder/s.db"
    store = await open_store(url)
    assert isinstance(store, SqliteStore)
    await store.commit([], [Put("a", b"1")])
    await store.close()
    assert stat.S_IMODE((tmp_path / "new/folder").stat().st_mode) == 0o700
    store = await open_store(url)
    assert (await store.get("a")).value == b"1"
    assert (await store.get(SCHEMA_KEY)).revision == 1, "written once"
    await store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("consul://host:8500", r"'consul'.*etcd:, memory:, sqlite:"),
        ("", r"memory:, sqlite:"),
        ("memory", r"memory:, sqlite:"),
        ("/var/lib/fallow.db", r"memory:, sqlite:"),
        ("SQLITE:/x", r"memory:, sqlite:"),
        ("memory:x", "nothing after"),
        ("sqlite:", "path of a file"),
        ("sqlite:/tmp/", "path of a file"),
    ],
)
async def test_a_url_that_names_no_store_is_refused(url, says):
    with pytest.raises(ValueError, match=says):
        await open_store(url)


async def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the folder .*file"):
        await open_store(f"sqlite:{tmp_path}/file/s.db")


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (b"999", rf"version 999.*version {SCHEMA_VERSION}.*newer program"),
        (b"0", rf"version 0.*version {SCHEMA_VERSION}"),
        (b"x\xff", rf"version x.*version {SCHEMA_VERSION}"),
    ],
)
async def test_data_of_another_version_is_refused_and_the_file_released(tmp_path, stored, says):
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path)
    await store.commit([], [Put(SCHEMA_KEY, stored)])
    await store.close()
    for _ in range(2):
        with pytest.raises(StoreError, match=says):
            await open_store(f"sqlite:{path}")
