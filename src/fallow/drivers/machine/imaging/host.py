"""The root of an image made of this machine's own programs: no mirror, no registry, built in seconds.

What is taken are programs with the libraries they are linked to, this process's Python with the packages that it runs
from, and the modules of a kernel; busybox is the rest.
"""

import compileall
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

import fallow
from fallow.drivers.machine.commands import PATH
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.imaging.initrd import busybox
from fallow.drivers.machine.imaging.kernel import Kernel, copy_modules

SKELETON = Path(__file__).parent / "host_skeleton"
MODULES = (
    "drivers/virtio",
    "drivers/block/virtio_blk.ko",
    "drivers/net",
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
    "drivers/char/hw_random",
    "drivers/cdrom",
    "fs/isofs",
    "fs/overlayfs",
    "net",
    "lib",
    "crypto",
    "arch/x86/crypto",
)
# Programs by name, with the package that has each; one of several where names are separated by `|`.
PROGRAMS = {
    "podman": "podman",
    "runc|crun": "runc",
    "conmon": "conmon",
    "tini-static|catatonit": "tini",
    "xtables-nft-multi": "iptables",
    "ip": "iproute2",
    "resize2fs": "e2fsprogs",
}
WELCOME_PROGRAMS = ("nft", "wg", "wireguard-go", "nsenter", "unshare", "mount", "umount", "tini", "fuse-overlayfs")
HELPERS = ("netavark", "aardvark-dns", "rootlessport")  # of Podman, in a folder of their own
HELPER_FOLDERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman")
FOLDERS = ("/usr/lib/x86_64-linux-gnu/xtables", "/usr/share/containers", "/etc/ssl/certs", "/usr/share/ca-certificates")
_IPTABLES = ("iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore")
_UNUSED = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "config-*", "*.a"
)
_SKIPPED = frozenset({"..", "tests", "test"})  # of installed packages


def fill(root: Path, kernel: Kernel) -> None:
    """Fill an empty folder with a system that joins as a node. Raises MachineError, and OSError."""
    programs = tuple(_programs())
    _folders(root)
    shutil.copytree(SKELETON, root, dirs_exist_ok=True, copy_function=_copy)
    _busybox(root)
    binaries = [_place(root, path) for path in programs]
    for name in _IPTABLES:
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    for folder in map(Path, FOLDERS):
        if folder.is_dir():
            shutil.copytree(folder, root / folder.relative_to("/"), symlinks=True, dirs_exist_ok=True)
    _configure(root, programs)
    binaries += sorted((root / "usr/lib/x86_64-linux-gnu/xtables").glob("*.so"))
    binaries += _python(root)
    for library in _libraries(binaries):
        place = root / library.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(library.resolve(), place)
    copy_modules(kernel, root, MODULES)


def _folders(root: Path) -> None:
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib", "var/log", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o755)  # the interpreter's libraries may lie in root's home
    (root / "var/run").symlink_to("/run")


def _configure(root: Path, programs: Sequence[Path]) -> None:
    """Write how Podman runs with what was found."""
    names = {path.name: path for path in programs}
    runtime = "runc" if "runc" in names else "crun"
    init = names.get("tini-static") or names.get("catatonit")
    folders = sorted({str(path.parent) for name, path in names.items() if name in HELPERS})
    (root / "etc/containers/containers.conf").write_text(
        f'[containers]\nlog_driver = "k8s-file"\ninit_path = "{init}"\n'
        f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        f'init_path = "{init}"\nhelper_binaries_dir = [{", ".join(f"{each!r}" for each in folders)}]\n'
        f'[network]\nnetwork_backend = "netavark"\n'.replace("'", '"')
    )


def _copy(source: str, target: str) -> None:
    """Copy a file of the skeleton; programs among them begin as scripts do, whatever became of their mode."""
    shutil.copy2(source, target)
    script = Path(target).read_bytes().startswith(b"#!")
    Path(target).chmod(0o755 if script else 0o644)


