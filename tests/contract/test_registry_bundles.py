"""Signatures among what refers to an image, as cosign 3 leaves them: only what is right is taken, wherever it is.

Listed by clients under a tag, in a real registry and in the fake, or by the registry itself: a proxy before the real
one adds that part of the API.
"""

import base64
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

import pytest
from registry_images import OCI_INDEX, Shelf, TinyImage, index_of, tiny
from signing import (
    EMPTY,
    bundle_of,
    envelope_of,
    list_of,
    new_key,
    payload_of,
    public_pem,
    put_artifact,
    put_bundles,
    put_signatures,
    sign,
    signed_bundle,
    statement_of,
)

from fallow.drivers.registry import Access, Registry, RegistryError
from fallow.drivers.registry.cosign import MAX_BUNDLE_BYTES, signature_troubles
from fallow.drivers.registry.fake import FakeRegistry
from fallow.drivers.registry.http import MAX_REFERRER_PAGES, HttpRegistry
from testbed import parts, registry
from testbed.blobs import digest_of
from testbed.faulty import Fault, FaultyRegistry
from testbed.ports import free_port

REPOSITORY = "shop/bundled"
KEY = new_key()
BUILT = "https://slsa.dev/provenance/v1"


@dataclass
class Place:
    """Where images and what refers to them are put, and how it is read; with a `proxy`, that lists what refers."""

    shelf: Shelf
    client: Registry
    proxy: FaultyRegistry | None = None

    @property
    def access(self) -> Access:
        return Access(host=self.proxy.address if self.proxy else self.shelf.address, insecure=True)

    def put(self, name: str) -> TinyImage:
        return self.shelf.put(REPOSITORY, "1", tiny(name))

    def sign(self, digest: str, *bundles: bytes) -> None:
        if self.proxy is None:
            put_bundles(self.shelf, REPOSITORY, digest, *bundles)
        else:
            self.list_pages(digest, [[put_artifact(self.shelf, REPOSITORY, digest, each)] for each in bundles])

    def list_pages(self, digest: str, pages: list[list[dict[str, object]]]) -> None:
        """Answer as the API does: a page, and where the next one is."""
        assert self.proxy is not None
        self.proxy.faults = []
        for number, page in reversed(list(enumerate(pages or [[]]))):
            path = f"/v2/{REPOSITORY}/referrers/{digest}"
            headers = {"Content-Type": OCI_INDEX}
            if number + 1 < len(pages):
                headers["Link"] = f'<{path}?last={number + 1}>; rel="next"'
            listed = list_of(page)
            asked = f"{path}?last={number}" if number else path
            self.proxy.faults.append(
                Fault(path=asked, status=200, headers=headers, body=lambda _, listed=listed: listed)
            )

    async def troubles(self, digest: str, *keys: str) -> list[str] | None:
        return await signature_troubles(self.client, self.access, REPOSITORY, digest, keys or [public_pem(KEY)])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    parts.require("registry")
    found = registry.Registry.on_loopback(tmp_path_factory.mktemp("registry"), port=free_port())
    yield Shelf(found.address)
    found.close()


@pytest.fixture
async def listing(real: Shelf) -> AsyncIterator[Place]:
    """A registry that lists what refers to an image."""
    proxy, client = FaultyRegistry(real.address), HttpRegistry()
    yield Place(real, client, proxy)
    await client.close()
    proxy.close()


@pytest.fixture
async def tagging(real: Shelf) -> AsyncIterator[Place]:
    """A registry that does not, so that clients keep the list under a tag."""
    client = HttpRegistry()
    yield Place(real, client)
    await client.close()


@pytest.fixture
def fake() -> Place:
    """A registry in memory, for what hangs on the bundle alone."""
    registry = FakeRegistry()
    return Place(Shelf("registry.example:5000", registry), registry)


@pytest.fixture(
    params=["fake", pytest.param("tagging", marks=pytest.mark.real), pytest.param("listing", marks=pytest.mark.real)]
)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
async def test_signed(place: Place, kind: str) -> None:
    key, image = new_key(kind), place.put(f"bundled by {kind}")
    place.sign(image.digest, signed_bundle(key, image.digest))
    assert await place.troubles(image.digest, public_pem(key)) is None
    assert await place.troubles(image.digest, public_pem(KEY), public_pem(key)) is None, "one is enough"
    (trouble,) = await place.troubles(image.digest, public_pem(new_key(kind))) or []
    assert "none of the keys" in trouble


async def test_an_index_is_signed_as_a_whole(place: Place) -> None:
    images = {"linux/amd64": tiny("a"), "linux/arm64": tiny("b", "arm64")}
    digest = place.shelf.put_index(REPOSITORY, "many", index_of(images), images.values())
    place.sign(digest, signed_bundle(KEY, digest))
    assert await place.troubles(digest) is None
    assert await place.troubles(images["linux/amd64"].digest) == []


