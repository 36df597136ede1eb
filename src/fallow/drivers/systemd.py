"""Running fallow as a systemd service: the unit's text, and its installation."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fallow.model.credentials import API_PREFIX, JOIN_PREFIX

UNIT_FOLDER = Path("/etc/systemd/system")
_RUNS_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_RUNTIME_FOLDER = Path("/run/systemd/system")
_COMMAND_SECONDS = 60.0
_ASK_SECONDS = 5.0


class InstallError(Exception):
    """The service could not be installed; the text says why and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One service: `command` is an absolute path and its arguments, `settings` further lines of its [Service] part."""

    name: str
    description: str
    command: Sequence[str]
    after: Sequence[str] = ()
    settings: Sequence[str] = ()


def render(unit: Unit) -> str:
    """Return the unit's text.

    Raises ValueError for a relative path, and for a token among the arguments: anybody may read units.
    """
    command = unit.command
    if not command or not command[0].startswith("/"):
        raise ValueError("a service needs the absolute path of its program")
    if any(
        word.startswith((f"{JOIN_PREFIX}.", f"{API_PREFIX}.")) for argument in command for word in argument.split("=")
    ):
        raise ValueError("a token must not be part of a unit file; join first, then install")
    if "\n" in unit.description or any(mark in argument for argument in command for mark in "\n\r\0"):
        raise ValueError("a unit file's values must be single lines")
    lines = (
        "[Unit]",
        f"Description={unit.description.replace('%', '%%')}",
        "Wants=network-online.target",
        " ".join(("After=network-online.target", *unit.after)),
        "",
        "[Service]",
        f"ExecStart={' '.join(_quote(argument) for argument in command)}",
        "Restart=always",
        "RestartSec=1",
        *unit.settings,
        "UMask=0077",
        "LimitNOFILE=65536",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return "\n".join(lines) + "\n"


def install(unit: Unit, folder: Path = UNIT_FOLDER) -> Path:
    """Write the unit, enable and start it; return the unit's path. Raises InstallError, having changed nothing.

    Installing again replaces the unit and restarts the service.
    """
    if os.geteuid() != 0:
        raise InstallError("installing a service needs root: run it with sudo, or run fallow without --install")
    if not _RUNS_SYSTEMD.is_dir():
        raise InstallError("this machine does not run systemd: run fallow without --install under its own supervisor")
    try:
        text = render(unit)
    except ValueError as error:
        raise InstallError(str(error)) from error
    path = folder / unit.name
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InstallError(f"{path} cannot be written: {error.strerror}") from error
    for words in (("daemon-reload",), ("enable", unit.name), ("restart", unit.name)):
        _systemctl(*words)
    return path


def start_slice(name: str, settings: Sequence[str], folder: Path = _RUNTIME_FOLDER) -> str:
    """Make a slice of systemd's until the next boot, and start it; return why it could not be, empty: it is there.

    Without systemd there is nothing to do. A control group that systemd does not know may lose its controllers
    whenever systemd finds that no unit of its own needs them.
    """
    if not _RUNS_SYSTEMD.is_dir():
        return ""
    text = "\n".join(("[Unit]", "Description=What Fallow lends", "", "[Slice]", *settings)) + "\n"
    path = folder / name
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            _systemctl("daemon-reload")
        _systemctl("start", name)
    except (OSError, InstallError) as error:
        return f"systemd could not start {name}: {error}"
    return ""


def shutting_down() -> bool:
    """Say whether systemd is stopping this whole machine; no without systemd."""
    if not _RUNS_SYSTEMD.is_dir():
        return False
    try:
        done = subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "stopping"


def _quote(argument: str) -> str:
    """Write one argument as systemd.service(5) reads it."""
    text = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return text if text and not any(mark in text for mark in " \t'\";") else f'"{text}"'


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"systemctl {' '.join(words)} could not be run: {error}") from error
    if done.returncode != 0:
        raise InstallError(f"systemctl {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
