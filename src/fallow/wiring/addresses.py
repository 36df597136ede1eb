"""Addresses as people write them, and sockets to listen at."""

import socket

EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


def split_address(text: str, default_port: int = 0) -> tuple[str, int]:
    """Read `host:port`, `[::1]:port` or, where a default is given, `host`."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        return text.strip("[]"), default_port
    return host.strip("[]"), int(port)


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
