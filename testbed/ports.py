"""Ports that nobody else of this machine's testbeds takes, from before their owner listens until the program ends."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from testbed.processes import TestbedError

_CLAIMS = Path(tempfile.gettempdir()) / "fallow-ports"
_TRIES = 200


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nobody has it, else any free port. Raises TestbedError.

    Never one of those that outgoing connections are given: one of them would take it before its owner listens.
    """
    some = random.SystemRandom()
    others = (some.randrange(20_000, 32_000) for _ in range(_TRIES))
    for port in others if preferred is None else (preferred, *others):
        if _unused(port) and _claimed(port):
            return port
    raise TestbedError(f"no free port among {_TRIES}")


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _claimed(port: int) -> bool:
    """Claim a port. HAProxy shares its ports, so that two gateways on one would both get some of the requests."""
    _CLAIMS.mkdir(exist_ok=True)
    # The lock ends with this program; it is never closed, and a file object that is not would be complained about.
    file = os.open(_CLAIMS / str(port), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True
