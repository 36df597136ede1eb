"""Finding the machine's engine."""

import os
from collections.abc import Mapping

from fallow.drivers.engine.contract import EngineError
from fallow.drivers.engine.docker_api import DockerApiEngine

_SYSTEM_SOCKETS = ("/var/run/docker.sock", "/run/podman/podman.sock")
_ADVICE = (
    "Start an engine, or say where it is (--engine URL, or DOCKER_HOST):\n"
    "  Podman: systemctl enable --now podman.socket\n"
    "  Docker: systemctl enable --now docker"
)


async def find_engine(
    url: str | None = None,
    *,
    node_id: str = "",
    environment: Mapping[str, str] = os.environ,
    system_sockets: tuple[str, ...] = _SYSTEM_SOCKETS,
) -> DockerApiEngine:
    """Return an engine that answers: at `url`, else where DOCKER_HOST or CONTAINER_HOST say, else at a usual socket.

    What was said is not second-guessed: when it does not answer no other is tried. Raises EngineError
    ("unreachable", or "bad-request" for a url that is none) whose text says what was tried and what to do.
    """
    said = [(name, environment[name]) for name in ("DOCKER_HOST", "CONTAINER_HOST") if environment.get(name)]
    if url:
        said = [("--engine", url)]
    if said:
        source, place = said[0]
        try:
            return await _connect(_as_url(place), node_id)
        except EngineError as error:
            raise EngineError(error.kind, f"no container engine at {place} (from {source}): {error}") from None
    tried = []
    for path, there in _sockets(system_sockets, environment):
        if not there:
            tried.append(f"  {path}: not there")
            continue
        try:
            return await _connect(f"unix://{path}", node_id)
        except EngineError as error:
            tried.append(f"  {path}: {error}")
    raise EngineError("unreachable", "\n".join(("no container engine found. Tried:", *tried, _ADVICE)))


def _sockets(system_sockets: tuple[str, ...], environment: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Return the usual sockets, those of engines without root last, and whether they are there."""
    folder = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    places = (*system_sockets, f"{folder}/podman/podman.sock", f"{folder}/docker.sock")
    return [(place, os.path.exists(place)) for place in places]


def _as_url(place: str) -> str:
    if place.startswith("/"):
        return f"unix://{place}"
    if not place.startswith(("unix:///", "tcp://", "http://", "https://")):
        raise EngineError("bad-request", "an engine's address starts with unix://, tcp:// or https://")
    return place


async def _connect(url: str, node_id: str) -> DockerApiEngine:
    try:
        engine = DockerApiEngine(url, node_id)
    except (OSError, ValueError) as error:  # TLS asked for by the environment, and its files are not there
        raise EngineError("bad-request", str(error)) from None
    try:
        await engine.architecture()  # that it answers is what matters; asking for more takes Podman a second
    except BaseException:
        await engine.close()
        raise
    return engine
