"""A real registry behind a proxy that misbehaves: whatever it does is told in words, and in time."""

import email.utils
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from registry_images import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Shelf, index_of, tiny
from test_registry import LOGIN

from fallow.drivers.registry import Access, RegistryError
from fallow.drivers.registry.http import HttpRegistry
from fallow.drivers.registry.requests import Timeouts
from fallow.model.images import RegistryLogin
from fallow.model.references import parse_reference
from testbed import parts, registry
from testbed.blobs import digest_of
from testbed.faulty import Fault, FaultyRegistry
from testbed.ports import free_port

pytestmark = pytest.mark.real
DOCKER_OLDEST = "application/vnd.docker.distribution.manifest.v1+prettyjws"
QUICK = Timeouts(connect_seconds=2.0, stall_seconds=0.5, whole_seconds=2.0)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[registry.Registry]:
    parts.require("registry")
    found = registry.Registry.on_loopback(tmp_path_factory.mktemp("registry"), port=free_port())
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def shelf(real: registry.Registry) -> Shelf:
    return Shelf(real.address)


@pytest.fixture
def faulty(real: registry.Registry) -> Iterator[FaultyRegistry]:
    found = FaultyRegistry(real.address)
    yield found
    found.close()


@pytest.fixture
async def client():
    found = HttpRegistry(QUICK)
    yield found
    await found.close()


def access(faulty: FaultyRegistry, login: RegistryLogin | None = None) -> Access:
    return Access(host=faulty.address, login=login, insecure=True)


async def resolve(client: HttpRegistry, faulty: FaultyRegistry, tail: str = ":1", login: RegistryLogin | None = None):
    return await client.resolve(access(faulty, login), parse_reference(f"{faulty.address}/shop/api{tail}"))


async def trouble(client: HttpRegistry, faulty: FaultyRegistry, *faults: Fault, tail: str = ":1") -> RegistryError:
    faulty.faults = list(faults)
    began = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        await resolve(client, faulty, tail)
    assert time.monotonic() - began < 5
    return caught.value


def manifest_of(config: dict[str, object], layers: int = 0) -> bytes:
    layer = {"digest": digest_of(b"x"), "size": 1}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [layer] * layers}).encode()


def changed(body: bytes) -> bytes:
    return body[:-2] + b" }"


@pytest.fixture(autouse=True)
def image(shelf: Shelf):
    return shelf.put("shop/api", "1", tiny())


async def test_the_proxy_itself_changes_nothing(client, faulty, image):
    assert (await resolve(client, faulty)).digest == image.digest


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, "unreachable"),
        (503, "unreachable"),
        (401, "denied"),
        (403, "denied"),
        (418, "failed"),
        (400, "bad-request"),
    ],
)
async def test_status(client, faulty, status: int, kind: str):
    error = await trouble(client, faulty, Fault(status=status))
    assert error.kind == kind
    assert faulty.address in str(error)


async def test_rate_limit_says_when(client, faulty):
    error = await trouble(client, faulty, Fault(status=429, headers={"Retry-After": "17"}))
    assert (error.kind, error.retry_after_seconds) == ("rate-limited", 17.0)
    at = email.utils.formatdate(time.time() + 40, usegmt=True)
    error = await trouble(client, faulty, Fault(status=429, headers={"Retry-After": at}))
    assert error.kind == "rate-limited"
    assert 30 < error.retry_after_seconds <= 41
    for nonsense in ("soon", "-5", "1e9", "1.5"):
        error = await trouble(client, faulty, Fault(status=429, headers={"Retry-After": nonsense}))
        assert error.retry_after_seconds == 0
    error = await trouble(client, faulty, Fault(status=429, headers={"Retry-After": "9" * 30}))
    assert error.retry_after_seconds == 86400


async def test_dead():
    """Nobody listens there."""
    host = f"127.0.0.1:{free_port()}"
    client = HttpRegistry(QUICK)
    with pytest.raises(RegistryError) as caught:
        await client.manifest(Access(host=host, insecure=True), "shop/api", "1")
    assert caught.value.kind == "unreachable"
    await client.close()


