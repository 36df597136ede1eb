"""The connection to an engine that speaks the Docker Engine API, and what both halves of a driver ask over it."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp

from fallow.drivers.engine import configuration
from fallow.drivers.engine.failures import translated

_TIMEOUT = aiohttp.ClientTimeout(total=120)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=30)


class DockerConnection:
    """A connection to `url`: `unix:///run/docker.sock`, `tcp://host:2375` or `https://host:2376`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._told: Mapping[str, Any] = {}  # by the engine, of itself
        self._asking = asyncio.Lock()
        path = url.removeprefix("unix://")
        # aiodocker's own connector allows a hundred connections, and every log that is followed holds one.
        self._connector = aiohttp.UnixConnector(path, limit=0) if path != url else None
        address = "unix://localhost" if self._connector is not None else url  # with a connector, the host means nothing
        self._docker = aiodocker.Docker(address, connector=self._connector, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Release the connection."""
        await self._docker.close()
        if self._connector is not None:
            await self._connector.close()

    async def architecture(self) -> str:
        """Return the machine's architecture as OCI images name it; asked of the engine once."""
        return configuration.architecture_name((await self._facts())["Architecture"])

    async def product(self) -> str:
        """Return what the engine is, such as `podman 4.3.1`. Raises EngineError."""
        told = await self._facts()
        name = "podman" if "BuildahVersion" in told else "docker"  # which Docker does not have, and Podman always tells
        return f"{name} {told.get('ServerVersion') or ''}".strip()

    async def disk(self) -> tuple[int, int]:
        """Return size and free space, in bytes, of the disk that holds the images; 0 when it is not on this machine."""
        return disk_of((await self._facts()).get("DockerRootDir") or "")

    async def _facts(self) -> Mapping[str, Any]:
        """Return what the engine says of itself, asked once: Podman looks for packages each time, half a second long.

        Only for what never changes while it runs. Raises EngineError.
        """
        async with self._asking:
            if not self._told:
                with translated():
                    self._told = await self._docker.system.info()
        return self._told

    async def _settle(self) -> None:
        """Settle the version of the API by what a ping says, which costs the engine nothing; else by what it is."""
        docker = self._docker
        if docker.api_version != "auto":
            return
        async with docker.session.get(f"{docker.docker_host}/_ping", timeout=_TIMEOUT) as response:
            told = response.headers.get("Api-Version", "")
        if response.status == 200 and re.fullmatch(r"\d+\.\d+", told):
            docker.api_version = f"v{told}"
        else:
            await docker.version()

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, **body: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a request whose answer is read bit by bit; `body` is aiohttp's. Raises aiodocker.DockerError."""
        docker = self._docker
        await self._settle()
        url = f"{docker.docker_host}/{docker.api_version}/{path}"
        async with docker.session.request(method, url, params=params, timeout=_STREAM, **body) as response:
            if response.status >= 400:
                raise aiodocker.DockerError(response.status, _message(await response.text(errors="replace")))
            yield response


def disk_of(folder: str) -> tuple[int, int]:
    """Return size and free space in bytes; 0 when the folder is not on this machine."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0, 0
    return usage.total, usage.free


def _message(text: str) -> str:
    """Return the message of an error's body, which is JSON more often than not."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()
