"""Running an agent as a systemd service that survives reboots. The identity is in the data folder, so no token is."""

from collections.abc import Sequence
from pathlib import Path

from fallow.agent.session import SessionRefused
from fallow.drivers import systemd
from fallow.drivers.systemd import UNIT_FOLDER, InstallError, Unit

__all__ = ["UNIT", "InstallError", "install", "render_unit"]

UNIT = "fallow-agent.service"
SERVER_UNIT = "fallow-lending.service"  # of a machine that lends; it may be a node as well
_SETTINGS = (
    "# Turned away for good by the control plane: starting again cannot help.",
    f"RestartPreventExitStatus={SessionRefused.exit_code}",
    "# Containers and the proxy outlive the agent.",
    "KillMode=process",
    "TimeoutStopSec=15",
)


def render_unit(command: Sequence[str], description: str) -> str:
    """Return the unit's text; `command` is an absolute path and its arguments. Raises as `systemd.render`."""
    return systemd.render(_unit(command, description))


def install(command: Sequence[str], description: str, unit_folder: Path = UNIT_FOLDER, name: str = UNIT) -> Path:
    """Write the unit, enable and start it; return the unit's path. Raises InstallError, having changed nothing.

    Installing again replaces the unit and restarts the agent, which touches no container and no virtual machine.
    """
    return systemd.install(_unit(command, description, name), unit_folder)


def _unit(command: Sequence[str], description: str, name: str = UNIT) -> Unit:
    if name == SERVER_UNIT:
        # Stopped before libvirt, and with the time to let what is lent move away when the machine shuts down.
        settings = (*(line for line in _SETTINGS if not line.startswith("TimeoutStopSec")), "TimeoutStopSec=120")
        after: tuple[str, ...] = ("libvirtd.service", "virtqemud.service", "libvirt-guests.service")
        return Unit(name=name, description=description, command=command, after=after, settings=settings)
    after = ("podman.socket", "docker.service")
    return Unit(name=name, description=description, command=command, after=after, settings=_SETTINGS)
