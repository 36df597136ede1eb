"""HAProxy's master process: started so that it outlives us, found again, reloaded, stopped, and watched.

The master runs in a session of its own. Whoever comes after us finds it by the master socket in the folder; a process
id is believed only when that socket tells it.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fallow.drivers.proxy.config import CONFIG_FILE, MASTER_SOCKET, Settings
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.runtime import Processes, Runtime

_START_SECONDS = 15.0
_POLL_SECONDS = 0.02
_LOG_FILE = "haproxy.log"


class Process:
    """The master of one folder."""

    def __init__(self, folder: Path, settings: Settings, runtime: Runtime, on_end: Callable[[], None]) -> None:
        self._folder = folder
        self._settings = settings
        self._runtime = runtime
        self._on_end = on_end
        self._pidfd = -1
        self.died = asyncio.Event()

    async def find(self) -> Processes | None:
        """Return the processes of the running master, None when there is none."""
        try:
            return await self._runtime.processes()
        except ProxyError:
            return None

    async def adopt(self) -> bool:
        """Watch the running master, whoever started it; say whether there is one."""
        if self.died.is_set():
            return False
        if self._pidfd < 0:
            found = await self.find()
            if found is None:
                return False
            self.watch(found.master)
        return True

    async def start(self) -> None:
        """Start it with the configuration in the folder and wait until it answers. Raises ProxyError."""
        self.release()
        for leftover in self._folder.glob("*.sock*"):
            leftover.unlink(missing_ok=True)
        await self._run("-W", "-D", "-S", f"unix@{MASTER_SOCKET},mode,600,level,admin", "-f", CONFIG_FILE)
        async with _deadline("HAProxy did not begin to answer"):
            while True:
                found = await self.find()
                if found is not None and await self._answers():
                    self.watch(found.master)
                    return
                await asyncio.sleep(_POLL_SECONDS)

    async def check(self, name: str) -> None:
        """Raise ProxyError, with HAProxy's words, unless it accepts the configuration in that file of the folder."""
        await self._run("-c", "-q", "-f", name)

    async def reload(self) -> None:
        """Make it read its configuration anew, keeping listeners and connections. Raises ProxyError.

        The runtime's generation must be that of the new configuration.
        """
        before = await self._runtime.processes()
        await self._runtime.ask_master("reload")
        async with _deadline("HAProxy did not finish reloading"):
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                found = await self.find()
                if found is not None and found.failed > before.failed:
                    raise ProxyError(f"HAProxy refused to reload: {self._said()}")
                if found is not None and set(found.workers) - set(before.workers) and await self._answers():
                    return

    async def stop(self) -> None:
        """Stop it: connections may finish for a moment, then it is ended, at last by force."""
        found = await self.find()
        if found is None:
            self.release()
            return
        if self._pidfd < 0:
            self.watch(found.master)
        for number, seconds in (
            (signal.SIGUSR1, self._settings.stop_seconds),
            (signal.SIGTERM, 2.0),
            (signal.SIGKILL, 2.0),
        ):
            pids = [found.master] if number != signal.SIGKILL else [found.master, *found.workers, *found.old_workers]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.died.wait(), seconds)
                break
        self.release()

    def watch(self, master: int) -> None:
        """Set `died` as soon as the master ends."""
        self.release()
        try:
            self._pidfd = os.pidfd_open(master)
        except ProcessLookupError:
            self.died.set()
            self._on_end()
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def release(self) -> None:
        """Watch no longer."""
        self.died = asyncio.Event()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.died.set()
        self._on_end()

    async def _answers(self) -> bool:
        try:
            return "Pid:" in await self._runtime.ask("show info")
        except ProxyError:
            return False

    async def _run(self, *words: str) -> None:
        """Run HAProxy until it has gone to the background. What it says goes to a file: a pipe would stay open."""
        log = os.open(self._folder / _LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            child = await asyncio.create_subprocess_exec(
                self._settings.program,
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
            )
        except OSError as error:
            raise ProxyError(f"{self._settings.program} cannot be run: {error.strerror}") from error
        finally:
            os.close(log)
        async with _deadline("HAProxy did not start"):
            code = await child.wait()
        if code != 0:
            raise ProxyError(f"HAProxy refused its configuration: {self._said()}")

    def _said(self) -> str:
        """Return the alarms in what HAProxy said last."""
        lines = (self._folder / _LOG_FILE).read_text(errors="replace").splitlines()
        alarms = [line.partition(": ")[2].strip() for line in lines if line.startswith("[ALERT]")]
        return "; ".join(alarms)[:1000] or "it gave no reason"


async def read_version(program: str) -> str:
    """Return the version that the program tells: `2.6.12`. Raises ProxyError."""
    try:
        child = await asyncio.create_subprocess_exec(
            program, "-v", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise ProxyError(f"{program} cannot be run: {error.strerror}") from error
    async with _deadline(f"{program} did not tell its version"):
        out, _ = await child.communicate()
    found = re.search(r"version (\d+(?:\.\d+)+)", out.decode("utf-8", "replace"))
    if found is None:
        raise ProxyError(f"{program} is no HAProxy: it told no version")
    return found[1]


@contextlib.asynccontextmanager
async def _deadline(text: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_START_SECONDS):
            yield
    except TimeoutError as error:
        raise ProxyError(f"{text} within {_START_SECONDS:.0f} s") from error
