"""WireGuard, by `ip` and `wg`: the kernel's where it has it, else the program wireguard-go. Both obey the same `wg`.

Only differences are written. `wg syncconf` would do that for peers, but it also sets key and port again, and
wireguard-go then opens its socket anew and loses what was in it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fallow.drivers.network.commands import CommandFailed, CommandMissing, Commands
from fallow.drivers.network.contract import NetworkError, checked
from fallow.drivers.network.device import KERNEL, PROGRAM, Device
from fallow.drivers.network.guard import Guard
from fallow.model.members import Lease
from fallow.model.network import NetworkPeer, NetworkReport, NetworkState
from fallow.model.pools import NetworkMode

# A session of WireGuard lives for three minutes after its handshake (REJECT_AFTER_TIME of its paper).
ALIVE_SECONDS = 180.0
REMOVED_AT_ONCE = 500
_INSTALL = "wg is not installed: install wireguard-tools (Debian, Ubuntu: apt install wireguard-tools)"


@dataclass(frozen=True)
class _Known:
    """A peer as it is in the interface."""

    key: str
    endpoint: str
    allowed: str
    handshake_at: float  # UTC seconds; 0: never
    keepalive_seconds: int


@dataclass(frozen=True)
class _Dump:
    """What `wg` tells of an interface, but for its private key."""

    key: str  # public; empty: it has none yet
    port: int
    peers: dict[str, _Known]


class WireGuard:
    """The interface `name`, with the private key in the file `key_path` (base64, 0600), whose public key is `key`.

    `prefix` are words before every command, to act in another network than this process's. `clock` gives UTC seconds.
    """

    def __init__(
        self,
        name: str,
        key_path: Path,
        key: str,
        *,
        prefix: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.key = key
        self._key_path = key_path
        self._commands = Commands(prefix)
        self._device = Device(name, self._commands)
        self._guard = Guard(name, self._commands)
        self._clock = clock
        self._dialled: dict[str, str] = {}  # the endpoint that was wanted of each peer when it was last written

    async def apply(self, wanted: NetworkState) -> NetworkReport:
        """Make the interface what is wanted; see `contract.Network`."""
        wanted = checked(wanted)
        found = await self._dump()
        if found is None:
            await self._require_tools()
            await self._device.make()
            self._dialled.clear()
            found = await self._dump()
            if found is None:
                raise NetworkError(f"the interface {self.name} was not made, and nothing said why")
        around = await self._device.surroundings(wanted)
        await self._guard.apply(wanted, around.outside)
        await self._set_own(wanted, found)
        await self._set_peers(wanted, found)
        await self._device.settle(wanted, around.mtu)
        return await self._read_back(wanted)

    async def read(self) -> NetworkState | None:
        """Return what is in the interface."""
        found = await self._dump()
        if found is None:
            return None
        address, _, length = min(await self._device.addresses(), default="/0").partition("/")
        peers = found.peers.values()
        return NetworkState(
            lease=Lease(address=address, prefix_length=int(length), agent_port=found.port, mode=NetworkMode.WIREGUARD),
            peers=tuple(
                NetworkPeer(key=peer.key, address=peer.allowed.partition("/")[0], endpoint=peer.endpoint)
                for peer in sorted(peers, key=lambda peer: peer.key)
            ),
            keepalive_seconds=max((peer.keepalive_seconds for peer in peers), default=0),
        )

    async def remove(self) -> None:
        """Take away the interface and its filter."""
        await self._device.remove()
        await self._guard.remove()
        self._dialled.clear()

    async def addresses(self) -> frozenset[str]:
        """Return every address of this machine."""
        links = await self._commands.json("address", "show")
        return frozenset(info["local"] for link in links for info in link.get("addr_info", ()) if "local" in info)

    async def _require_tools(self) -> None:
        try:
            await self._commands.run("wg", "--version")
        except CommandMissing as missing:
            raise NetworkError(_INSTALL) from missing

    async def _dump(self) -> _Dump | None:
        """Return what is there; None when there is no interface, or one whose program has ended."""
        if await self._device.link() is None:
            return None
        try:
            text = await self._commands.run("wg", "show", self.name, "dump")
        except CommandMissing as missing:
            raise NetworkError(_INSTALL) from missing
        except CommandFailed as failed:
            raise NetworkError(
                f"there is an interface {self.name}, but `wg` cannot read it ({failed.said}): if it is not "
                f"another program's, remove it: ip link del {self.name}"
            ) from failed
        own, *lines = (line.split("\t") for line in text.splitlines())
        peers = (_known(fields) for fields in lines)
        key = "" if own[1] == "(none)" else own[1]
        return _Dump(key=key, port=int(own[2]), peers={peer.key: peer for peer in peers})

    async def _set_own(self, wanted: NetworkState, found: _Dump) -> None:
        words = []
        if found.port != wanted.lease.agent_port:
            words += ["listen-port", str(wanted.lease.agent_port)]
        if found.key != self.key:
            words += ["private-key", str(self._key_path)]
        if not words:
            return
        try:
            await self._commands.run("wg", "set", self.name, *words)
        except CommandFailed as failed:
            if "in use" in failed.said:
                raise NetworkError(
                    f"UDP port {wanted.lease.agent_port}, which the lease names, is taken by another program here: "
                    "`ss -lunp` shows which; stop it, or give this member another lease"
                ) from failed
            raise

    async def _set_peers(self, wanted: NetworkState, found: _Dump) -> None:
        """Write the peers that differ; first those that leave, whose addresses others may have now."""
        peers = {peer.key: peer for peer in wanted.peers if peer.key != self.key}
        gone = sorted(found.peers.keys() - peers.keys())
        for first in range(0, len(gone), REMOVED_AT_ONCE):
            batch = gone[first : first + REMOVED_AT_ONCE]
            await self._commands.run(
                "wg", "set", self.name, *(word for key in batch for word in ("peer", key, "remove"))
            )
        for key in gone:
            self._dialled.pop(key, None)
        sections = [
            section
            for peer in peers.values()
            if (section := self._section(peer, found.peers.get(peer.key), wanted.keepalive_seconds))
        ]
        if sections:
            await self._commands.run("wg", "addconf", self.name, "/dev/stdin", stdin="\n".join(sections))
        self._dialled.update({key: peer.endpoint for key, peer in peers.items()})

    def _section(self, peer: NetworkPeer, known: _Known | None, keepalive_seconds: int) -> str:
        """Return the lines that make a peer what it should be; empty when it is."""
        allowed = f"{peer.address}/{128 if ':' in peer.address else 32}"
        lines = []
        if peer.endpoint and (known is None or self._must_dial(peer, known)):
            lines.append(f"Endpoint = {peer.endpoint}")
        if keepalive_seconds != (known.keepalive_seconds if known is not None else 0):
            lines.append(f"PersistentKeepalive = {keepalive_seconds or 'off'}")
        if known is not None and known.allowed == allowed and not lines:
            return ""
        # The address is always among them: without it `wg addconf` takes away what the peer has.
        return "\n".join(("[Peer]", f"PublicKey = {peer.key}", f"AllowedIPs = {allowed}", *lines, ""))

    def _must_dial(self, peer: NetworkPeer, known: _Known) -> bool:
        """Say whether a peer's endpoint has to be written: another is wanted than before, or it is silent there.

        A peer we hear from is left where we hear it, which behind NAT is another port than the one it listens on.
        """
        if known.endpoint == peer.endpoint:
            return False
        if self._dialled.get(peer.key, peer.endpoint) != peer.endpoint:
            return True
        return self._clock() - known.handshake_at > ALIVE_SECONDS

    async def _read_back(self, wanted: NetworkState) -> NetworkReport:
        """Return what is in place now. Raises NetworkError when it is not what was wanted."""
        found, link = await self._dump(), await self._device.link()
        addresses = {text.partition("/")[0] for text in await self._device.addresses()}
        if found is None or link is None or addresses != {wanted.lease.address} or found.key != self.key:
            raise NetworkError(f"the interface {self.name} was changed by somebody else while it was set up")
        return NetworkReport(
            address=wanted.lease.address,
            interface=self.name,
            implementation=KERNEL if link.get("linkinfo", {}).get("info_kind") == "wireguard" else PROGRAM,
            mtu=int(link["mtu"]),
            peers=len(found.peers),
        )


def _known(fields: Sequence[str]) -> _Known:
    key, _, endpoint, allowed, handshake, _, _, keepalive = fields
    return _Known(
        key=key,
        endpoint="" if endpoint == "(none)" else endpoint,
        allowed="" if allowed == "(none)" else allowed,
        handshake_at=float(handshake),
        keepalive_seconds=int(keepalive) if keepalive.isdigit() else 0,
    )
