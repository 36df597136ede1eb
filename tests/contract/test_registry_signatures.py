"""Signatures in cosign's format, beside images in a real registry and in the fake: only what is right is taken."""

import pytest
from registry_images import index_of, tiny
from signing import new_key, payload_of, public_pem, put_signatures, put_signed, sign
from test_registry import Backend, backend, shelf  # noqa: F401 - fixtures

from fallow.drivers.registry.cosign import signature_troubles


async def troubles(backend: Backend, digest: str, *keys: str) -> list[str] | None:  # noqa: F811
    return await signature_troubles(backend.client, backend.access, "shop/signed", digest, keys)


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
async def test_signed(backend: Backend, kind: str):  # noqa: F811
    key = new_key(kind)
    image = backend.shelf.put("shop/signed", "1", tiny(f"signed by {kind}"))
    put_signed(backend.shelf, "shop/signed", image.digest, key)
    assert await troubles(backend, image.digest, public_pem(key)) is None
    assert await troubles(backend, image.digest, public_pem(new_key()), public_pem(key)) is None, "one is enough"


async def test_an_index_is_signed_as_a_whole(backend: Backend):  # noqa: F811
    key, images = new_key(), {"linux/amd64": tiny("a"), "linux/arm64": tiny("b", "arm64")}
    digest = backend.shelf.put_index("shop/signed", "many", index_of(images), images.values())
    put_signed(backend.shelf, "shop/signed", digest, key)
    assert await troubles(backend, digest, public_pem(key)) is None
    assert await troubles(backend, images["linux/amd64"].digest, public_pem(key)) == []


async def test_unsigned(backend: Backend):  # noqa: F811
    image = backend.shelf.put("shop/signed", "1", tiny("unsigned"))
    assert await troubles(backend, image.digest, public_pem(new_key())) == []


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
async def test_signed_by_somebody_else(backend: Backend, kind: str):  # noqa: F811
    image = backend.shelf.put("shop/signed", "1", tiny(f"by another {kind}"))
    put_signed(backend.shelf, "shop/signed", image.digest, new_key())
    (trouble,) = await troubles(backend, image.digest, public_pem(new_key(kind)))
    assert "none of the keys" in trouble


async def test_signature_of_another_image(backend: Backend):  # noqa: F811
    """Replayed: a good signature, put beside an image it is not of."""
    key = new_key()
    good, bad = tiny("good"), tiny("bad")
    for image in (good, bad):
        backend.shelf.put("shop/signed", "1", image)
    payload = payload_of(good.digest)
    put_signatures(backend.shelf, "shop/signed", bad.digest, (payload, sign(key, payload)))
    (trouble,) = await troubles(backend, bad.digest, public_pem(key))
    assert "another image" in trouble
    assert good.digest in trouble


async def test_payload_that_was_changed(backend: Backend):  # noqa: F811
    key, good, bad = new_key(), tiny("good"), tiny("changed")
    backend.shelf.put("shop/signed", "1", bad)
    signature = sign(key, payload_of(good.digest))
    put_signatures(backend.shelf, "shop/signed", bad.digest, (payload_of(bad.digest), signature))
    (trouble,) = await troubles(backend, bad.digest, public_pem(key))
    assert "was changed" in trouble


@pytest.mark.parametrize(
    "signature", ["", "!!!", "AAAA", b"\x30\x06\x02\x01\x00\x02\x01\x00", b"\x00" * 64, b"\xff" * 256, "x" * 5000]
)
async def test_nonsense_for_a_signature(backend: Backend, signature: bytes | str):  # noqa: F811
    image = backend.shelf.put("shop/signed", "1", tiny("nonsense"))
    put_signatures(backend.shelf, "shop/signed", image.digest, (payload_of(image.digest), signature))
    for kind in ("ecdsa", "ed25519", "rsa"):
        assert len(await troubles(backend, image.digest, public_pem(new_key(kind)))) == 1


async def test_a_good_one_among_bad_ones(backend: Backend):  # noqa: F811
    key = new_key()
    image = backend.shelf.put("shop/signed", "1", tiny("among bad ones"))
    payload, other = payload_of(image.digest), payload_of(tiny("other").digest)
    bad = [(payload + b" ", "AAAA"), (other, sign(key, other)), (payload + b"  ", "?")]
    put_signatures(backend.shelf, "shop/signed", image.digest, *bad)
    assert len(await troubles(backend, image.digest, public_pem(key))) == 3
    put_signatures(backend.shelf, "shop/signed", image.digest, *bad, (payload, sign(key, payload)))
    assert await troubles(backend, image.digest, public_pem(key)) is None


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b"[" * 10_000, b'{"critical": {"image": {}}}'])
async def test_signed_nonsense(backend: Backend, payload: bytes):  # noqa: F811
    key = new_key()
    image = backend.shelf.put("shop/signed", "1", tiny("signed nonsense"))
    put_signatures(backend.shelf, "shop/signed", image.digest, (payload, sign(key, payload)))
    (trouble,) = await troubles(backend, image.digest, public_pem(key))
    assert "cannot be read" in trouble


async def test_signed_as_something_else(backend: Backend):  # noqa: F811
    key = new_key()
    image = backend.shelf.put("shop/signed", "1", tiny("something else"))
    payload = payload_of(image.digest).replace(b"image signature", b"attestation")
    put_signatures(backend.shelf, "shop/signed", image.digest, (payload, sign(key, payload)))
    (trouble,) = await troubles(backend, image.digest, public_pem(key))
    assert "no image" in trouble
