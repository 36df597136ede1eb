"""What no engine of today does when asked, shown with a server that speaks just enough of the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from fallow.drivers.engine.contract import LABEL_NODE, LABEL_REPLICA, LABEL_SPEC, ContainerRequest, EngineError
from fallow.drivers.engine.docker_api import DockerApiEngine
from fallow.model.containers import ContainerSpec, Resources

CONTAINER = {
    "Id": "c1",
    "Config": {"Labels": {LABEL_NODE: "n1", LABEL_REPLICA: "web-0", LABEL_SPEC: "h"}},
    "State": {"Status": "created"},
    "HostConfig": {"Memory": 0},
}


class Server:
    """An engine that forgets limits and breaks off pulls."""

    def __init__(self) -> None:
        self.made: dict[str, object] | None = None
        self.removed = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1.41")
        fixed = {
            "/version": {"ApiVersion": "1.41", "Version": "1", "Arch": "amd64", "Os": "linux"},
            "/info": {"LoggingDriver": "json-file", "Architecture": "x86_64"},
        }
        if path in fixed:
            return web.json_response(fixed[path])
        if path == "/images/create":
            return web.Response(text='{"status":"Downloading","progressDetail":{"current":1,"total":9},"id":"a"}\n')
        if path == "/containers/create":
            self.made = await request.json()
            return web.json_response({"Id": "c1"}, status=201)
        if path.startswith("/containers/") and self.made is not None and not self.removed:
            self.removed = request.method == "DELETE"
            return web.json_response(CONTAINER)
        return web.json_response({"message": "no such thing"}, status=404)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    stub, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", stub.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "engine.sock")).start()
    yield stub
    await runner.cleanup()


@pytest.fixture
async def engine(server: Server, tmp_path: Path) -> AsyncIterator[DockerApiEngine]:
    driver = DockerApiEngine(f"unix://{tmp_path / 'engine.sock'}", "n1")
    yield driver
    await driver.close()


def wish(resources: Resources) -> ContainerRequest:
    spec = ContainerSpec(image="x", resources=resources)
    return ContainerRequest(replica_id="web-0", deployment="default/web", spec=spec, spec_hash="h")


async def test_a_limit_not_applied_is_named_and_nothing_stays(server: Server, engine: DockerApiEngine) -> None:
    with pytest.raises(EngineError, match="memory limit 4096 bytes") as caught:
        await engine.create(wish(Resources(memory_limit_bytes=4096)))
    assert caught.value.kind == "failed"
    assert server.removed


async def test_dockers_own_logs_are_bounded(server: Server, engine: DockerApiEngine) -> None:
    await engine.create(wish(Resources()))
    assert server.made is not None
    config = server.made["HostConfig"]["LogConfig"]  # type: ignore[index]
    assert config == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


async def test_a_pull_that_breaks_off_is_no_success(engine: DockerApiEngine) -> None:
    with pytest.raises(EngineError, match="broke off") as caught:
        await engine.pull("registry.test/x:1")
    assert caught.value.kind == "failed"