async def test_no_tls_where_tls_is_expected(client, faulty):
    with pytest.raises(RegistryError) as caught:
        await client.manifest(Access(host=faulty.address), "shop/api", "1")
    assert caught.value.kind == "unreachable"
    assert "no safe connection" in str(caught.value)


async def test_accepts_and_says_nothing(client):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        found = Access(host=f"127.0.0.1:{mute.getsockname()[1]}", insecure=True)
        with pytest.raises(RegistryError) as caught:
            await client.manifest(found, "shop/api", "1")
    assert caught.value.kind == "stalled"


async def test_says_what_is_not_http(client):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            taken, _ = server.accept()
            with taken:
                taken.recv(4096)
                taken.sendall(b"220 mail.example ESMTP\r\n\x00\x1b[31m\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(RegistryError) as caught:
            await client.manifest(Access(host=f"127.0.0.1:{server.getsockname()[1]}", insecure=True), "shop/api", "1")
        thread.join()
    assert caught.value.kind == "unreachable"
    assert "\x1b" not in str(caught.value)


async def test_slow_beyond_patience(client, faulty):
    assert (await trouble(client, faulty, Fault(path="/manifests/", pause_seconds=0.4))).kind == "timeout"


async def test_stalls_in_a_manifest(client, faulty):
    assert (await trouble(client, faulty, Fault(path="/manifests/", stall_after=50))).kind == "stalled"


async def test_truncates_a_manifest(client, faulty):
    error = await trouble(client, faulty, Fault(path="/manifests/", cut_after=50))
    assert error.kind == "unreachable"
    assert "broke off" in str(error)


async def test_truncates_and_says_so_was_meant(client, faulty):
    fault = Fault(path="/manifests/", body=lambda body: body[:50], headers={"Docker-Content-Digest": None})
    assert (await trouble(client, faulty, fault)).kind == "wrong-content"


async def test_lies_about_a_digest(client, faulty, image):
    fault = Fault(path="/manifests/", body=changed)
    error = await trouble(client, faulty, fault)
    assert (error.kind, image.digest in str(error)) == ("wrong-content", True)
    error = await trouble(client, faulty, fault, tail=f"@{image.digest}")
    assert error.kind == "wrong-content"
    fault = Fault(path="/manifests/", body=changed, headers={"Docker-Content-Digest": None})
    assert (await trouble(client, faulty, fault, tail=f"@{image.digest}")).kind == "wrong-content"
    other = Fault(path="/manifests/", headers={"Docker-Content-Digest": digest_of(b"other")})
    assert (await trouble(client, faulty, other)).kind == "wrong-content"


async def test_another_configuration(client, faulty, image):
    """It would make an image for another machine look like one for ours."""
    fault = Fault(path="/blobs/", body=lambda body: body.replace(b"amd64", b"arm64"))
    assert (await trouble(client, faulty, fault)).kind == "wrong-content"


async def test_manifest_of_a_platform_is_another(client, faulty, shelf):
    images = {"linux/amd64": tiny("a"), "linux/arm64": tiny("b", "arm64")}
    shelf.put_index("shop/api", "many", index_of(images), images.values())
    digest = images["linux/arm64"].digest
    fault = Fault(path=digest, body=lambda _: images["linux/amd64"].body, headers={"Docker-Content-Digest": None})
    assert (await trouble(client, faulty, fault, tail=":many")).kind == "wrong-content"


async def test_manifest_without_end(client, faulty):
    fault = Fault(path="/manifests/", body=lambda _: b" " * (5 * 1024 * 1024), headers={"Docker-Content-Digest": None})
    error = await trouble(client, faulty, fault)
    assert error.kind == "wrong-content"
    assert "4194304" in str(error)


@pytest.mark.parametrize(
    ("body", "media_type", "kind"),
    [
        (b"", OCI_MANIFEST, "wrong-content"),
        (b"{}", OCI_MANIFEST, "bad-request"),
        (b"[]", OCI_MANIFEST, "wrong-content"),
        (b"[" * 100_000, OCI_MANIFEST, "wrong-content"),
        (b'{"schemaVersion": 2, "mediaType": "\xff"}', OCI_MANIFEST, "wrong-content"),
        (b'{"schemaVersion": 1, "fsLayers": []}', DOCKER_OLDEST, "bad-request"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": []}', OCI_MANIFEST, "wrong-content"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": []}', OCI_INDEX, "wrong-content"),
        (b'{"schemaVersion": 2, "manifests": []}', OCI_MANIFEST, "wrong-content"),
        (b'{"schemaVersion": 2, "layers": []}', OCI_MANIFEST, "wrong-content"),
        (json.dumps({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST}).encode(), OCI_MANIFEST, "wrong-content"),
        (b"<html>Please log in to the hotel's network</html>", "text/html", "wrong-content"),
        (manifest_of({"digest": "sha256:../../etc/passwd", "size": 1}), OCI_MANIFEST, "wrong-content"),
        (manifest_of({"digest": digest_of(b"x"), "size": -1}), OCI_MANIFEST, "wrong-content"),
        (manifest_of({"digest": digest_of(b"x"), "size": 1}, 600), OCI_MANIFEST, "not-found"),  # no such configuration
    ],
)  # fmt: skip
async def test_nonsense_for_a_manifest(client, faulty, body: bytes, media_type: str, kind: str):
    headers = {"Docker-Content-Digest": None, "Content-Type": media_type}
    assert (await trouble(client, faulty, Fault(path="/manifests/", body=lambda _: body, headers=headers))).kind == kind


@pytest.mark.parametrize(
    "tail", [":a\nb", ":" + "x" * 200, "@sha256:12", "@sha512:" + "a" * 128, ":a?b=c", ":a/../../x", ":\x00", ":%2e%2e"]
)
async def test_malformed_names_ask_nothing(client, faulty, tail: str):
    with pytest.raises(RegistryError) as caught:
        await client.manifest(access(faulty), "shop/api", tail[1:])
    assert caught.value.kind == "bad-request"
    for repository in ("../v2", "shop/../x", "Shop", "shop//api", "shop/api?x", "shop/api#x", "shop api", "a" * 600):
        with pytest.raises(RegistryError) as caught:
            await client.manifest(access(faulty), repository, "1")
        assert caught.value.kind == "bad-request"
    for host in ("", "user@host", "host/path", "host:port", "a b", "host\r\nX: y"):
        with pytest.raises(RegistryError) as caught:
            await client.manifest(Access(host=host, insecure=True), "shop/api", "1")
        assert caught.value.kind == "bad-request"
    assert faulty.seen == []


async def test_blob_that_breaks_off(client, faulty, image):
    layer = image.layers[1]
    faulty.faults = [Fault(path="/blobs/", cut_after=100_000)]
    got = b""
    with pytest.raises(RegistryError) as caught:
        async with client.open_blob(access(faulty), "shop/api", digest_of(layer)) as opened:
            async for chunk in opened.chunks:
                got += chunk
    assert caught.value.kind == "unreachable"
    assert layer.startswith(got)
    faulty.faults = []
    async with client.open_blob(access(faulty), "shop/api", digest_of(layer), len(got)) as opened:
        rest = b"".join([chunk async for chunk in opened.chunks])
    assert got + rest == layer


async def test_blob_that_stalls(client, faulty, image):
    faulty.faults = [Fault(path="/blobs/", stall_after=100_000)]
    began = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        async with client.open_blob(access(faulty), "shop/api", digest_of(image.layers[1])) as opened:
            async for _ in opened.chunks:
                pass
    assert caught.value.kind == "stalled"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("body", [lambda b: b[:-1] + b"?", lambda b: b[:-1], lambda b: b + b"more", lambda _: b""])
async def test_blob_that_is_another(client, faulty, image, body):
    faulty.faults = [Fault(path="/blobs/", body=body)]
    with pytest.raises(RegistryError) as caught:
        async with client.open_blob(access(faulty), "shop/api", digest_of(image.layers[1])) as opened:
            async for _ in opened.chunks:
                pass
    assert caught.value.kind == "wrong-content"


async def test_blob_in_other_parts_than_asked_for(client, faulty, image):
    digest, size = digest_of(image.layers[1]), len(image.layers[1])
    for wrong in (f"bytes 0-{size - 1}/{size}", f"bytes 10-99/{size}", "bytes 10-9/5", "bytes */5", "lines 1-2/3", ""):
        faulty.faults = [Fault(path="/blobs/", headers={"Content-Range": wrong})]
        with pytest.raises(RegistryError) as caught:
            async with client.open_blob(access(faulty), "shop/api", digest, 10):
                pass
        assert caught.value.kind == "wrong-content"


async def test_a_part_that_is_shorter_than_it_says(client, faulty, image):
    faulty.faults = [Fault(path="/blobs/", body=lambda body: body[:-1])]
    with pytest.raises(RegistryError) as caught:
        async with client.open_blob(access(faulty), "shop/api", digest_of(image.layers[1]), 10) as opened:
            async for _ in opened.chunks:
                pass
    assert caught.value.kind == "unreachable"


async def test_registry_that_serves_no_parts(client, faulty, image):
    class Whole(FaultyRegistry):
        """Leaves `Range` out."""

        def _ask(self, request):
            del request.headers["Range"]
            return super()._ask(request)

    whole = Whole(faulty._upstream)
    try:
        async with client.open_blob(access(whole), "shop/api", digest_of(image.layers[1]), 1000) as opened:
            assert opened.offset == 0
            assert b"".join([chunk async for chunk in opened.chunks]) == image.layers[1]
    finally:
        whole.close()


# redirects and logins


async def test_redirects_carry_no_login(client, faulty, real, image):
    elsewhere = FaultyRegistry(real.address)
    try:
        place = f"http://{elsewhere.address}/v2/shop/api/blobs/{image.image_id}"
        challenge = {"WWW-Authenticate": 'Basic realm="x"'}
        faulty.faults = [
            Fault(path="/manifests/", times=1, status=401, headers=challenge),
            Fault(path="/blobs/", status=307, headers={"Location": place}),
        ]
        found = await resolve(client, faulty, login=LOGIN)
        assert found.platforms[0].image_id == image.image_id
        assert [each.headers.get("Authorization", "")[:5] for each in faulty.seen] == ["", "Basic", "Basic"]
        assert "Authorization" not in elsewhere.seen[0].headers
    finally:
        elsewhere.close()


async def test_a_redirect_back_home_carries_the_login_again(client, faulty, real, image):
    back = f"http://{faulty.address}/v2/shop/api/manifests/1?again"
    faulty.faults = [
        Fault(path="again"),
        Fault(path="/manifests/", times=1, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
        Fault(path="/manifests/", status=302, headers={"Location": back}),
    ]
    await client.manifest(access(faulty, LOGIN), "shop/api", "1")
    assert faulty.seen[-1].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "place", ["", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://a:b@127.0.0.1/", "http://[", "/\x00"]
)
async def test_redirects_to_nowhere(client, faulty, place: str):
    error = await trouble(client, faulty, Fault(status=302, headers={"Location": place}))
    assert error.kind in ("failed", "unreachable")


async def test_redirects_in_a_circle(client, faulty):
    error = await trouble(client, faulty, Fault(status=302, headers={"Location": "/v2/shop/api/manifests/1"}))
    assert error.kind == "failed"
    assert len(faulty.seen) == 6


async def test_tokens(client, faulty, image):
    """The way of Docker Hub: a token of another place, for this repository and for pulling alone."""
    giver = FaultyRegistry()
    giver.faults = [Fault(status=200, body=lambda _: b'{"token": "abc.def", "expires_in": 300}')]
    challenge = f'Bearer realm="http://{giver.address}/token?x=1",service="reg",scope="repository:shop/api:pull,push"'
    faulty.faults = [Fault(path="/manifests/", times=1, status=401, headers={"WWW-Authenticate": challenge})]
    try:
        for _ in range(3):
            assert (await resolve(client, faulty, login=LOGIN)).digest == image.digest
        (asked,) = giver.seen
        assert asked.path == "/token?x=1&service=reg&scope=repository:shop/api:pull"
        assert asked.headers["Authorization"].startswith("Basic ")
        told = [each.headers.get("Authorization") for each in faulty.seen]
        assert told == [None, *["Bearer abc.def"] * 6]
    finally:
        giver.close()


async def test_token_that_is_not_taken_is_renewed_once(client, faulty):
    giver = FaultyRegistry()
    giver.faults = [Fault(status=200, body=lambda _: b'{"access_token": "old"}')]
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{giver.address}/token"'}
    faulty.faults = [Fault(path="/manifests/", status=401, headers=challenge)]
    try:
        error = await trouble(client, faulty, *faulty.faults)
        assert error.kind == "denied"
        assert len(giver.seen) == 1
        await trouble(client, faulty, *faulty.faults)
        assert len(giver.seen) == 2
    finally:
        giver.close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"{}", "denied"),
        (429, b"{}", "rate-limited"),
        (500, b"{}", "unreachable"),
        (302, b"{}", "failed"),
        (200, b"{}", "failed"),
        (200, b"nonsense", "failed"),
        (200, b'{"token": "a\\r\\nX-Evil: 1"}', "failed"),
        (200, b'{"token": "a b"}', "failed"),
        (200, b'{"token": 5}', "failed"),
    ],
)
async def test_tokens_that_are_not_given(client, faulty, status: int, body: bytes, kind: str):
    giver = FaultyRegistry()
    giver.faults = [Fault(status=status, body=lambda _: body, headers={"Location": "http://127.0.0.1:1/"})]
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{giver.address}/token"'}
    faulty.faults = [Fault(path="/manifests/", status=401, headers=challenge)]
    try:
        with pytest.raises(RegistryError) as caught:
            await resolve(client, faulty, login=LOGIN)
        assert caught.value.kind == kind
        assert LOGIN.password not in str(caught.value)
    finally:
        giver.close()


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Bearer",
        "Negotiate",
        'Bearer realm="/token"',
        'Bearer realm="ftp://127.0.0.1/token"',
        'Bearer realm="http://me@127.0.0.1/token"',
        'Bearer realm="http://127.0.0.1/\\" x',
        'Bearer realm="http://127.0.0.1:1/",realm="http://127.0.0.1:2/"',
        "Bearer realm=" + "x" * 5000,
    ],
)
async def test_challenges_that_lead_nowhere(client, faulty, challenge: str):
    faulty.faults = [Fault(path="/manifests/", status=401, headers={"WWW-Authenticate": challenge})]
    with pytest.raises(RegistryError) as caught:
        await resolve(client, faulty, login=LOGIN)
    assert caught.value.kind == "denied"
    assert len(faulty.seen) == 1
    assert "Authorization" not in faulty.seen[0].headers


async def test_words_of_a_registry_hold_no_secret(client, faulty):
    """Some repeat what they were sent; and what they say reaches logs and terminals."""
    said = {"errors": [{"code": "DENIED", "message": f"no: {LOGIN.password} \x1b[2J\nfaked: log line" + "x" * 5000}]}
    faulty.faults = [
        Fault(path="/manifests/", times=1, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
        Fault(path="/manifests/", status=403, body=lambda _: json.dumps(said).encode()),
    ]
    with pytest.raises(RegistryError) as caught:
        await resolve(client, faulty, login=LOGIN)
    text = str(caught.value)
    assert caught.value.kind == "denied"
    assert "***" in text
    assert LOGIN.password not in text
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 700


async def test_a_login_goes_to_nobody_who_does_not_ask(client, faulty, image):
    await resolve(client, faulty, login=LOGIN)
    assert all("Authorization" not in each.headers for each in faulty.seen)
