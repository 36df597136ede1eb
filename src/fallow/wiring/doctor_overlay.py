"""Whether a machine can be in an encrypted overlay: WireGuard in the kernel or as a program, the tools, the rights."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from fallow.model.doctor import Finding, Verdict
from fallow.model.members import Lease
from fallow.model.network import NetworkState
from fallow.model.pools import NetworkMode

T = TypeVar("T")

_CAP_NET_ADMIN = 12
_LOADED = Path("/sys/module/wireguard")
_MODULES = Path("/lib/modules")
_TUN = Path("/dev/net/tun")
# The program, and the package of Debian and Ubuntu it comes with.
_TOOLS = {"wg": "wireguard-tools", "ip": "iproute2", "iptables": "iptables"}
_PROGRAM = "wireguard-go"


def check_overlay(data: Path) -> Iterator[Finding]:
    """Yield what was found; `data` holds the folders of the members on this machine.

    What is missing is broken where a member has a lease of an overlay, and worth knowing anywhere else.
    """
    lease = _lease(data)
    problem, mend = _problem()
    where = f"for the lease {lease.address} of pool {lease.pool}" if lease is not None else "for an overlay"
    if not problem:
        yield _found("ok", f"{_implementation()}, ready {where}", "")
    elif lease is not None:
        yield _found("broken", f"{problem}: it is needed {where}", mend)
    else:
        yield _found("note", f"{problem}; only members of an overlay need it", mend)


def _problem() -> tuple[str, str]:
    """Return the first thing that is missing, and how to mend it; empty: nothing is."""
    missing = [tool for tool in _TOOLS if not _which(tool)]
    if missing:
        packages = " ".join(_TOOLS[tool] for tool in missing)
        return f"{', '.join(missing)} not installed", f"apt install {packages}"
    if not _implementation():
        mend = f"load the kernel's module (modprobe wireguard), or apt install {_PROGRAM}"
        return f"this kernel has no WireGuard, and {_PROGRAM} is not installed", mend
    if not _kernel() and not os.access(_TUN, os.R_OK | os.W_OK):
        what = "not open to this user" if _TUN.exists() else "not there"
        mend = "modprobe tun; in a container, hand the device in (--device /dev/net/tun)"
        return f"{_PROGRAM} needs {_TUN}, which is {what}", "run as root" if _TUN.exists() else mend
    if not _may_administer():
        return "this user may not make interfaces", "run the agent as root, or with CAP_NET_ADMIN"
    return "", ""


def _implementation() -> str:
    """Return what would be used, as the agent chooses it; empty: there is none."""
    if _kernel():
        return "the kernel's WireGuard"
    return _PROGRAM if _which(_PROGRAM) else ""


def _kernel() -> bool:
    """Say whether this kernel has WireGuard, loaded or ready to be."""
    if _LOADED.exists():
        return True
    for name in ("modules.builtin", "modules.dep"):
        try:
            if "/wireguard.ko" in (_MODULES / platform.release() / name).read_text("utf-8", "replace"):
                return True
        except OSError:
            continue
    return False


def _may_administer() -> bool:
    """Say whether this process may set up network interfaces, as the kernel tells of its capabilities."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


def _lease(data: Path) -> Lease | None:
    """Return the lease of an overlay that a member on this machine has, as it was last told."""
    for folder in (data / "node", data / "gateway", data / "up" / "node", data / "up" / "gateway"):
        network, joined = _read(folder / "network.json", NetworkState), _read(folder / "identity.json", _Saved)
        leases = [network.lease] if network is not None else [joined.identity.lease] if joined is not None else []
        for lease in leases:
            if lease.mode is NetworkMode.WIREGUARD:
                return lease
    return None


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # other checks tell of what cannot be read


class _Leased(msgspec.Struct, frozen=True):
    lease: Lease = Lease(address="")


class _Saved(msgspec.Struct, frozen=True):
    """Of what an agent saved of its identity, the lease."""

    identity: _Leased = _Leased()


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))


def _found(verdict: Verdict, text: str, mend: str) -> Finding:
    return Finding(check="wireguard", verdict=verdict, text=text, mend=mend)
