"""`fallow image load`."""

import json
from pathlib import Path

import pytest
from cli_fake_api import FakeApi
from conftest import Fallow

from fallow.model.image_archives import LoadedArchive

REACH = "GET /v1/image-archives/reach"
LOAD = "POST /v1/image-archives"


@pytest.fixture
def file(tmp_path: Path) -> str:
    made = tmp_path / "app.tar"
    made.write_text('"an archive"')  # the API of the test reads JSON
    return str(made)


def test_a_dry_run_tells_whom_it_would_reach_and_sends_nothing(fallow: Fallow, api: FakeApi, file: str) -> None:
    api.on(REACH, LoadedArchive(nodes=("web-1", "web-2")))
    ran = fallow("image", "load", file, "--on", "role=web", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines() == [f"would load {file} (12 B) on 2 nodes:", "  web-1", "  web-2"]
    (asked,) = [each for each in api.asked if each.path.startswith("/v1/image-archives")]
    assert json.loads(asked.query["target"])["selector"] == "role=web"
    ran = fallow("image", "load", file, "--on", "role=web", "--dry-run", "--json")
    assert json.loads(ran.out)["nodes"] == ["web-1", "web-2"]


def test_a_canary_is_asked_for(fallow: Fallow, api: FakeApi, file: str) -> None:
    api.on(LOAD, LoadedArchive())
    for options in ((), ("--strategy", "canary", "--parallel", "10%")):
        assert fallow("image", "load", file, "--on", "all", "--detach", *options).code == 0
    first, second = (each.query for each in api.asked if each.path == "/v1/image-archives")
    assert ("canary" in first, first["parallel"]) == (False, "20")
    assert (second["canary"], second["parallel"]) == ("true", "10%")
