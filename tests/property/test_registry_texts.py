"""Whatever a registry says, it is read or refused: nothing else is raised, and no login goes where it must not."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.trust import pattern_trouble, payload_trouble, reference_trouble
from fallow.drivers.registry import Manifest, RegistryError
from fallow.drivers.registry.answers import refusal, retry_after
from fallow.drivers.registry.challenge import Bearer, parse_challenge
from fallow.drivers.registry.documents import (
    ACCEPTED,
    digest_of,
    is_index,
    linux_manifests,
    platform_image,
    platform_of_configuration,
    read_manifest,
)
from fallow.model.references import Reference
from fallow.model.trust import TrustRules

HEADERS = st.one_of(
    st.text(max_size=200),
    st.text(st.sampled_from('Bearer Basic realm="https://a.b/",service\\ \t=x'), max_size=120),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("sha256:" + "a" * 64),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform"]),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip
BODIES = st.binary(max_size=200) | JSON.map(lambda found: json.dumps(found).encode())


@given(HEADERS, st.booleans())
def test_challenges(header: str, insecure: bool):
    try:
        found = parse_challenge(header, insecure=insecure)
    except ValueError:
        return
    if isinstance(found, Bearer):
        assert found.realm.startswith(("https://", "http://") if insecure else "https://") or (
            found.realm.lower().startswith(("https://", "http://") if insecure else "https://")
        )
        assert "@" not in found.realm.split("/")[2]


@given(BODIES, st.sampled_from(ACCEPTED) | st.text(max_size=20))
def test_documents(body: bytes, media_type: str):
    manifest = Manifest(body=body, media_type=media_type, digest=digest_of(body))
    for read in (
        lambda: is_index(manifest),
        lambda: platform_image("linux/amd64", manifest, read_manifest(body)),
        lambda: linux_manifests(body, ()),
        lambda: platform_of_configuration(body),
    ):
        try:
            read()
        except RegistryError as error:
            assert error.kind in ("wrong-content", "bad-request")


@given(st.integers(100, 599), BODIES, st.text(max_size=30))
def test_refusals(status: int, body: bytes, value: str):
    secret = "hunter2hunter2"
    error = refusal("x", status, {"Retry-After": value}, body + secret.encode(), [secret], 0.0)
    assert 0 <= error.retry_after_seconds <= 86400
    assert secret not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 600
    assert 0 <= retry_after(value, 1e9) <= 86400


@given(st.text(st.sampled_from("ab.*?/:-_1"), min_size=1, max_size=12), st.sampled_from(["a.b", "a", "b/a", "ab"]))
def test_a_pattern_without_a_star_matches_one_name(pattern: str, repository: str):
    reference = Reference(registry="evil.example", repository=repository, tag="1")
    if pattern_trouble(pattern) == "" and "*" not in pattern.split("/", maxsplit=1)[0]:
        trouble = reference_trouble(TrustRules(project="p", allow=(pattern,)), reference)
        assert trouble, "no pattern of these letters names this registry"


@given(BODIES)
def test_payloads(body: bytes):
    assert payload_trouble(body, "sha256:" + "b" * 64)
