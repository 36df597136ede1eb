"""Running `ip`, `wg` and `iptables`: never through a shell, never with a secret among the arguments."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from fallow.drivers.network.contract import NetworkError

_SECONDS = 20.0
_NOT_FOUND = 127
# Where administrators' programs are, on distributions that leave them out of a service's path.
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"))


class CommandFailed(NetworkError):  # noqa: N818 - an outcome
    """A command ran and ended with an error; `said` is what it wrote."""

    def __init__(self, words: Sequence[str], said: str) -> None:
        super().__init__(f"{' '.join(words[:6])}: {said or 'it failed without a reason'}")
        self.said = said


class CommandMissing(NetworkError):  # noqa: N818 - an outcome
    """A program is not installed."""


class Commands:
    """Runs commands with `prefix` before each: empty for this machine's network, `nsenter ...` for another."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    async def run(self, *words: str, stdin: str = "", quiet: bool = False) -> str:
        """Run a command to its end and return what it wrote. Raises CommandFailed, CommandMissing and NetworkError.

        With `quiet` its output goes nowhere: for one that leaves a process behind, which would keep the pipe open.
        """
        output = asyncio.subprocess.DEVNULL if quiet else asyncio.subprocess.PIPE
        environment = {"PATH": _PATH, "LC_ALL": "C", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
        try:
            child = await asyncio.create_subprocess_exec(
                *self._prefix,
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise CommandMissing(f"{words[0]} is not installed") from error
        except OSError as error:
            raise NetworkError(f"{words[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(_SECONDS):
                out, said = await child.communicate(stdin.encode())
        except TimeoutError as error:
            raise NetworkError(f"{words[0]} did not end within {_SECONDS:g} s") from error
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
        if child.returncode == _NOT_FOUND:  # as the prefix tells it
            raise CommandMissing(f"{words[0]} is not installed")
        if child.returncode != 0:
            raise CommandFailed(words, (said or b"").decode(errors="replace").strip()[-500:])
        return (out or b"").decode(errors="replace")

    async def json(self, *words: str) -> Any:
        """Run `ip -j ...` and return what it says."""
        text = await self.run("ip", "-j", *words)
        try:
            return msgspec.json.decode(text.encode() or b"[]")
        except msgspec.DecodeError as error:
            raise NetworkError(f"ip -j {' '.join(words)}: {error}") from error
