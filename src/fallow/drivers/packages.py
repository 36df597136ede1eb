"""Packages of agents: wheels of this very installation, and of others that lie in a folder. All in memory, all pure."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import fallow
from fallow.version import VERSION

NAME = "fallow"
MAX_BYTES = 6 * 1024 * 1024  # one frame of a session carries it
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same hash, whenever it is built


class PackageError(Exception):
    """A package cannot be had or used; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One wheel."""

    version: str
    sha256: str
    content: bytes = field(repr=False)


def package_of(content: bytes) -> Package:
    """Return the package that a wheel is. Raises PackageError."""
    if len(content) > MAX_BYTES:
        raise PackageError(f"the package has {len(content)} bytes, more than {MAX_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            version = described(archive)["Version"]
    except zipfile.BadZipFile as error:
        raise PackageError(f"the package is not a wheel: {error}") from error
    return Package(version=version, sha256=hashlib.sha256(content).hexdigest(), content=content)


def described(archive: zipfile.ZipFile) -> metadata.PackageMetadata:
    """Return what a wheel says of itself. Raises PackageError when it is not one of ours."""
    found = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
    if len(found) != 1:
        raise PackageError("the package has no METADATA")
    told = metadata.PathDistribution(zipfile.Path(archive, found[0].partition("/")[0] + "/")).metadata
    if told["Name"] != NAME or not told["Version"]:
        raise PackageError(f"the package is of {told['Name'] or 'nothing'}, not of {NAME}")
    return told


@cache
def own_package() -> Package:
    """Return a wheel made of the files this process runs from; it is made once."""
    root = Path(fallow.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(root):
            _add(archive, f"{NAME}/{path.relative_to(root).as_posix()}", path.read_bytes())
        info = f"{NAME}-{VERSION}.dist-info"
        _add(archive, f"{info}/METADATA", _metadata().encode())
        _add(
            archive,
            f"{info}/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: fallow\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
    return package_of(buffer.getvalue())


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".so"):
            yield path


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def _metadata() -> str:
    try:
        needs = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:  # run from a source tree
        needs = []
    lines = [f"Requires-Dist: {each}" for each in needs if "extra ==" not in each]
    return "\n".join(("Metadata-Version: 2.1", f"Name: {NAME}", f"Version: {VERSION}", *lines, ""))


class Packages:
    """What a control plane has to offer: its own package, and the wheels in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Package] = {}

    def versions(self) -> dict[str, Package]:
        """Return all packages by version; a file takes the place of our own of the same version."""
        found = {VERSION: self._own()}
        for path in sorted(self._folder.glob("*.whl")):
            try:
                package = package_of(path.read_bytes())
            except (OSError, PackageError):
                continue  # half copied, or none of ours
            found[package.version] = package
        return found

    def get(self, version: str, sha256: str) -> Package | None:
        """Return the package with this hash."""
        if sha256 not in self._known:
            self._known |= {each.sha256: each for each in self.versions().values()}
        found = self._known.get(sha256)
        return found if found is not None and found.version == version else None

    def _own(self) -> Package:
        own = next((each for each in self._known.values() if each.version == VERSION), None) or own_package()
        self._known.setdefault(own.sha256, own)
        return own
