"""Build the control plane's image from what is installed here: no registry, no package index, about half a minute.

The base is this machine's Python with the libraries it is linked to and busybox; the packages are those of this
environment, packed as wheels again. The Containerfile is the one that everybody builds from.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("Containerfile", "pyproject.toml", "README.md", "LICENSE", "requirements.txt")
BUILD_BACKEND = ("setuptools",)
_UNUSED = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "__pycache__", "config-*", "*.a"
)
_SKIPPED = frozenset({"..", "__pycache__", "tests"})  # of installed packages


def main() -> int:
    """Build and return 0, or the exit code of what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default="localhost/fallow:latest", help="what to call the image")
    parser.add_argument("--storage", default="", help="a folder for images of its own instead of the system's")
    options = parser.parse_args()
    buildah = ["buildah", *_storage(options.storage)]
    with tempfile.TemporaryDirectory(prefix="fallow-image-") as name:
        folder = Path(name)
        base = f"localhost/fallow-base:{os.getpid()}"
        try:
            _base(buildah, folder / "base", base)
            context = _context(folder / "context")
            how = ("--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false")
            _run([*buildah, "bud", *how, "--build-arg", f"BASE={base}", "--tag", options.tag, str(context)])
        except subprocess.CalledProcessError as error:
            return error.returncode
        finally:
            subprocess.run([*buildah, "rmi", "--force", base], capture_output=True, check=False)
    print(options.tag)
    return 0


def _storage(folder: str) -> Sequence[str]:
    return ("--root", f"{folder}/root", "--runroot", f"{folder}/run") if folder else ()


def _base(buildah: Sequence[str], rootfs: Path, tag: str) -> None:
    """Make an image of this machine's interpreter."""
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    interpreter = Path(sys.executable).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = rootfs / "usr/local/lib" / version
    shutil.copytree(library, target, symlinks=True, ignore=lambda at, names: _left_out(library, at, names))
    pip = Path(importlib.metadata.distribution("pip").locate_file("pip"))  # type: ignore[arg-type]
    shutil.copytree(pip, target / "pip", ignore=_UNUSED)  # where every interpreter looks: Debian's has no site-packages
    programs = rootfs / "usr/local/bin"
    programs.mkdir(parents=True)
    shutil.copy2(interpreter, programs / version)
    for alias in ("python3", "python"):
        (programs / alias).symlink_to(version)
    for file in _libraries([interpreter, *library.glob("lib-dynload/*.so"), *_extensions()]):
        place = rootfs / file.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.resolve(), place)
    _shell(rootfs)
    container = _run([*buildah, "from", "scratch"]).strip()
    try:
        _run([*buildah, "add", "--quiet", container, str(rootfs), "/"])
        _run([*buildah, "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container])
        _run([*buildah, "commit", "--quiet", container, tag])
    finally:
        _run([*buildah, "rm", container])


def _left_out(library: Path, at: str, names: list[str]) -> set[str]:
    packages = {"site-packages", "dist-packages"} if Path(at) == library else set()
    return set(_UNUSED(at, names)) | (packages & set(names))


def _extensions() -> Sequence[Path]:
    return [
        Path(file.locate())  # type: ignore[arg-type]
        for found in _distributions("fallow")
        for file in found.files or ()
        if file.suffix == ".so" and ".libs/" not in str(file)
    ]


def _libraries(files: Sequence[Path]) -> set[Path]:
    """Return the shared libraries of this machine that the files are linked to; those beside them come with them."""
    told = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", told)}
    return {path for path in found if "site-packages" not in path.parts}


def _shell(rootfs: Path) -> None:
    busybox = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if Path(path).exists()), None)
    if busybox is None:
        raise SystemExit("busybox is not installed (package busybox-static)")
    (rootfs / "bin").mkdir(exist_ok=True)
    shutil.copy2(busybox, rootfs / "bin/busybox")
    for name in ("sh", "mkdir", "chown", "chmod", "rm", "ls", "cat"):
        (rootfs / "bin" / name).symlink_to("busybox")
    for name, mode in (("etc", 0o755), ("tmp", 0o1777), ("var/lib", 0o755), ("root", 0o755)):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
        (rootfs / name).chmod(mode)
    # The interpreter may be linked to libraries in root's home, which others then must be able to enter.
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nfallow:x:10001:10001::/var/lib/fallow:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nfallow:x:10001:\n")


def _context(folder: Path) -> Path:
    """Return a build context: our sources, and every package that we need as a wheel."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    for name in SOURCES:
        shutil.copy2(ROOT / name, folder / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignore)
    found = {dist.metadata["Name"]: dist for name in ("fallow", *BUILD_BACKEND) for dist in _distributions(name)}
    for name, dist in found.items():
        if name != "fallow":
            _pack(dist, wheels)
    return folder


def _distributions(name: str) -> Sequence[importlib.metadata.Distribution]:
    """Return a package and all it needs here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(name)]
    while waiting:
        wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", wanted.name).lower()
        dist = found.get(key) or importlib.metadata.distribution(wanted.name)
        if key in found and not wanted.extras:
            continue
        found[key] = dist
        for text in dist.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return list(found.values())


def _pack(dist: importlib.metadata.Distribution, folder: Path) -> None:
    """Write an installed package as the wheel it came from, but for scripts, which its installer makes again."""
    tag = re.findall(r"^Tag: (\S+)$", dist.read_text("WHEEL") or "", re.MULTILINE)[-1]  # py3 comes after py2
    name = re.sub(r"[-_.]+", "_", dist.metadata["Name"])
    with zipfile.ZipFile(folder / f"{name}-{dist.version}-{tag}.whl", "w", zipfile.ZIP_STORED) as wheel:
        for file in dist.files or ():
            place = Path(file.locate())  # type: ignore[arg-type]
            if not _SKIPPED.intersection(file.parts) and place.is_file():
                wheel.write(place, str(file))


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}", file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