def _busybox(root: Path) -> None:
    shutil.copy2(busybox(), root / "bin/busybox")
    listed = subprocess.run([str(root / "bin/busybox"), "--list-full"], capture_output=True, text=True, check=True)
    for line in listed.stdout.split():
        place = root / line
        if not place.exists() and not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to("/bin/busybox")


def _programs() -> Iterator[Path]:
    """Yield everything that is taken. Raises MachineError with all that is missing at once."""
    missing = []
    for names, package in PROGRAMS.items():
        found = next(filter(None, map(_which, names.split("|"))), None)
        if found is None:
            missing.append(package)
        else:
            yield found
    helpers = [Path(folder, name) for name in HELPERS for folder in HELPER_FOLDERS if Path(folder, name).exists()]
    if not any(path.name == "netavark" for path in helpers):
        missing.append("netavark")
    if missing:
        raise MachineError("failed", f"programs are missing: apt-get install {' '.join(dict.fromkeys(missing))}")
    yield from helpers
    yield from filter(None, map(_which, WELCOME_PROGRAMS))


def _which(name: str) -> Path | None:
    found = shutil.which(name, path=PATH)
    return Path(found) if found else None


def _place(root: Path, program: Path) -> Path:
    """Copy a program to where it is here, in the form of the folders that every system has."""
    place = root / program.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # a link to busybox
    shutil.copy2(program.resolve(), place)
    return place


def _python(root: Path) -> list[Path]:
    """Copy the interpreter, its library and all packages of Fallow; return what of it is linked to libraries."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library, packages = root / "usr/local/lib" / version, root / "opt/fallow"
    shutil.copytree(sysconfig.get_paths()["stdlib"], library, symlinks=True, ignore=_left_out)
    interpreter = root / "usr/local/bin" / version
    interpreter.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(sys.executable).resolve(), interpreter)
    (interpreter.parent / "python3").symlink_to(version)
    packages.mkdir(parents=True)
    for source, name in _package_files():
        place = packages / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(source, place)
    shutil.copytree(Path(fallow.__file__).parent, packages / "fallow", ignore=_UNUSED, dirs_exist_ok=True)
    for folder in (library, packages):
        compileall.compile_dir(folder, quiet=2, workers=1)
    return [interpreter, *library.glob("lib-dynload/*.so"), *packages.rglob("*.so"), *packages.rglob("*.so.*")]


def _left_out(at: str, names: list[str]) -> set[str]:
    """Leave out of the standard library what is installed beside it, and what no agent needs."""
    top = Path(at) == Path(sysconfig.get_paths()["stdlib"])
    return set(_UNUSED(at, names)) | ({"site-packages", "dist-packages"} & set(names) if top else set())


def _package_files() -> Iterator[tuple[Path, str]]:
    """Yield the files of Fallow's packages, its own apart, each with its name from the folder of packages."""
    for dist in _distributions("fallow"):
        for file in dist.files or ():
            source = Path(str(dist.locate_file(file)))
            if not _SKIPPED.intersection(file.parts) and file.suffix != ".pth" and source.is_file():
                yield source, str(file)


def _distributions(name: str) -> Sequence[importlib.metadata.Distribution]:
    """Return a package and all that it needs here, without extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", wanted).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(wanted)
        except importlib.metadata.PackageNotFoundError as error:
            raise MachineError("failed", f"the package {wanted} is not installed beside this program") from error
        for text in found[key].requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return list(found.values())


def _libraries(files: Iterable[Path]) -> set[Path]:
    """Return the shared libraries of this machine that files are linked to, but for those that lie beside them."""
    environment = {**os.environ, "LC_ALL": "C"}
    told = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False, env=environment)
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", told.stdout)}
    return {path for path in found if path.exists() and "site-packages" not in path.parts and "opt" not in path.parts}
