"""Rules on images: patterns cannot be got around by names, and a node finds out what was not granted."""

import msgspec
import pytest

from fallow.decide.trust import grant_trouble, pattern_trouble, pulled_trouble, reference_trouble, rules_of
from fallow.model.images import Blob, PlatformImage, PullGrant
from fallow.model.references import parse_reference
from fallow.model.trust import TrustPolicy, TrustRequest, TrustRules

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
INDEX = "sha256:" + "c" * 64


def rules(*allow: str, require_digest: bool = False, signed: bool = False) -> TrustRules:
    return TrustRules(project="shop", allow=allow, require_digest=require_digest, signed=signed)


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("*", "evil.example/x:1"),
        ("nginx", "nginx:1.27"),
        ("library/*", "docker.io/library/nginx"),
        ("shop/*", "shop/api:1"),
        ("shop/*", "docker.io/shop/a/b/c:1"),
        ("docker.io/shop/*", "shop/api"),
        ("registry.example/*", "registry.example/a/b:1"),
        ("registry.example:5000/shop/api", f"registry.example:5000/shop/api@{DIGEST}"),
        ("*.example/shop/*", "a.example/shop/api"),
        ("*/shop/*", "a.example:5000/shop/api"),
        ("localhost/*", "localhost/x"),
        ("registry.example/shop/ap?", "registry.example/shop/api"),
        ("[::1]:5000/*", "[::1]:5000/x"),
    ],
)
def test_allowed(pattern: str, reference: str):
    assert pattern_trouble(pattern) == ""
    assert reference_trouble(rules(pattern), parse_reference(reference)) == ""
    assert msgspec.convert({"project": "shop", "allow": [pattern]}, TrustRequest).allow == (pattern,)


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("shop/*", "registry.example/shop/api"),
        ("shop/*", "shop2/api"),
        ("shop/*", "evil/shop/api"),
        ("nginx", "evil/nginx"),
        ("nginx", "nginx2"),
        ("registry.example/*", "registry.example.evil/x"),
        ("registry.example/*", "registry.example:5000/x"),
        ("registry.example/*", "xregistry.example/x"),
        ("registry.example/*", "evil.example/registry.example/x"),
        ("*.example/shop/*", "evil.test/x.example/shop/api"),
        ("registryXexample/shop", "registry.example/shop"),
        ("registry.example/shop/ap?", "registry.example/shop/ap/x"),
        ("registry.example/shop", "registry.example/shop/api"),
        ("registry.example/a.b", "registry.example/a-b"),
    ],
)
def test_not_allowed(pattern: str, reference: str):
    trouble = reference_trouble(rules(pattern), parse_reference(reference))
    assert "project shop may not use" in trouble
    assert pattern in trouble


def test_one_of_several():
    found = rules("a.example/*", "b.example/*")
    assert reference_trouble(found, parse_reference("b.example/x")) == ""
    assert "a.example/*, b.example/*" in reference_trouble(found, parse_reference("c.example/x"))


def test_no_patterns_allow_every_name():
    assert reference_trouble(rules(), parse_reference("anything.example/x")) == ""


@pytest.mark.parametrize(
    "pattern", ["registry.example/", "a/**", "registry.example/x:1", f"registry.example/x@{DIGEST}", "Shop/Api", "/x"]
)
def test_patterns_that_could_never_match(pattern: str):
    assert pattern_trouble(pattern)


def test_by_digest():
    found = rules(require_digest=True)
    assert "by digest" in reference_trouble(found, parse_reference("nginx:1"))
    assert reference_trouble(found, parse_reference(f"nginx@{DIGEST}")) == ""
    assert reference_trouble(found, parse_reference(f"nginx:1@{DIGEST}")) == ""


def test_what_a_node_is_told():
    policy = TrustPolicy(
        id="shop", created_at=0, updated_at=0, allow=("a.example/*",), require_digest=True, keys=("PEM",)
    )
    assert rules_of(policy) == rules("a.example/*", require_digest=True, signed=True)


IMAGE = PlatformImage(platform="linux/amd64", manifest=Blob(digest=DIGEST, size_bytes=1), image_id=OTHER)
GRANT = PullGrant(reference="docker.io/shop/api:1", image=IMAGE, digest=INDEX, trust=rules("shop/*"))


def test_a_grant_is_checked_again():
    assert grant_trouble(GRANT, "shop/api:1") == ""
    assert "may not use" in grant_trouble(
        msgspec.structs.replace(GRANT, trust=rules("other/*")), "docker.io/shop/api:1"
    )
    assert "by digest" in grant_trouble(
        msgspec.structs.replace(GRANT, trust=rules(require_digest=True)), "docker.io/shop/api:1"
    )
    assert grant_trouble(msgspec.structs.replace(GRANT, trust=None), "docker.io/shop/api:1") == ""


def test_a_grant_for_something_else():
    assert "is granted" in grant_trouble(GRANT, "docker.io/shop/other:1")
    assert "not an image reference" in grant_trouble(GRANT, "Shop")
    asked = f"docker.io/shop/api@{OTHER}"
    assert "is granted" in grant_trouble(msgspec.structs.replace(GRANT, reference=asked), asked)


def test_a_grant_that_must_name_its_bytes():
    without = msgspec.structs.replace(GRANT, image=None, digest="")
    assert grant_trouble(without, "shop/api:1") == ""
    signed = msgspec.structs.replace(without, trust=rules(signed=True))
    assert "which bytes were signed" in grant_trouble(signed, "shop/api:1")


def test_what_was_pulled():
    assert pulled_trouble(GRANT, DIGEST) == ""
    assert pulled_trouble(GRANT, INDEX) == ""
    assert "was pulled" in pulled_trouble(GRANT, OTHER)
    assert pulled_trouble(msgspec.structs.replace(GRANT, image=None), OTHER) == ""
