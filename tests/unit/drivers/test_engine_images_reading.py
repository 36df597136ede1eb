"""What both engines say of their images, in the words they use."""

import pytest

from fallow.drivers.engine.configuration import fixed_image, image_id, stored_image
from fallow.drivers.engine.contract import StoredImage
from fallow.drivers.engine.failures import kind_of, retry_after

ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("raw", "references", "digests"),
    [
        (  # Docker
            {"RepoTags": ["nginx:1", "10.0.0.1:5000/a:2"], "RepoDigests": [f"nginx@{DIGEST}"]},
            ("10.0.0.1:5000/a:2", "docker.io/library/nginx:1"),
            (f"docker.io/library/nginx@{DIGEST}",),
        ),
        (
            {"RepoTags": ["<none>:<none>"], "RepoDigests": [f"nginx@{DIGEST}"]},
            (),
            (f"docker.io/library/nginx@{DIGEST}",),
        ),
        ({"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}, (), ()),
        ({"RepoTags": None, "RepoDigests": None}, (), ()),
        (  # Podman, pulled by digest
            {"RepoTags": [f"10.0.0.1:5000/a@{DIGEST}"], "RepoDigests": [f"10.0.0.1:5000/a@{DIGEST}"]},
            (),
            (f"10.0.0.1:5000/a@{DIGEST}",),
        ),
        ({"RepoTags": ["localhost/a:1"], "RepoDigests": []}, ("localhost/a:1",), ()),
    ],
)
def test_names(raw: dict, references: tuple, digests: tuple) -> None:
    found = stored_image({**raw, "Size": 5, "Containers": -1}, StoredImage(id=ID), 2)
    assert (found.references, found.digests, found.size_bytes, found.containers) == (references, digests, 5, 2)


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [([30, 0, 20], (20, 30)), ([30, 20], (20, 30)), ([0, 20], (20, 0)), ([30, 0, 0], ()), ([], ())],
    ids=["a step without a layer", "a step for each", "an empty layer", "it cannot be told", "no history"],
)
def test_sizes_of_layers_where_they_can_be_told(steps: list, sizes: tuple) -> None:
    raw = {"Id": ID, "Architecture": "amd64", "RootFS": {"Layers": ["sha256:a", "sha256:b"]}}
    assert fixed_image(raw, [{"Size": size} for size in steps]).layer_bytes == sizes


def test_an_id_without_its_algorithm() -> None:
    assert image_id("1" * 64) == ID == image_id(ID)
    assert image_id("") == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("toomanyrequests: You have reached your pull rate limit", "rate-limited"),
        ("received unexpected HTTP status: 503 Service Unavailable", "registry-unreachable"),
        ("Get http://10.0.0.1/v2/: net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
         "registry-unreachable"),
        ("error pulling image configuration: download failed after attempts=6: unexpected EOF", "registry-unreachable"),
        ("http: server gave HTTP response to HTTPS client", "registry-unreachable"),
        ("filesystem layer verification failed for digest sha256:1", "wrong-content"),
        ("Manifest does not match provided manifest digest sha256:1", "wrong-content"),
        ("writing blob: storing blob to file: write /var/tmp/x: no space left on device", "no-space"),
    ],
)  # fmt: skip
def test_what_goes_wrong_with_registries(text: str, kind: str) -> None:
    assert kind_of(0, text, "pull") == kind


@pytest.mark.parametrize(
    "text",
    [
        "conflict: unable to remove repository reference (must force) - container 1 is using its referenced image 2",
        "image used by 1: image is in use by a container: consider listing external containers",
    ],
)
def test_images_in_use(text: str) -> None:
    assert kind_of(409, text) == "in-use"


def test_a_registry_that_says_when_to_come_back() -> None:
    assert retry_after("429 Too Many Requests (Retry-After: 37)") == 37
    assert retry_after("retry after 5s") == 5
    assert retry_after("retry-after: 99999") == 86_400
    assert retry_after("nothing of it") == 0
