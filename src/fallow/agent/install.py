"""Running an agent as a systemd service that survives reboots. The identity is in the data folder, so no token is."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fallow.agent.session import SessionRefused
from fallow.model.credentials import API_PREFIX, JOIN_PREFIX

UNIT = "fallow-agent.service"
UNIT_FOLDER = Path("/etc/systemd/system")
_RUNS_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_COMMAND_SECONDS = 60.0


class InstallError(Exception):
    """The service could not be installed; the text says why and what to do instead."""


def render_unit(command: Sequence[str], description: str) -> str:
    """Return the unit's text; `command` is an absolute path and its arguments.

    Raises ValueError for a relative path, and for a token among the arguments: anybody may read units.
    """
    if not command or not command[0].startswith("/"):
        raise ValueError("a service needs the absolute path of its program")
    if any(
        word.startswith((f"{JOIN_PREFIX}.", f"{API_PREFIX}.")) for argument in command for word in argument.split("=")
    ):
        raise ValueError("a token must not be part of a unit file; join first, then install")
    if "\n" in description or any(mark in argument for argument in command for mark in "\n\r\0"):
        raise ValueError("a unit file's values must be single lines")
    return f"""\
[Unit]
Description={description.replace("%", "%%")}
Wants=network-online.target
After=network-online.target podman.socket docker.service

[Service]
ExecStart={" ".join(_quote(argument) for argument in command)}
Restart=always
RestartSec=1
# Turned away for good by the control plane: starting again cannot help.
RestartPreventExitStatus={SessionRefused.exit_code}
# Containers and the proxy outlive the agent.
KillMode=process
TimeoutStopSec=15
UMask=0077
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def _quote(argument: str) -> str:
    """Write one argument as systemd.service(5) reads it."""
    text = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return text if text and not any(mark in text for mark in " \t'\";") else f'"{text}"'


def install(command: Sequence[str], description: str, unit_folder: Path = UNIT_FOLDER) -> Path:
    """Write the unit, enable and start it; return the unit's path. Raises InstallError, having changed nothing.

    Installing again replaces the unit and restarts the agent, which touches no container.
    """
    if os.geteuid() != 0:
        raise InstallError("installing a service needs root: run it with sudo, or run fallow without --install")
    if not _RUNS_SYSTEMD.is_dir():
        raise InstallError("this machine does not run systemd: run fallow without --install under its own supervisor")
    try:
        text = render_unit(command, description)
    except ValueError as error:
        raise InstallError(str(error)) from error
    path = unit_folder / UNIT
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InstallError(f"{path} cannot be written: {error.strerror}") from error
    for words in (("daemon-reload",), ("enable", UNIT), ("restart", UNIT)):
        _systemctl(*words)
    return path


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"systemctl {' '.join(words)} could not be run: {error}") from error
    if done.returncode != 0:
        raise InstallError(f"systemctl {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
