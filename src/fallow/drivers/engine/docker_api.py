"""Docker and Podman, both through the Docker Engine API (version 1.40 or newer).

What differs between the two is words, sorted in failures.py, and the spelling of a few fields, read in
configuration.py. What is about images is in images.py.
"""

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import aiohttp

from fallow.drivers.engine import configuration
from fallow.drivers.engine.connection import disk_of
from fallow.drivers.engine.contract import (
    LABEL_NODE,
    LABEL_REPLICA,
    Container,
    ContainerRequest,
    EngineError,
    EngineEvent,
    EngineInfo,
)
from fallow.drivers.engine.failures import translated
from fallow.drivers.engine.images import DockerImages
from fallow.drivers.engine.streams import json_lines, log_lines

_INSPECTS_IN_FLIGHT = 8
_TRIES, _TRY_SECONDS = 100, 0.02  # for what the engine knows a moment later than it says
_TIMED_OUT = 124  # as timeout(1) says it
_EVENTS: dict[str, Literal["started", "exited", "removed"]] = {
    "start": "started",
    "die": "exited",
    "died": "exited",
    "destroy": "removed",
    "remove": "removed",
}
# Docker's default driver keeps a log without end. Other drivers were chosen by somebody, or limit themselves.
_LOG_CONFIG: dict[str, Mapping[str, Any]] = {
    "json-file": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
}