async def test_nothing_refers_to_it(place: Place) -> None:
    assert await place.troubles(place.put("lonely").digest) == []
    empty = place.put("all taken away again").digest
    place.sign(empty)
    assert await place.troubles(empty) == []


async def test_signature_of_another_image(place: Place) -> None:
    """Replayed: a good bundle, attached to an image it is not of."""
    good, bad = place.put("good"), place.put("bad")
    place.sign(bad.digest, signed_bundle(KEY, good.digest))
    (trouble,) = await place.troubles(bad.digest) or []
    assert "another image" in trouble
    assert good.digest in trouble


def changed(name: str, digest: str) -> bytes:
    """Return a bundle of which one thing was changed after the key had signed it."""
    envelope, other = envelope_of(KEY, statement_of("sha256:" + "0" * 64)), envelope_of(KEY, statement_of(digest))
    match name:
        case "payload":
            envelope["payload"] = other["payload"]
        case "signature":
            envelope = other | {"signatures": envelope["signatures"]}
        case "kind":  # signed as something else, said to be a statement
            envelope = envelope_of(KEY, statement_of(digest), "text/plain") | {"payloadType": other["payloadType"]}
        case "plain":  # the payload alone was signed
            signature = base64.b64encode(sign(KEY, statement_of(digest))).decode()
            envelope = other | {"signatures": [{"sig": signature}]}
    return bundle_of(envelope)


@pytest.mark.parametrize("name", ["payload", "signature", "kind", "plain"])
async def test_what_was_changed(place: Place, name: str) -> None:
    image = place.put(f"changed {name}")
    place.sign(image.digest, changed(name, image.digest))
    (trouble,) = await place.troubles(image.digest) or []
    assert "was changed" in trouble


async def test_signed_as_something_else(place: Place) -> None:
    """The key may sign much; only one kind of statement lets an image run."""
    image = place.put("something else")
    digest = image.digest
    place.sign(digest, bundle_of(envelope_of(KEY, statement_of(digest), "application/json")))
    assert "no in-toto statement, but 'application/json'" in str(await place.troubles(digest))
    for statement in (statement_of(digest, BUILT), statement_of(digest, kind="https://in-toto.io/Statement/v0.1")):
        place.sign(digest, bundle_of(envelope_of(KEY, statement)))
        assert "no image, but" in str(await place.troubles(digest))
    sha512 = statement_of("sha512:" + digest.partition(":")[2])
    place.sign(digest, bundle_of(envelope_of(KEY, sha512)))
    assert "another image" in str(await place.troubles(digest))


def malformed(digest: str) -> Iterable[bytes]:
    envelope = envelope_of(KEY, statement_of(digest))
    good = json.loads(bundle_of(envelope))
    both = [*envelope["signatures"], *envelope["signatures"]]  # type: ignore[misc] - a list
    yield from (b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10_000, b'{"mediaType":' * 5_000)
    yield bundle_of(envelope, "application/vnd.dev.sigstore.bundle+json;version=0.1")
    yield json.dumps(good | {"dsseEnvelope": None, "messageSignature": {"signature": "AAAA"}}).encode()
    for wrong in ({"signatures": []}, {"signatures": both}, {"payload": "!"}, {"payload": ""}, {"signatures": None}):
        yield bundle_of(envelope | wrong)
    for wrong_signature in ("", "!!!", "AAA", "é", 7, None):
        yield bundle_of(envelope | {"signatures": [{"sig": wrong_signature}]})


async def test_malformed(fake: Place) -> None:
    image = fake.put("malformed")
    for body in malformed(image.digest):
        fake.sign(image.digest, body)
        (trouble,) = await fake.troubles(image.digest) or []
        assert "cannot be read" in trouble, body[:200]


@pytest.mark.parametrize("statement", [b"", b"{}", b"[]", b"\xff", b"[" * 10_000, b'{"_type": 1}'])
async def test_signed_nonsense(fake: Place, statement: bytes) -> None:
    image = fake.put("signed nonsense")
    fake.sign(image.digest, bundle_of(envelope_of(KEY, statement)))
    (trouble,) = await fake.troubles(image.digest) or []
    assert "cannot be read" in trouble


async def test_a_good_one_among_bad_ones(place: Place) -> None:
    image = place.put("among bad ones")
    huge = b" " * MAX_BUNDLE_BYTES + signed_bundle(KEY, image.digest)
    bad = [b"{}", huge, signed_bundle(new_key(), image.digest), signed_bundle(KEY, "sha256:" + "1" * 64)]
    place.sign(image.digest, *bad)
    troubles = await place.troubles(image.digest)
    assert troubles is not None
    assert len(troubles) == 4
    assert f"more than {MAX_BUNDLE_BYTES} bytes" in troubles[1]
    place.sign(image.digest, *bad, signed_bundle(KEY, image.digest))
    assert await place.troubles(image.digest) is None


