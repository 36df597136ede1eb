import aiodocker
import aiohttp
import pytest

from fallow.drivers.engine.contract import EngineError
from fallow.drivers.engine.failures import kind_of, translated, without


# What Podman 4.3 and Docker 20.10 really say.
@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "cannot listen on the TCP port: listen tcp4 :20001: bind: address already in use", "port-in-use"),
        (500, "Bind for 0.0.0.0:20001 failed: port is already allocated", "port-in-use"),
        (404, "no such image: registry/x:1: image not known", "not-found"),
        (500, 'the container name "a" is already in use by f00. You have to remove that container', "conflict"),
        (500, "cannot remove container f0 as it is running: container state improper", "conflict"),
        (409, "Container 7024 is not running", "conflict"),
        (500, 'runc: exec: "/nonexist": stat /nonexist: no such file or directory: OCI runtime', "bad-request"),
        (400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "bad-request"),
        (500, "write /var/lib/docker/x: no space left on device", "no-space"),
        (900, "Cannot connect to Docker Engine via unix://localhost", "unreachable"),
        (500, "something nobody has seen", "failed"),
    ],
)
def test_refusals_are_sorted(status: int, text: str, kind: str) -> None:
    assert kind_of(status, text) == kind


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (0, "reading manifest 1 in 10.0.0.1/nothere: manifest unknown: manifest unknown", "not-found"),
        (404, "manifest for 10.0.0.1/x:9 not found: manifest unknown: manifest unknown", "not-found"),
        (0, "reading manifest 1 in 10.0.0.1/x: unauthorized: authentication required", "denied"),
        (500, 'Head "http://10.0.0.1/v2/x/manifests/1": no basic auth credentials', "denied"),
        (404, "pull access denied for x, repository does not exist or may require 'docker login'", "denied"),
        (0, "no image found in image index for architecture amd64", "wrong-platform"),
        (404, "no matching manifest for linux/amd64 in the manifest list entries", "wrong-platform"),
        (
            500,
            'Get "https://10.0.0.1:5999/v2/": dial tcp 10.0.0.1:5999: connect: connection refused',
            "registry-unreachable",
        ),
        (400, "invalid reference format: repository name must be lowercase", "bad-request"),
        (0, "writing blob: no space left on device", "no-space"),
    ],
)
def test_refused_pulls_are_sorted(status: int, text: str, kind: str) -> None:
    assert kind_of(status, text, "pull") == kind


def test_secrets_are_hidden_longest_first() -> None:
    assert without('env "A=secret-and-more" "B=secret"', ["secret", "secret-and-more", ""]) == 'env "A=***" "B=***"'


def test_short_values_are_left_alone() -> None:
    assert without("port 8080 is in use", ["8080", "in"]) == "port 8080 is in use"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (aiodocker.DockerError(409, "hunter22"), "conflict"),
        (TimeoutError(), "unreachable"),
        (aiohttp.ClientPayloadError("hunter22"), "unreachable"),
        (ConnectionResetError("hunter22"), "unreachable"),
        (KeyError("Id"), "failed"),
    ],
)
def test_what_a_client_raises_becomes_an_engine_error(raised: Exception, kind: str) -> None:
    with pytest.raises(EngineError) as caught, translated(secrets=["hunter22"]):
        raise raised
    assert caught.value.kind == kind
    assert "hunter22" not in str(caught.value)
    assert caught.value.__cause__ is None
