from pathlib import Path

import pytest

from fallow.drivers.engine.contract import EngineError
from fallow.drivers.engine.detect import find_engine


async def refusal(url: str | None = None, *, environment: dict[str, str], sockets: tuple[str, ...] = ()) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await find_engine(url, environment=environment, system_sockets=sockets)
    return caught.value


async def test_nothing_found_says_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    dead.touch()
    error = await refusal(environment={"XDG_RUNTIME_DIR": str(tmp_path)}, sockets=(str(dead), "/nonexistent.sock"))
    assert error.kind == "unreachable"
    assert f"{dead}: the engine cannot be reached" in str(error)
    assert "/nonexistent.sock: not there" in str(error)
    assert f"{tmp_path}/podman/podman.sock: not there" in str(error)
    assert "systemctl enable --now podman.socket" in str(error)


@pytest.mark.parametrize(
    ("url", "environment", "source"),
    [
        ("unix:///nonexistent/a.sock", {"DOCKER_HOST": "unix:///nonexistent/b.sock"}, "--engine"),
        (None, {"DOCKER_HOST": "unix:///nonexistent/a.sock", "CONTAINER_HOST": "unix:///b.sock"}, "DOCKER_HOST"),
        (None, {"CONTAINER_HOST": "/nonexistent/a.sock"}, "CONTAINER_HOST"),
    ],
)
async def test_what_was_said_is_not_second_guessed(url: str | None, environment: dict[str, str], source: str) -> None:
    error = await refusal(url, environment=environment, sockets=("/run/docker.sock",))
    assert error.kind == "unreachable"
    assert "/nonexistent/a.sock" in str(error)
    assert f"from {source}" in str(error)


async def test_an_address_that_is_none_is_refused() -> None:
    error = await refusal("podman", environment={})
    assert error.kind == "bad-request"
    assert "unix://" in str(error)
