"""Which version of the agent runs: folders of versions beside the one that was installed, and the step between them.

A new version is unpacked beside the old one and tried out. `state.json` says which one is to run and which one to go
back to; the launcher reads it, and the agent says in it that it got a session.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path, PurePosixPath

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from fallow.agent.folder import write_private
from fallow.drivers.packages import PackageError, described
from fallow.model.wire import Upgrade, UpgradeReported
from fallow.version import VERSION

MAX_UNPACKED_BYTES = 64 * 1024 * 1024
TEST_SECONDS = 60.0
MAX_ERROR = 1000
KEPT = 3  # folders of versions


class VersionState(msgspec.Struct, frozen=True, kw_only=True):
    """Folders by name; an empty name is the version that was installed. `failed`: what the last upgrade came to."""

    current: str = ""
    previous: str = ""
    trial: bool = False  # `current` has yet to get a session
    trial_seconds: float = 60.0
    version: str = ""
    upgrade_id: str = ""
    failed: UpgradeReported | None = None


class Versions:
    """The folder `agent` in an agent's data folder."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "agent-versions"
        self._path = self.folder / "state.json"

    @property
    def state(self) -> VersionState | None:
        """Return what is to run; None: what was installed, nothing else was ever tried, or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=VersionState)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def write(self, state: VersionState) -> None:
        """Keep what is to run. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path, msgspec.json.encode(state))

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process that runs a version."""
        return running_from(self.folder / name) if name else dict(os.environ)

    def stage(self, order: Upgrade) -> None:
        """Unpack, check and try out a version, and let it be the next one to run. Raises PackageError and OSError."""
        if hashlib.sha256(order.package).hexdigest() != order.sha256:
            raise PackageError("the package arrived damaged: its hash is another")
        name = f"{order.version}-{order.sha256[:12]}"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft, ready = self.folder / f"{name}.new", self.folder / name
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _unpack(order, draft)
            _try_out(draft, order.version)
            shutil.rmtree(ready, ignore_errors=True)
            draft.rename(ready)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        now = self.state or VersionState()
        self.write(
            VersionState(
                current=name, previous=now.current, trial=True, trial_seconds=order.trial_seconds,
                version=order.version, upgrade_id=order.upgrade_id,
            )
        )  # fmt: skip
        self._sweep({name, now.current})

    def confirm(self) -> None:
        """Note that the version under trial got a session. Raises OSError."""
        state = self.state
        if state is not None and state.trial:
            self.write(msgspec.structs.replace(state, trial=False))

    def go_back(self, error: str) -> None:
        """Let the version before run again, and keep why, to be reported. Raises OSError."""
        state = self.state or VersionState()
        failed = UpgradeReported(version=state.version, upgrade_id=state.upgrade_id, error=error[:MAX_ERROR])
        self.write(VersionState(current=state.previous, failed=failed))

    def _sweep(self, used: set[str]) -> None:
        """Remove the folders of versions that nobody goes back to, but the newest few."""
        found = [each for each in self.folder.iterdir() if each.is_dir() and each.name not in used]
        found.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        for each in found[max(0, KEPT - len(used)) :]:
            shutil.rmtree(each, ignore_errors=True)


def _unpack(order: Upgrade, folder: Path) -> None:
    """Write the package's files below `folder`. Raises PackageError before anything outside could be touched."""
    try:
        with zipfile.ZipFile(io.BytesIO(order.package)) as archive:
            told = described(archive)
            if told["Version"] != order.version:
                raise PackageError(f"the package is of version {told['Version']}, not {order.version}")
            check_needs(told.get_all("Requires-Dist") or [], str(told["Requires-Python"] or ""))
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise PackageError("the package is too large")
            for entry in entries:
                parts = PurePosixPath(entry.filename).parts
                ours = parts and (parts[0] == "fallow" or parts[0].endswith((".dist-info", ".data")))
                if not ours or ".." in parts or entry.filename.startswith("/") or "\\" in entry.filename:
                    raise PackageError(f"the package has a file that does not belong into it: {entry.filename[:80]!r}")
            archive.extractall(folder, entries)  # `described` has added folders to its names that it has not
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise PackageError(f"the package cannot be unpacked: {error}") from error


def check_needs(
    needs: list[str], python: str, version_of: Callable[[str], str] = metadata.version, own: str = ""
) -> None:
    """See that what a package needs is installed here. Raises PackageError, naming all that is missing."""
    missing = []
    try:
        own = own or ".".join(map(str, sys.version_info[:3]))
        if python and own not in SpecifierSet(python):
            missing.append(f"Python {python} (this is {own})")
        for text in needs:
            need = Requirement(text)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                found = version_of(need.name)
            except metadata.PackageNotFoundError:
                missing.append(f"{need.name}{need.specifier} (none is installed)")
                continue
            if not need.specifier.contains(found, prereleases=True):
                missing.append(f"{need.name}{need.specifier} ({found} is installed)")
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise PackageError(f"the package says unreadably what it needs: {error}") from error
    if missing:
        raise PackageError(
            f"this machine lacks what the new version needs: {', '.join(missing)}; install fallow anew there with pip"
        )


def _try_out(folder: Path, version: str) -> None:
    """Run the new version once. Raises PackageError."""
    command = [sys.executable, "-P", "-m", "fallow", "--version"]
    try:
        done = subprocess.run(
            command, env=running_from(folder), capture_output=True, text=True,
            timeout=TEST_SECONDS, check=False, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageError(f"the new version does not run here: {error}") from error
    if done.returncode != 0 or done.stdout.strip() != version:
        told = (done.stderr.strip().splitlines() or [done.stdout.strip()])[-1]
        raise PackageError(f"the new version does not run here: exit {done.returncode}: {told[:300]}")


def running_from(folder: Path) -> dict[str, str]:
    """Return our environment, with Python looking into `folder` first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))}


class Upgrader:
    """Takes in orders to upgrade, one at a time. `swap` is called when the next version should be started."""

    def __init__(self, versions: Versions, swap: Callable[[], None]) -> None:
        self._versions = versions
        self._swap = swap
        self.swapped = False
        self._busy = ""

    @property
    def failed(self) -> UpgradeReported | None:
        """Return what the last upgrade came to, if it failed."""
        state = self._versions.state
        return state.failed if state is not None else None

    def confirm(self) -> None:
        """Note that we got a session. Raises OSError."""
        self._versions.confirm()

    def take(self, order: Upgrade) -> UpgradeReported | None:
        """Carry out an order, which takes seconds; return why it failed. The same order again is not begun again."""
        if self._busy == order.upgrade_id:
            return None
        self._busy = order.upgrade_id
        try:
            if order.version == VERSION and (self._versions.state or VersionState()).upgrade_id == order.upgrade_id:
                return None
            self._versions.stage(order)
        except (PackageError, OSError) as error:
            self._busy = ""
            return UpgradeReported(version=order.version, upgrade_id=order.upgrade_id, error=str(error)[:MAX_ERROR])
        self.swapped = True
        self._swap()
        return None
