"""A little of the disk that is given up when that is full: to remove a container takes some.

Podman (seen with 4.3) writes its lists of containers and layers anew for that. Where it cannot, it forgets the
container and keeps all that this had written, for good: so there has to be room before it is asked.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

import structlog

from fallow.drivers.engine.contract import Engine

_log = structlog.get_logger("fallow.agent.reserve")

FILE = "reserve"
BYTES = 4 * 2**20


class Reserve:
    """A file in the agent's data folder; of use where that is on the disk of the engine's containers."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def keep(self) -> None:
        """Take it, unless it is there or there is hardly more room than that."""
        with suppress(OSError):
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < 4 * BYTES:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, BYTES)
            finally:
                os.close(descriptor)

    async def remove(self, engine: Engine, container_id: str) -> None:
        """Remove a container, also from a full disk. Raises EngineError."""
        size, free = await engine.disk()
        if size and free < BYTES and await asyncio.to_thread(self._give_up):
            _log.warning("the disk is full; what was kept of it is given up to remove a container", free=free)
        await engine.remove(container_id)
        await asyncio.to_thread(self.keep)

    def _give_up(self) -> bool:
        """Return whether there is more room now."""
        with suppress(OSError):
            self._path.unlink()
            return True
        return False