class DockerApiEngine(DockerImages):
    """An engine reached at `url`: `unix:///run/docker.sock`, `tcp://host:2375` or `https://host:2376`.

    It sees and touches only containers labelled with `node_id`. At most `max_creates_in_flight` are made or started at
    a time: beyond four, engines take longer for all of them together. `cgroup` is the control group, from the root, for
    all of them; empty: as the engine has it.
    """

    def __init__(self, url: str, node_id: str, *, max_creates_in_flight: int = 4, cgroup: str = "") -> None:
        super().__init__(url)
        self._cgroup = cgroup
        self._node_id = node_id
        self._creates = asyncio.Semaphore(max_creates_in_flight)
        self._inspects = asyncio.Semaphore(_INSPECTS_IN_FLIGHT)
        self._made_with: tuple[Mapping[str, Any], str] | None = None

    async def info(self) -> EngineInfo:
        """Return what the engine and its machine are; disk sizes are 0 when its folder is not on this machine."""
        with translated():
            await self._settle()
            version, info = await asyncio.gather(self._docker.version(), self._docker.system.info())
            self._told = info
            components = version.get("Components") or [{}]
            total, free = disk_of(info.get("DockerRootDir") or "")
            return EngineInfo(
                name="podman" if "podman" in str(components[0].get("Name")).lower() else "docker",
                version=version["Version"],
                api_version=version["ApiVersion"],
                architecture=configuration.architecture_name(version["Arch"]),
                os=info.get("OperatingSystem") or version["Os"],
                kernel=version.get("KernelVersion") or "",
                hostname=info.get("Name") or "",
                cpus=float(info["NCPU"]),
                memory_bytes=int(info["MemTotal"]),
                disk_bytes=total,
                disk_free_bytes=free,
                storage_driver=info.get("Driver") or "",
                cgroup_version=str(info.get("CgroupVersion") or ""),
            )

    async def create(self, request: ContainerRequest) -> Container:
        """Make the container, not yet started, and read back its limits; see the contract."""
        container = await self._made_before(request) or await self._make(request)
        faults = configuration.unapplied(request.spec.resources, container)
        if faults:
            await self.remove(container.id)
            raise EngineError("failed", f"the engine did not apply: {', '.join(faults)}")
        return container

    async def _make(self, request: ContainerRequest) -> Container:
        name = configuration.container_name(request.replica_id)
        log_config, parent = await self._settings()
        body = configuration.create_body(request, self._node_id, log_config, parent)
        async with self._creates:
            try:
                with translated(secrets=request.spec.environment.values()):
                    await self._docker.containers.create(body, name=name)
            except EngineError as error:
                if error.kind != "conflict":
                    raise
        # Also after a conflict: another call of ours was quicker. Docker takes the name before the container is there.
        for _ in range(_TRIES):
            container = await self._made_before(request)
            if container is not None:
                return container
            await asyncio.sleep(_TRY_SECONDS)
        raise EngineError("failed", f"the engine made {name} and does not have it")

    async def _made_before(self, request: ContainerRequest) -> Container | None:
        """Return the replica's container when there is one. Raises conflict when it is another, or not ours."""
        name = configuration.container_name(request.replica_id)
        raw = await self._raw(name)
        if raw is None:
            return None
        if not configuration.belongs_to(raw, self._node_id):
            raise EngineError("conflict", f"a container that is not this node's has the name {name}")
        container = configuration.read_container(raw)
        if container.spec_hash != request.spec_hash:
            raise EngineError("conflict", f"{name} was made from something else")
        return container

    async def start(self, container_id: str) -> Container:
        """Start it; no error when it runs already."""
        await self._require(container_id)
        async with self._creates:
            with translated():
                await self._docker.containers.container(container_id).start()
        return configuration.read_container(await self._require(container_id))

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """Ask it to end, and kill it after the grace; no error when it has ended or is gone."""
        if not await self._runs(container_id):
            return
        limit = aiohttp.ClientTimeout(total=grace_seconds + 60)
        try:
            with translated():
                await self._docker.containers.container(container_id).stop(t=math.ceil(grace_seconds), timeout=limit)
        except EngineError:
            if await self._runs(container_id):  # else it ended, or was removed, in the meantime
                raise

    async def remove(self, container_id: str) -> None:
        """Remove an ended container, with its anonymous volumes; no error when it is gone."""
        if await self.inspect(container_id) is None:
            return
        try:
            with translated():
                await self._docker.containers.container(container_id).delete(v=True)
        except EngineError:
            if await self._raw(container_id) is not None:
                raise

    async def inspect(self, container_id: str) -> Container | None:
        """Return one of our containers; None when it is gone or not ours."""
        raw = await self._raw(container_id)
        if raw is None or not configuration.belongs_to(raw, self._node_id):
            return None
        with translated():
            return configuration.read_container(raw)

    async def list(self) -> list[Container]:
        """Return all of our containers on this node, running or not."""
        wanted = json.dumps({"label": [f"{LABEL_NODE}={self._node_id}"]})
        with translated():
            ids = [container.id for container in await self._docker.containers.list(all="1", filters=wanted)]
        found = await asyncio.gather(*(self._inspect_in_turn(container_id) for container_id in ids))
        return [container for container in found if container is not None]

    def events(self) -> AsyncIterator[EngineEvent]:
        """Yield events from this call on, also those from before the stream is open; see the contract."""
        return self._events(f"{time.time():.9f}")

    async def _events(self, since: str) -> AsyncIterator[EngineEvent]:
        wanted = json.dumps({"type": ["container"], "label": [f"{LABEL_NODE}={self._node_id}"]})
        with translated():
            async with self._stream("GET", "events", params={"since": since, "filters": wanted}) as response:
                async for message in json_lines(response.content.iter_any()):
                    event = _read_event(message)
                    if event is not None:
                        yield event
        raise EngineError("unreachable", "the engine closed the stream of events")

    async def logs(self, container_id: str, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        """Yield log lines, standard output and error together, without line ends."""
        await self._require(container_id)
        params = {"stdout": "1", "stderr": "1", "follow": "1" if follow else "0", "tail": str(tail)}
        with translated():
            async with self._stream("GET", f"containers/{container_id}/logs", params=params) as response:
                async for line in log_lines(response.content.iter_any()):
                    yield line

    async def execute(self, container_id: str, command: tuple[str, ...], timeout_seconds: float) -> int:
        """Run a command inside and return its exit code; 124 on timeout, when it is killed if that is possible.

        A command that is not there gives 126 or 127, as the engine has it.
        """
        await self._require(container_id)
        with translated():
            run = await self._docker.containers.container(container_id).exec(list(command))
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._run_exec(run.id)
            except TimeoutError:
                _kill_exec(container_id, (await run.inspect()).get("Pid") or 0)
                return _TIMED_OUT
            return await _exit_code(run)

    async def _run_exec(self, exec_id: str) -> None:
        """Start what was prepared, attached, and return at its end; Podman forgets the exit code of detached ones."""
        async with self._stream("POST", f"exec/{exec_id}/start", json={"Detach": False, "Tty": False}) as response:
            async for _ in response.content.iter_any():
                pass

    async def _raw(self, container_id: str) -> dict[str, Any] | None:
        try:
            with translated():
                return await self._docker.containers.container(container_id).show()
        except EngineError as error:
            if error.kind == "not-found":
                return None
            raise

    async def _require(self, container_id: str) -> dict[str, Any]:
        raw = await self._raw(container_id)
        if raw is None or not configuration.belongs_to(raw, self._node_id):
            raise EngineError("not-found", f"this node has no container {container_id[:12]}")
        return raw

    async def _inspect_in_turn(self, container_id: str) -> Container | None:
        async with self._inspects:
            return await self.inspect(container_id)

    async def _runs(self, container_id: str) -> bool:
        container = await self.inspect(container_id)
        return container is not None and container.status in ("running", "paused")

    async def _settings(self) -> tuple[Mapping[str, Any], str]:
        """Return how logs are kept, and the control group that containers are to be in, as this engine takes them."""
        if self._made_with is None:
            info = await self._facts()
            parent = configuration.cgroup_parent(self._cgroup, info.get("CgroupDriver") or "")
            self._made_with = _LOG_CONFIG.get(info.get("LoggingDriver") or "", {}), parent
        return self._made_with


def _read_event(message: Mapping[str, Any]) -> EngineEvent | None:
    kind = _EVENTS.get(str(message.get("Action") or message.get("status")))
    attributes = message.get("Actor", {}).get("Attributes") or {}
    if kind is None or LABEL_REPLICA not in attributes:
        return None
    code = attributes.get("exitCode", attributes.get("containerExitCode"))
    return EngineEvent(
        kind=kind,
        container_id=str(message.get("id") or message["Actor"]["ID"]),
        replica_id=attributes[LABEL_REPLICA],
        exit_code=int(code) if kind == "exited" and code is not None else None,
        at=float(message.get("timeNano") or 0) / 1e9 or float(message.get("time") or 0),
    )


async def _exit_code(run: Any) -> int:
    """Return the exit code of a command that has ended; the engine may take a moment to know it."""
    for _ in range(_TRIES):
        state = await run.inspect()
        if not state["Running"]:
            return int(state["ExitCode"])
        await asyncio.sleep(_TRY_SECONDS)
    raise EngineError("failed", "the engine does not say how the command ended")


def _kill_exec(container_id: str, pid: int) -> None:
    """Kill a command that ran too long. The API has no way to; so only where the engine's processes are in sight."""
    with suppress(OSError):
        if pid > 1 and container_id in Path(f"/proc/{pid}/cgroup").read_text():
            os.kill(pid, signal.SIGKILL)
