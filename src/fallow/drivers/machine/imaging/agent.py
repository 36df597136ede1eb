"""Fallow for somebody else's image: this very agent with the packages that it needs, for each Python it may meet."""

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fallow.drivers.machine import commands
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.iso import write_iso
from fallow.drivers.packages import own_package

LABEL = "fallow-agent"
SECONDS = 3600.0
_LEFT_OUT = frozenset({"tests", "__pycache__"})


async def agent_tree(target: Path, version: str, *options: str) -> None:
    """Install this agent, and the packages that it needs, into a folder for a version of Python, `3.11`.

    Raises MachineError, and OSError.
    """
    # By this machine's pip, which knows its index and how to reach it.
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--upgrade", *options]
    words += ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *_needs()]
    try:
        await commands.run(*words, seconds=SECONDS)
    except MachineError as error:
        raise MachineError(
            "failed", f"the agent's packages for Python {version} could not be installed: {error}"
        ) from error
    with zipfile.ZipFile(io.BytesIO(own_package().content)) as archive:
        archive.extractall(target)


async def agent_disk(file: Path, versions: Sequence[str], tell: Callable[[str], None]) -> None:
    """Write a disk with the agent for each of these versions, as `3.11.zip`. Raises MachineError, and OSError."""
    files = {}
    for version in versions:
        tell(f"fetching the agent's packages for Python {version}")
        with tempfile.TemporaryDirectory(prefix="fallow-agent-") as folder:
            await agent_tree(Path(folder), version, "--no-compile")
            files[f"{version}.zip"] = _zipped(Path(folder))
    with file.open("wb") as out:
        write_iso(out, LABEL, files)


def _zipped(root: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not _LEFT_OUT.intersection(name.parts):
                archive.write(path, name)
    return out.getvalue()


def _needs() -> Iterator[str]:
    """Yield what this agent needs, as pip is told."""
    for text in metadata.requires("fallow") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield text.partition(";")[0].strip()
