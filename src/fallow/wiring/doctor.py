"""Checking a machine before it is blamed on Fallow: one small function a question, each with what to mend.

A check that cannot be made says so and is no failure. What a machine lacks is broken only where it is already needed: a
folder with a node's identity needs an engine, one with a gateway's needs HAProxy.
"""

import asyncio
import ctypes
import platform
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fallow.cli.launchers import DoctorOptions
from fallow.model.doctor import Finding, Verdict
from fallow.model.units import format_bytes
from fallow.wiring.doctor_overlay import check_overlay

if TYPE_CHECKING:
    from fallow.drivers.engine.contract import EngineInfo

LEAST_PYTHON = (3, 11)
LEAST_HAPROXY, GOOD_HAPROXY = (2, 4), (2, 6)
LEAST_KERNEL = (5, 3)  # pidfd_open(2)
LEAST_DISK_BYTES, GOOD_DISK_BYTES = 1 << 30, 10 << 30
GOOD_OPEN_FILES = 8192  # 4000 callers of the API, and as many members
RELEASED_AT = 1_750_000_000.0  # no clock that is right shows a time before this
CONTROLLERS = frozenset({"cpu", "memory", "pids"})
TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronised
_CGROUPS = Path("/sys/fs/cgroup")


def check_machine(options: DoctorOptions) -> Sequence[Finding]:
    """Return what was found, in the order in which it should be mended."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _kernel,
        _cgroups,
        lambda: _engine(options),
        lambda: _haproxy(options),
        lambda: (_port(port) for port in options.ports),
        lambda: _disk(options.data),
        _open_files,
        _clock,
        lambda: check_overlay(options.data),
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found.extend(check())
        except OSError as error:  # a file the kernel may hide, as in containers
            found.append(_found("machine", "note", f"a check could not be made: {error}"))
    return found


def _python() -> Iterator[Finding]:
    told = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield _found("python", "broken", told, "install Python 3.11 or newer")
    else:
        yield _found("python", "ok", f"{told} at {sys.executable}")


def _kernel() -> Iterator[Finding]:
    release = platform.release()
    if _numbers(release) < LEAST_KERNEL:
        yield _found("kernel", "broken", f"Linux {release}", "a kernel of at least 5.3 is needed")
        return
    missing = [name for name in ("net", "mnt", "pid", "ipc", "uts") if not Path(f"/proc/self/ns/{name}").exists()]
    if missing:
        yield _found(
            "kernel", "broken", f"no namespaces: {', '.join(missing)}", "build the kernel with CONFIG_NAMESPACES"
        )
    elif "overlay" not in Path("/proc/filesystems").read_text("utf-8"):
        mend = "modprobe overlay; until then engines copy every layer of an image"
        yield _found("kernel", "warning", f"Linux {release}, without overlayfs (or not loaded yet)", mend)
    else:
        yield _found("kernel", "ok", f"Linux {release}, with namespaces and overlayfs")


def _cgroups() -> Iterator[Finding]:
    unified = _CGROUPS / "cgroup.controllers"
    if unified.exists():
        mode, there = "v2", frozenset(unified.read_text("utf-8").split())
    else:
        lines = [line.split() for line in Path("/proc/cgroups").read_text("utf-8").splitlines()[1:]]
        mode, there = "v1", frozenset(words[0] for words in lines if words[-1] == "1")
    missing = sorted(CONTROLLERS - there)
    if missing:
        mend = (
            f"enable them at boot: {' '.join(f'cgroup_enable={name}' for name in missing)} on the kernel's command line"
        )
        yield _found("cgroups", "broken", f"{mode}, without {', '.join(missing)}: no limit would hold", mend)
    else:
        yield _found("cgroups", "ok", f"{mode} with {', '.join(sorted(CONTROLLERS))}")


def _engine(options: DoctorOptions) -> Iterator[Finding]:
    from fallow.drivers.engine.contract import EngineError

    needed = options.engine is not None or _member(options.data, "node")
    try:
        info = asyncio.run(_ask_engine(options.engine))
    except EngineError as error:
        lines = str(error).splitlines()
        mend = (
            "\n".join(line.strip() for line in lines[1:] if not line.endswith(": not there"))
            or "start it: systemctl enable --now podman.socket"
        )
        suffix = "" if needed else "; only nodes need one"
        yield _found("engine", "broken" if needed else "warning", lines[0].rstrip(" .:") + suffix, mend)
        return
    text = f"{info.name} {info.version}, API {info.api_version}, {info.architecture}"
    text += f", storage {info.storage_driver or 'not told'}, cgroup v{info.cgroup_version or '?'}"
    if info.storage_driver == "vfs":
        mend = "use the overlay driver: vfs copies every layer of an image for every container"
        yield _found("engine", "warning", text, mend)
    else:
        yield _found("engine", "ok", text)


async def _ask_engine(url: str | None) -> "EngineInfo":
    from fallow.drivers.engine.detect import find_engine

    engine = await find_engine(url)
    try:
        return await engine.info()
    finally:
        await engine.close()


def _haproxy(options: DoctorOptions) -> Iterator[Finding]:
    from fallow.drivers.proxy.config import MASTER_SOCKET
    from fallow.drivers.proxy.contract import ProxyError
    from fallow.drivers.proxy.process import read_version

    needed = _member(options.data, "gateway")
    try:
        told = asyncio.run(read_version(options.haproxy))
    except ProxyError as error:
        suffix = "" if needed else "; only gateways need it"
        yield _found("haproxy", "broken" if needed else "note", f"{error}{suffix}", "install haproxy 2.6 or newer")
        return
    if _numbers(told) < LEAST_HAPROXY:
        yield _found("haproxy", "broken", told, "install 2.6 or newer: older ones cannot add servers while they run")
    elif _numbers(told) < GOOD_HAPROXY:
        yield _found("haproxy", "warning", told, "install 2.6 or newer: servers added to this one are not checked")
    else:
        yield _found("haproxy", "ok", f"{told}, adds servers while it runs")
    master = options.data / "gateway" / "haproxy" / MASTER_SOCKET
    if master.exists():
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
            client.settimeout(2.0)
            try:
                client.connect(str(master))
            except OSError as error:
                mend = "is the gateway running? journalctl -u fallow-agent"
                yield _found("haproxy runtime", "warning", f"{master}: {error.strerror or error}", mend)
            else:
                yield _found("haproxy runtime", "ok", f"{master} answers")


def _port(port: int) -> Finding:
    what = {7443: "API", 7444: "sessions", 80: "gateway", 8080: "fallow up"}.get(port, "")
    name = f"port {port}"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except PermissionError:
            mend = "run as root or under the service, or choose a port above 1023"
            return _found(name, "note", f"not for this user ({what})", mend)
        except OSError as error:
            mend = f"`ss -ltnp sport = :{port}` shows whose it is; fine if it is fallow's own"
            return _found(name, "warning", f"{error.strerror} ({what})", mend)
    return _found(name, "ok", f"free ({what})")


def _disk(data: Path) -> Iterator[Finding]:
    folder = next(place for place in (data, *data.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{format_bytes(free)} free at {folder}"
    if free < LEAST_DISK_BYTES:
        yield _found("disk", "broken", text, "make room: a full disk stops the store, and every change with it")
    elif free < GOOD_DISK_BYTES:
        yield _found("disk", "warning", text, "images need more; clean up, or give it a larger disk")
    else:
        yield _found("disk", "ok", text)


def _open_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and soft < GOOD_OPEN_FILES:
        mend = "`ulimit -n 65536` before `fallow server`; services that --install sets up have LimitNOFILE=65536"
        yield _found("open files", "warning", f"limit {soft} (at most {hard}), {GOOD_OPEN_FILES} is enough", mend)
    else:
        yield _found("open files", "ok", f"limit {soft if soft != resource.RLIM_INFINITY else 'none'}")


def _clock() -> Iterator[Finding]:
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    mend = "timedatectl set-ntp true, or install chrony"
    if now < RELEASED_AT:
        yield _found("clock", "broken", f"{told}: certificates would not be valid", mend)
    elif _unsynchronised():
        yield _found("clock", "warning", f"{told}; the kernel says nobody keeps it right", mend)
    else:
        yield _found("clock", "ok", told)


def _unsynchronised() -> bool:
    """Ask adjtimex(2), which changes nothing when no mode is set. False also when it is not told."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))) == TIME_ERROR
    except (OSError, AttributeError):
        return False


def _member(data: Path, part: str) -> bool:
    return (data / part / "identity.json").exists()


def _numbers(version: str) -> tuple[int, ...]:
    found = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        found.append(int(digits) if digits else 0)
    return tuple(found)


def _found(check: str, verdict: Verdict, text: str, mend: str = "") -> Finding:
    return Finding(check=check, verdict=verdict, text=text, mend=mend)
