"""Every back-end of the registry contract, over the same images: a real registry, a real one with a login, the fake."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from registry_images import OCI_INDEX, OCI_MANIFEST, Shelf, index_of, tiny

from fallow.drivers.registry import Access, Registry, RegistryError
from fallow.drivers.registry.fake import FakeRegistry
from fallow.drivers.registry.http import HttpRegistry
from fallow.model.images import RegistryLogin
from fallow.model.references import parse_reference
from testbed import parts, registry
from testbed.blobs import digest_of
from testbed.ports import free_port

LOGIN = RegistryLogin(username=registry.USERNAME, password=registry.PASSWORD)
KINDS = ("fake", pytest.param("real", marks=pytest.mark.real), pytest.param("real-login", marks=pytest.mark.real))


@dataclass
class Backend:
    """A client, and a shelf it reads from."""

    client: Registry
    shelf: Shelf
    access: Access

    def reference(self, repository: str, tail: str):
        return parse_reference(f"{self.shelf.address}/{repository}{tail}")

    async def resolve(self, repository: str, tail: str, *architectures: str):
        return await self.client.resolve(self.access, self.reference(repository, tail), architectures)


@pytest.fixture(scope="module", params=KINDS)
def shelf(request, tmp_path_factory) -> Iterator[Shelf]:
    if request.param == "fake":
        yield Shelf("registry.example:5000", FakeRegistry())
        return
    parts.require("registry")
    wants_login = request.param == "real-login"
    folder = tmp_path_factory.mktemp("registry")
    real = registry.Registry.on_loopback(folder, port=free_port(), password=wants_login)
    try:
        yield Shelf(real.address, None, LOGIN.username if wants_login else "", LOGIN.password if wants_login else "")
    finally:
        real.close()


@pytest.fixture
async def backend(shelf: Shelf) -> AsyncIterator[Backend]:
    client: Registry = shelf.fake or HttpRegistry()
    login = LOGIN if shelf.username else None
    yield Backend(client, shelf, Access(host=shelf.address, login=login, insecure=True))
    await client.close()


@pytest.mark.parametrize("docker", [False, True])
async def test_single_manifest(backend: Backend, docker: bool):
    image = backend.shelf.put("shop/api", "1", tiny(docker=docker))
    found = await backend.resolve("shop/api", ":1")
    assert found.reference == f"{backend.shelf.address}/shop/api:1"
    assert found.digest == image.digest
    (only,) = found.platforms
    assert only.platform == "linux/amd64"
    assert only.image_id == image.image_id
    assert only.manifest.digest == image.digest
    assert only.manifest.media_type == image.media_type
    assert [layer.digest for layer in only.layers] == [digest_of(layer) for layer in image.layers]
    assert only.size_bytes == sum(len(layer) for layer in image.layers)
    assert found.for_architecture("arm64") is None


@pytest.mark.parametrize("docker", [False, True])
async def test_index(backend: Backend, docker: bool):
    images = {"linux/amd64": tiny("a", docker=docker), "linux/arm64/v8": tiny("b", "arm64", "v8", docker=docker)}
    images["windows/amd64"] = tiny("w", docker=docker)
    body = index_of(images, docker=docker)
    digest = backend.shelf.put_index("shop/many", "2", body, images.values())
    found = await backend.resolve("shop/many", ":2")
    assert found.digest == digest
    assert [each.platform for each in found.platforms] == ["linux/amd64", "linux/arm64/v8"]
    arm = found.for_architecture("arm64")
    assert arm is not None
    assert arm.image_id == images["linux/arm64/v8"].image_id
    assert arm.manifest.digest == images["linux/arm64/v8"].digest


async def test_by_digest(backend: Backend):
    image = backend.shelf.put("shop/api", "by-digest", tiny("by-digest"))
    found = await backend.resolve("shop/api", f"@{image.digest}")
    assert found.digest == image.digest
    assert found.platforms[0].image_id == image.image_id


async def test_only_the_architectures_asked_for(backend: Backend):
    images = {"linux/amd64": tiny("a"), "linux/arm64": tiny("b", "arm64")}
    backend.shelf.put_index("shop/some", "1", index_of(images), images.values())
    found = await backend.resolve("shop/some", ":1", "arm64", "riscv64")
    assert [each.platform for each in found.platforms] == ["linux/arm64"]


@pytest.mark.parametrize(("repository", "tail"), [("shop/api", ":absent"), ("shop/nothing", ":1")])
async def test_what_is_not_there(backend: Backend, repository: str, tail: str):
    backend.shelf.put("shop/api", "1", tiny())
    with pytest.raises(RegistryError) as caught:
        await backend.resolve(repository, tail)
    assert caught.value.kind == "not-found"
    assert f"{repository}{tail}" in str(caught.value)


async def test_manifest_as_it_is(backend: Backend):
    body = index_of({"linux/amd64": tiny()})
    backend.shelf.put_index("shop/raw", "1", body, [tiny()])
    found = await backend.client.manifest(backend.access, "shop/raw", "1")
    assert (found.body, found.media_type, found.digest) == (body, OCI_INDEX, digest_of(body))
    one = await backend.client.manifest(backend.access, "shop/raw", tiny().digest)
    assert (one.body, one.media_type) == (tiny().body, OCI_MANIFEST)


async def test_small_blobs(backend: Backend):
    image = backend.shelf.put("shop/api", "1", tiny())
    assert await backend.client.blob(backend.access, "shop/api", image.image_id, 10_000) == image.config
    with pytest.raises(RegistryError) as caught:
        await backend.client.blob(backend.access, "shop/api", digest_of(image.layers[1]), 1000)
    assert caught.value.kind == "wrong-content"


@pytest.mark.parametrize("offset", [0, 1, 100_000])
async def test_blob_as_it_comes(backend: Backend, offset: int):
    layer = backend.shelf.put("shop/api", "1", tiny()).layers[1]
    assert len(layer) > 200_000
    async with backend.client.open_blob(backend.access, "shop/api", digest_of(layer), offset) as opened:
        assert (opened.offset, opened.size_bytes) == (offset, len(layer))
        assert b"".join([chunk async for chunk in opened.chunks]) == layer[offset:]


async def test_blob_left_before_its_end(backend: Backend):
    layer = backend.shelf.put("shop/api", "1", tiny()).layers[1]
    for _ in range(40):  # more than there are connections
        async with backend.client.open_blob(backend.access, "shop/api", digest_of(layer)) as opened:
            assert await anext(opened.chunks)


async def test_blob_that_is_not_there(backend: Backend):
    backend.shelf.put("shop/api", "1", tiny())
    with pytest.raises(RegistryError) as caught:
        async with backend.client.open_blob(backend.access, "shop/api", digest_of(b"nothing")):
            pass
    assert caught.value.kind == "not-found"


async def test_blob_beyond_its_end(backend: Backend):
    layer = backend.shelf.put("shop/api", "1", tiny()).layers[0]
    with pytest.raises(RegistryError) as caught:
        async with backend.client.open_blob(backend.access, "shop/api", digest_of(layer), len(layer) + 1):
            pass
    assert caught.value.kind == "bad-request"


async def test_check(backend: Backend):
    await backend.client.check(backend.access)


async def test_wrong_login(backend: Backend):
    if backend.shelf.fake is not None:
        backend.shelf.fake.logins[backend.shelf.address] = LOGIN
    elif not backend.shelf.username:
        pytest.skip("this registry lets everybody read")
    try:
        for login in (None, RegistryLogin(username="fallow", password="not-the-password")):
            access = Access(host=backend.shelf.address, login=login, insecure=True)
            with pytest.raises(RegistryError) as caught:
                await backend.client.manifest(access, "shop/api", "1")
            assert caught.value.kind == "denied"
            assert "not-the-password" not in str(caught.value)
            with pytest.raises(RegistryError) as caught:
                await backend.client.check(access)
            assert caught.value.kind == "denied"
    finally:
        if backend.shelf.fake is not None:
            backend.shelf.fake.logins.clear()
