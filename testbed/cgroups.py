"""Control groups for tests: made under a name of their own, and gone afterwards with what runs in them."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fallow.drivers.cgroups import Groups
from testbed import processes

BURN = "while True: pass"


def missing() -> str | None:
    """Return why control groups cannot be made here; None: they can."""
    groups = Groups()
    if groups.version == 0:
        return "there are no control groups at /sys/fs/cgroup"
    if os.geteuid() != 0:
        return "control groups need root: run with sudo"
    place = groups.folder("cpu", f"/fallow-look-{uuid.uuid4().hex[:8]}")
    if place is None:
        return "control groups have no controller for processors"
    try:
        place.mkdir()
    except OSError as error:
        return f"control groups cannot be made: {error.strerror} (a container without the privilege?)"
    place.rmdir()
    return None


def make(group: str) -> None:
    """Make a group in each tree that measures or limits something."""
    groups = Groups()
    trees = [groups.tree(name) for name in ("cpu", "cpuacct", "memory", "blkio")]
    for tree in {tree for tree in (*trees, groups.unified) if tree is not None}:
        (tree / group.strip("/")).mkdir(exist_ok=True)


def enter(group: str) -> None:
    """Put this process into a group, in each tree that has it; for a child between fork and exec."""
    for folder in Groups().folders(group):
        if folder.parts[:5] != ("/", "sys", "fs", "cgroup", "cpuset"):
            (folder / "cgroup.procs").write_text("0")


def burn(group: str, code: str = BURN, niceness: int = 0) -> subprocess.Popen[bytes]:
    """Start a process in a group that uses a whole processor, or runs other code."""

    def prepare() -> None:
        enter(group)
        os.nice(niceness)

    return subprocess.Popen([sys.executable, "-I", "-S", "-c", code], preexec_fn=prepare)  # noqa: PLW1509


def favour(group: str) -> None:
    """Let a group have processors before anything else here, so that a busy machine does not decide a test."""
    folder = Groups().folder("cpu", group)
    assert folder is not None
    if (folder / "cpu.idle").is_file():
        (folder / "cpu.idle").write_text("0")
    version2 = Groups().version == 2
    (folder / ("cpu.weight" if version2 else "cpu.shares")).write_text("10000" if version2 else "262144")


def allow_first(group: str) -> None:
    """Let processes of a group run first in, first out: where groups have a share of that, version 1 gives none."""
    folder = Groups().folder("cpu", group)
    assert folder is not None
    parts = [folder, *folder.parents][: len(Path(group).parts) - 1]
    for place in reversed(parts):
        if (place / "cpu.rt_runtime_us").is_file():
            (place / "cpu.rt_runtime_us").write_text("400000")


@contextmanager
def groups(count: int) -> Iterator[list[str]]:
    """Yield names for groups; whatever of them exists afterwards is ended and removed, with all below."""
    tag = uuid.uuid4().hex[:8]
    names = [f"/fallow-test-{tag}-{number}" for number in range(count)]
    try:
        yield names
    finally:
        for name in names:
            remove(name)


def remove(group: str) -> None:
    """End all processes of a group and remove it, deepest first."""
    found = Groups()

    def gone() -> bool:
        for pid in found.processes(group):  # also what an agent there has started before its turn came
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return _removed(found.folders(group))

    processes.wait_until(gone, 5, f"the control group {group} to go")


def _removed(folders: list[Path]) -> bool:
    for folder in folders:
        for name, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                Path(name).rmdir()
    return not any(folder.exists() for folder in folders)
