"""Addresses as people write them, and sockets to listen at."""

import re
import socket

EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[0-9]{1,5}))?")


def split_address(text: str, default_port: int = 0) -> tuple[str, int]:
    """Read `host:port`, `[::1]:port` or, where a default is given, `host`. Raises ValueError when it is neither."""
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"] or default_port) if match is not None else -1
    if match is None or not 0 <= port <= 65535:
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, and IPv6 addresses in brackets")
    return match["six"] or match["host"] or "", port


def reachable(host: str) -> str:
    """Return a host to dial for one to listen on: every address means this machine."""
    return "127.0.0.1" if host in EVERY_ADDRESS else host


def bracketed(host: str) -> str:
    """Return a host as URLs write it: IPv6 addresses stand in brackets."""
    return f"[{host}]" if ":" in host else host


def primary_address() -> str:
    """Return the address by which other machines most likely reach this one: that of its default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737); connecting sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {bracketed(host)}:{port}: {error.strerror}") from error
