"""The control plane as a systemd service, locked into its data folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fallow.cli.launchers import ServerOptions
from fallow.drivers.systemd import Unit, install
from fallow.model.names import DEFAULT_DOMAIN
from fallow.wiring.logs import say

UNIT = "fallow-server.service"
STATE = Path("/var/lib")

# What it needs of the machine is a network, a clock and one folder. It runs as root, with no capability but binding low
# ports and going on to own files that an earlier `fallow server` of root has made.
_HARDENED = (
    "TimeoutStopSec=30",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
)


def server_unit(options: ServerOptions, program: str) -> Unit:
    """Return the unit that runs what `options` ask for. Its context is not written: services have no home."""
    data = options.data.resolve()
    below = data.is_relative_to(STATE) and data != STATE
    folder = (
        (f"StateDirectory={data.relative_to(STATE)}", "StateDirectoryMode=0700")
        if below
        else (f"ReadWritePaths={data}",)
    )
    return Unit(
        name=UNIT,
        description="Fallow control plane",
        command=(program, *_words(options, data)),
        settings=(*folder, *_HARDENED),
    )


def install_server(options: ServerOptions) -> int:
    """Install and start the service. Raises InstallError."""
    options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = install(server_unit(options, str(Path(sys.argv[0]).resolve())))
    say(
        f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.\n"
        "The first admin token is in that log, once; `fallow context add` takes it."
    )
    return 0


def _words(options: ServerOptions, data: Path) -> Sequence[str]:
    """Return the command line that asks for the same again."""
    words = ["server", "--data", str(data), "--listen", options.listen, "--session-listen", options.session_listen]
    words += ["--domain", options.domain] if options.domain != DEFAULT_DOMAIN else []
    for place in options.dns_listen:
        words += ["--dns-listen", place]
    for name in options.names:
        words += ["--host", name]
    for option, value in (("--advertise", options.advertise), ("--store", options.store)):
        words += [option, value] if value else []
    for option, seconds in (
        ("--heartbeat", options.heartbeat_seconds),
        ("--suspect-after", options.suspect_seconds),
        ("--dead-after", options.dead_seconds),
        ("--cluster-suspect-after", options.cluster_suspect_seconds),
        ("--cluster-dead-after", options.cluster_dead_seconds),
        ("--keep-audit", options.keep_audit_seconds),
        ("--keep-image-record", options.keep_image_tasks_seconds),
        ("--purge-after", options.purge_seconds),
    ):
        words += [option, f"{seconds:g}s"]
    return (*words, "--log-level", options.log.level, "--log-format", "json", "--no-write-context")
