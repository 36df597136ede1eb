"""The overlay's own packet filter: what is for the overlay comes through it, and what comes through it is for us.

Linux answers for an address of its own on whatever interface a packet comes in. So without this a neighbour on the
open network could route packets for the lease's address to the machine's public one and reach ports that are meant
for the overlay alone; and a peer could send packets for the containers' own addresses, past published ports.
"""

import ipaddress
from collections.abc import Sequence

from fallow.drivers.network.commands import CommandFailed, CommandMissing, Commands
from fallow.drivers.network.contract import NetworkError, network_of
from fallow.model.network import NetworkState

_INSTALL = "iptables is not installed, which keeps others out of the overlay: apt install iptables"


class Guard:
    """Rules in a chain of their own, `name`, of the table `raw`: they are asked before any engine's."""

    def __init__(self, name: str, commands: Commands) -> None:
        self._name = name
        self._commands = commands

    async def apply(self, wanted: NetworkState, outside: Sequence[str]) -> None:
        """Let in nothing for the overlay through `outside`, and from the overlay only what is for us."""
        program = _program(wanted.lease.address)
        rules = [f"-A {self._name} -i {self._name} ! -d {wanted.lease.address} -j DROP"]
        if ipaddress.ip_address(wanted.lease.address).version == 6:
            # Neighbours are not asked for in an overlay, but a link has its own address beside the lease's.
            rules.insert(0, f"-A {self._name} -i {self._name} -d fe80::/10 -j RETURN")
        rules += [f"-A {self._name} -i {link} -d {network_of(wanted)} -j DROP" for link in outside]
        text = "\n".join(("*raw", f":{self._name} - [0:0]", *rules, "COMMIT", ""))
        try:
            await self._commands.run(f"{program}-restore", "-w", "5", "--noflush", stdin=text)
            if not await self._hooked(program):
                await self._commands.run(program, "-w", "5", "-t", "raw", "-I", "PREROUTING", "-j", self._name)
        except CommandMissing as missing:
            raise NetworkError(_INSTALL) from missing

    async def remove(self) -> None:
        """Remove the chain, of both families."""
        for program in ("iptables", "ip6tables"):
            try:
                if await self._hooked(program):
                    await self._commands.run(program, "-w", "5", "-t", "raw", "-D", "PREROUTING", "-j", self._name)
                await self._commands.run(program, "-w", "5", "-t", "raw", "-F", self._name)
                await self._commands.run(program, "-w", "5", "-t", "raw", "-X", self._name)
            except (CommandFailed, CommandMissing):
                continue  # there is none

    async def _hooked(self, program: str) -> bool:
        try:
            await self._commands.run(program, "-w", "5", "-t", "raw", "-C", "PREROUTING", "-j", self._name)
        except CommandFailed:
            return False
        return True


def _program(address: str) -> str:
    return "ip6tables" if ipaddress.ip_address(address).version == 6 else "iptables"