async def test_either_form_is_enough(place: Place) -> None:
    image = place.put("either form")
    payload = payload_of("sha256:" + "2" * 64)
    put_signatures(place.shelf, REPOSITORY, image.digest, (payload, sign(KEY, payload)))
    place.sign(image.digest, b"{}")
    assert len(await place.troubles(image.digest) or []) == 2, "both are told"
    place.sign(image.digest, signed_bundle(KEY, image.digest))
    assert await place.troubles(image.digest) is None


@pytest.mark.real
@pytest.mark.parametrize("kind", ["", EMPTY])
async def test_lists_that_clients_keep_leave_types_out(tagging: Place, kind: str) -> None:
    image = tagging.put(f"listed as {kind}")
    found = put_artifact(tagging.shelf, REPOSITORY, image.digest, signed_bundle(KEY, image.digest))
    listed = list_of([found | {"artifactType": kind} if kind else {k: found[k] for k in found if k != "artifactType"}])
    tagging.shelf.put_parts(REPOSITORY, [], [(image.digest.replace(":", "-"), listed, OCI_INDEX)])
    assert await tagging.troubles(image.digest) is None


@pytest.mark.real
async def test_what_else_refers_to_it_is_left_alone(listing: Place) -> None:
    """Attestations are bundles too, and may be large; other artifacts are not even looked at."""
    image = listing.put("much refers to it")
    attested = put_artifact(listing.shelf, REPOSITORY, image.digest, signed_bundle(KEY, image.digest, BUILT), BUILT)
    other = put_artifact(listing.shelf, REPOSITORY, image.digest, b"a list of parts") | {"artifactType": "text/spdx"}
    listing.list_pages(image.digest, [[attested, other]])
    assert await listing.troubles(image.digest) == []
    assert listing.proxy is not None
    assert not [path for path in listing.proxy.paths() if "/blobs/" in path or str(other["digest"]) in path]


@pytest.mark.real
async def test_the_next_page_is_asked_of_the_same_registry(listing: Place) -> None:
    image = listing.put("many pages")
    found = put_artifact(listing.shelf, REPOSITORY, image.digest, signed_bundle(KEY, image.digest))
    listing.list_pages(image.digest, [[], [], [found]])
    assert listing.proxy is not None
    first = listing.proxy.faults[-1]
    elsewhere = {"Link": '<http://169.254.1.1/latest?last=1>; rel="next"'}
    listing.proxy.faults[-1] = Fault(
        path=first.path, status=200, headers={**first.headers, **elsewhere}, body=first.body
    )
    assert await listing.troubles(image.digest) is None
    listing.proxy.faults = [listing.proxy.faults[-1]]  # every page is followed by another
    listing.proxy.seen.clear()
    assert await listing.troubles(image.digest) == []
    assert len([path for path in listing.proxy.paths() if "/referrers/" in path]) == MAX_REFERRER_PAGES


@pytest.mark.real
@pytest.mark.parametrize("answer", [400, 404, 405, 406, 200])
async def test_a_registry_without_that_list_is_asked_for_the_tag(listing: Place, answer: int) -> None:
    """Some answer whatever they do not know with a page for people."""
    image = listing.put(f"answers {answer}")
    put_bundles(listing.shelf, REPOSITORY, image.digest, signed_bundle(KEY, image.digest))
    assert listing.proxy is not None
    listing.proxy.faults = [Fault(path="/referrers/", status=answer, headers={"Content-Type": "text/html"})]
    assert await listing.troubles(image.digest) is None


@pytest.mark.real
@pytest.mark.parametrize(("answer", "kind"), [(401, "denied"), (429, "rate-limited"), (500, "unreachable")])
async def test_a_registry_that_does_not_say_is_not_one_without_signatures(
    listing: Place, answer: int, kind: str
) -> None:
    image = listing.put(f"does not say {answer}")
    assert listing.proxy is not None
    listing.proxy.faults = [Fault(path="/referrers/", status=answer)]
    with pytest.raises(RegistryError) as caught:
        await listing.troubles(image.digest)
    assert caught.value.kind == kind


@pytest.mark.real
async def test_the_tag_may_be_the_image_itself(listing: Place) -> None:
    """Some registries read `sha256-HEX` as the digest."""
    images = {"linux/amd64": tiny("a")}
    body = index_of(images)
    digest = listing.shelf.put_index(REPOSITORY, "itself", body, images.values())
    listing.shelf.put_parts(REPOSITORY, [], [(digest.replace(":", "-"), body, OCI_INDEX)])
    assert await listing.troubles(digest) == []
    single = listing.shelf.put(REPOSITORY, "single", tiny("not a list")).body
    other = digest_of(single)
    listing.shelf.put(REPOSITORY, other.replace(":", "-"), tiny("no list"))
    assert await listing.troubles(other) == []
