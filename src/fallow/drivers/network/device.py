"""The interface: made by the kernel's WireGuard where there is one, else by a program; its address, size and routes."""

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fallow.drivers.network.commands import CommandFailed, CommandMissing, Commands
from fallow.drivers.network.contract import NetworkError, length_of
from fallow.model.network import NetworkState

KERNEL = "kernel"
PROGRAM = "wireguard-go"
INSTALL = (
    "this kernel has no WireGuard, and wireguard-go is not installed: load the kernel's module (modprobe wireguard) "
    "or install the program (Debian, Ubuntu: apt install wireguard-go)"
)

OVERHEAD_BYTES = 80  # of an encrypted packet over IPv6; over IPv4 it is 20 less
USUAL_MTU = 1500
LEAST_MTU = 1280  # IPv6 wants no less


@dataclass(frozen=True)
class Surroundings:
    """Links of this machine beside ours: those packets from elsewhere come in by, and the size the underlay takes."""

    outside: tuple[str, ...]
    mtu: int


class Device:
    """One interface by its name."""

    def __init__(self, name: str, commands: Commands) -> None:
        self.name = name
        self._commands = commands

    async def link(self) -> Mapping[str, Any] | None:
        """Return what `ip` tells of the interface; None when there is none. Raises NetworkError."""
        try:
            found = await self._commands.json("-d", "link", "show", "dev", self.name)
        except CommandFailed as failed:
            if "does not exist" in failed.said:
                return None
            raise
        return found[0] if found else None

    async def make(self) -> None:
        """Make the interface. Raises NetworkError, which says what to install when nothing here can."""
        try:
            await self._commands.run("ip", "link", "add", "dev", self.name, "type", "wireguard")
        except CommandFailed as failed:
            if "Operation not permitted" in failed.said:
                raise NetworkError(
                    "an interface cannot be made: the agent needs root or CAP_NET_ADMIN; run it with sudo"
                ) from failed
            if "Unknown device type" not in failed.said and "not supported" not in failed.said:
                raise
        else:
            return
        try:
            await self._commands.run(PROGRAM, self.name, quiet=True)
        except CommandMissing as missing:
            raise NetworkError(INSTALL) from missing
        except CommandFailed as failed:
            raise NetworkError(f"{PROGRAM} does not start: is /dev/net/tun there and open to the agent?") from failed

    async def settle(self, wanted: NetworkState, mtu: int) -> None:
        """Give it the lease's address, which is also the route to its network; another is taken away afterwards."""
        address = f"{wanted.lease.address}/{length_of(wanted)}"
        link = await self.link()
        if link is None:
            raise NetworkError(f"the interface {self.name} was taken away while it was set up")
        if link.get("mtu") != mtu or "UP" not in link.get("flags", ()):
            await self._commands.run("ip", "link", "set", "dev", self.name, "mtu", str(mtu), "up")
        present = await self.addresses()
        if address not in present:
            await self._commands.run("ip", "address", "add", address, "dev", self.name, *_at_once(address))
        for other in sorted(present - {address}):
            await self._commands.run("ip", "address", "del", other, "dev", self.name)

    async def addresses(self) -> set[str]:
        """Return the addresses of the interface with their prefix length, but for those every link has by itself."""
        (found,) = await self._commands.json("address", "show", "dev", self.name) or [{}]
        return {
            f"{info['local']}/{info['prefixlen']}"
            for info in found.get("addr_info", ())
            if info.get("scope") != "link" and "local" in info
        }

    async def remove(self) -> None:
        """Take the interface away; the program behind it, if any, ends with it. Raises NetworkError."""
        if await self.link() is not None:
            await self._commands.run("ip", "link", "del", "dev", self.name)

    async def surroundings(self, wanted: NetworkState) -> Surroundings:
        """Return what lies around the interface. Raises NetworkError."""
        ways = await self._ways(wanted)
        links = [found for found in await self._commands.json("-d", "link", "show") if found["ifname"] != self.name]
        outside = tuple(
            found["ifname"]
            for found in links
            if "LOOPBACK" not in found.get("flags", ())
            and "master" not in found
            and (_kind(found) != "bridge" or found["ifname"] in ways)
        )
        sizes = [int(found["mtu"]) for found in links if found["ifname"] in ways]
        mtu = max(LEAST_MTU, min(sizes, default=USUAL_MTU) - OVERHEAD_BYTES)
        return Surroundings(outside, mtu)

    async def _ways(self, wanted: NetworkState) -> set[str]:
        """Return the links that lead to peers, or anywhere."""
        routes = [
            route for family in ("-4", "-6") for route in await self._commands.json(family, "route", "show", "default")
        ]
        endpoint = next((peer.endpoint for peer in wanted.peers if peer.endpoint), "")
        if endpoint:
            host = endpoint.rpartition(":")[0].strip("[]")
            with contextlib.suppress(CommandFailed):  # no route to it now; the default one, if any, tells enough
                routes += await self._commands.json("route", "get", host)
        return {str(route["dev"]) for route in routes if route.get("dev") not in (None, "lo", self.name)}


def _kind(link: Mapping[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def _at_once(address: str) -> tuple[str, ...]:
    """An IPv6 address is otherwise not to be used until nobody has answered for it; nobody can, in an overlay."""
    return ("nodad",) if ipaddress.ip_interface(address).version == 6 else ()
