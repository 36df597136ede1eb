"""What this machine has for a testbed, and a reason, with what to do, for each thing it has not."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_INSTALL = "run scripts/install-parts.sh"
_CLONE_NEWNET = 0x40000000


def missing(part: str) -> str | None:
    """Return why `part` cannot be used here, None when it can.

    Parts: namespaces, podman, docker, registry, haproxy, wireguard; and any other name is a program that must be
    installed.
    """
    return _missing(part)


def require(*names: str) -> None:
    """Skip the running test, or its module, when a part is missing, giving the reason."""
    import pytest

    reasons = [reason for name in names if (reason := missing(name)) is not None]
    if reasons:
        pytest.skip("; ".join(reasons), allow_module_level=True)


def runtime() -> str:
    """Return the OCI runtime for Podman here: runc where it is, since crun refuses mixed cgroup versions."""
    return "runc" if program("runc") else "crun"


@functools.cache
def _missing(part: str) -> str | None:
    if part == "namespaces":
        return _missing_namespaces()
    if part == "podman":
        return _missing_namespaces() or _missing_podman()
    if part == "docker":
        return _missing_namespaces() or _missing_programs("dockerd", "containerd", "iptables")
    if part == "registry":
        return _missing_programs("docker-registry")
    if part == "wireguard":
        return _missing_namespaces() or _missing_wireguard()
    return _missing_programs(part)


def program(name: str) -> str | None:
    """Return where a program is, also when it is in a folder for administrators; None when it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _missing_programs(*names: str) -> str | None:
    absent = [name for name in names if program(name) is None]
    return f"{', '.join(absent)} not installed: {_INSTALL}" if absent else None


def _missing_namespaces() -> str | None:
    if not sys.platform.startswith("linux"):
        return "network namespaces are there on Linux only"
    if os.geteuid() != 0:
        return "network namespaces need root: run with sudo"
    # In a process of its own: what is unshared cannot be shared again.
    code = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({_CLONE_NEWNET}) != 0)"
    if subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode != 0:
        return "this machine does not allow new network namespaces (a container without the privilege?)"
    return _missing_programs("ip", "nsenter", "unshare", "tini", "tini-static")


def _missing_podman() -> str | None:
    absent = _missing_programs("podman", "conmon", "iptables")
    if absent:
        return absent
    if program("runc") is None and program("crun") is None:
        return f"neither runc nor crun is installed: {_INSTALL}"
    folders = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman")
    if not any(Path(folder, "netavark").exists() for folder in folders):
        return f"netavark is not installed: {_INSTALL}"
    version = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.\d+", version)
    if found is None or int(found.group(1)) < 4:
        return f"{version.strip() or 'podman'} is too old: 4.0 or newer is needed"
    return None


def _missing_wireguard() -> str | None:
    absent = _missing_programs("wg", "iptables")
    if absent is not None or program("wireguard-go") is not None:
        return absent
    # A namespace takes the interface along when it ends.
    code = ["unshare", "--net", "ip", "link", "add", "type", "wireguard"]
    if subprocess.run(code, capture_output=True, check=False).returncode == 0:
        return None
    return f"this kernel has no WireGuard, and wireguard-go is not installed: {_INSTALL}"
