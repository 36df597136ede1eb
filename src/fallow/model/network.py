"""What a member needs to know to have its lease's address, and what it says of it."""

import base64
import binascii
import re
from typing import Annotated

import msgspec

from fallow.model.members import Lease

KEY_BYTES = 32
# Base64 of 32 bytes; of the last character only four bits count. Empty: the member makes no overlay.
KEY_PATTERN = r"^([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)?$"

WireguardKey = Annotated[str, msgspec.Meta(max_length=44, pattern=KEY_PATTERN)]


class NetworkPeer(msgspec.Struct, frozen=True, kw_only=True):
    """Another member of the overlay: only packets from `address` are taken from it, and only those to it are sent."""

    key: WireguardKey
    address: str  # its lease's
    endpoint: str = ""  # where it is dialled, "198.51.100.7:8455" or "[2001:db8::7]:8455"; empty: it dials


class NetworkState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole network of one member: its lease and everybody it may speak with."""

    lease: Lease
    peers: tuple[NetworkPeer, ...] = ()
    keepalive_seconds: int = 0  # 0: silent while there is nothing to say; else how often a way through NAT is kept open
    name_servers: tuple[str, ...] = ()  # addresses of the pool that serve names at port 53, for its containers
    domain: str = ""  # of those names


class NetworkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a member's network is now. `problem` is for a person; empty when the lease's address works."""

    address: Annotated[str, msgspec.Meta(max_length=64)] = ""
    interface: Annotated[str, msgspec.Meta(max_length=16)] = ""
    implementation: Annotated[str, msgspec.Meta(max_length=64)] = ""  # "kernel", "wireguard-go"
    mtu: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    peers: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    problem: Annotated[str, msgspec.Meta(max_length=1024)] = ""


def is_wireguard_key(text: str) -> bool:
    """Say whether `text` is a usable public key: base64 of 32 bytes that are not all zero."""
    if not text or re.fullmatch(KEY_PATTERN, text) is None:
        return False
    try:
        return any(base64.b64decode(text, validate=True))
    except binascii.Error:
        return False
