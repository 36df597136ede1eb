"""Running `virsh`, `qemu-img` and the like: never through a shell, never with a secret among the arguments.

`virsh` and not libvirt's binding for Python: it needs no headers to build, and a libvirt that hangs holds a process
that can be killed instead of a thread that cannot.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence

from fallow.drivers.machine.contract import ErrorKind, MachineError

SECONDS = 30.0
# Where administrators' programs are, on distributions that leave them out of a service's path.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"))
_PACKAGES = {
    "virsh": "libvirt-clients",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}
_AWAY = ("failed to connect", "cannot recv data", "end of file while reading", "connection refused", "keepalive")
_NO_SPACE = ("no space left", "disk quota exceeded")
_NOT_FOUND = ("failed to get domain", "domain not found", "no domain with matching")


class Ended(MachineError):  # noqa: N818 - an outcome
    """A command ran, and ended with this exit code."""

    def __init__(self, kind: ErrorKind, text: str, code: int) -> None:
        super().__init__(kind, text)
        self.code = code


async def run(*words: str, seconds: float = SECONDS) -> str:
    """Run a command to its end and return what it wrote. Raises MachineError."""
    name = words[0]
    try:
        child = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/root")},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        package = _PACKAGES.get(name, name)
        raise MachineError("failed", f"{name} is not installed: apt-get install {package}") from error
    except OSError as error:
        raise MachineError("failed", f"{name} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            out, said = await child.communicate()
    except TimeoutError as error:
        raise MachineError("unreachable", f"{name} did not end within {seconds:g} s") from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        raise _failure(words, said.decode(errors="replace"), child.returncode)
    return out.decode(errors="replace")


class Virsh:
    """libvirt at a URI, `qemu:///system` where it is installed as usual."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    async def run(self, *words: str, seconds: float = SECONDS) -> str:
        """Run one command of virsh. Raises MachineError, "not-found" for a domain that is not there."""
        return await run("virsh", "-q", "-c", self.uri, *words, seconds=seconds)

    async def batch(self, commands: Sequence[str]) -> str:
        """Run several in one process; their words must have no blanks of their own. Raises MachineError."""
        return await run("virsh", "-q", "-c", self.uri, "; ".join(commands))


def _failure(words: Sequence[str], said: str, code: int) -> Ended:
    lines = [line.removeprefix("error: ").strip() for line in said.splitlines()]
    text = "; ".join(dict.fromkeys(line for line in lines if line))[-600:]
    lowered = text.lower()
    kinds: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
        ("unreachable", _AWAY),
        ("no-space", _NO_SPACE),
        ("not-found", _NOT_FOUND),
    )
    kind: ErrorKind = next((each for each, marks in kinds if any(mark in lowered for mark in marks)), "failed")
    if kind == "unreachable":
        return Ended(kind, f"libvirt does not answer: {text}", code)
    return Ended(kind, f"{words[0]}: {text or 'it failed without a reason'}", code)
