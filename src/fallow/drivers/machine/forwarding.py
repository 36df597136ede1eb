"""Ports of a server that lead to its virtual machines, where libvirt's network hides those behind NAT.

Rules are in chains of their own: what anything else on the server publishes or listens at comes first and stays its
own. They outlive this process, as machines do. https://libvirt.org/firewall.html tells which rules of libvirt's would
refuse what is forwarded: its chains in the table `filter`, which ours have to precede.
"""

import hashlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fallow.drivers.machine.commands import Ended, Virsh, run
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.domain import mac_address
from fallow.model.pools import PortRange

CHECK_SECONDS = 30.0  # between looks at rules that should be there
_INSTEAD = "or join the server with --vm-bridge"
_LOCAL = "-m addrtype --dst-type LOCAL"

Ports = Mapping[str, Sequence[PortRange]]  # from a machine's address to the ports that lead there


class Ways:
    """How ports of this server lead to the machines of one member, on a network of libvirt's."""

    def __init__(self, virsh: Virsh, network: str, rules: "Rules") -> None:
        self._virsh = virsh
        self._network = network
        self._rules = rules
        self._bridge: str | None = None  # of the network, empty when it is not behind NAT; None: not asked yet
        self._addresses: dict[str, str] = {}

    async def lead(self, ports: Mapping[str, Sequence[PortRange]]) -> Mapping[str, str]:
        """Let just these ports lead to machines, by their ids; return why one cannot be reached, by its id."""
        try:
            if not ports:
                await self._rules.remove()
                return {}
            if self._bridge is None:
                self._bridge = bridge_behind_nat(await self._virsh.run("net-dumpxml", self._network))
            if not self._bridge:
                return {}
            known = {**self._addresses, **addresses(list(ports), await self._rules.neighbours(self._bridge))}
            self._addresses = {vm_id: address for vm_id, address in known.items() if vm_id in ports}
            await self._rules.apply(self._bridge, {address: ports[vm_id] for vm_id, address in self._addresses.items()})
        except MachineError as error:
            return dict.fromkeys(ports, f"gateways cannot reach it behind NAT: {error}; {_INSTEAD}")
        nowhere = f"gateways cannot reach it behind NAT: no address of it is seen on {self._bridge}; {_INSTEAD}"
        return {vm_id: nowhere for vm_id in ports if vm_id not in self._addresses}


class Rules:
    """The rules for one member's machines. `namespace`: the file of another network than this process is in."""

    def __init__(self, member_id: str, namespace: str = "") -> None:
        self.chain = f"FALLOW-{hashlib.sha256(member_id.encode()).hexdigest()[:12]}"
        self._prefix = ("nsenter", f"--net={namespace}") if namespace else ()
        self._applied: tuple[str, Ports] | None = None
        self._clean = False  # there are no rules, as was seen
        self._checked = 0.0

    async def apply(self, bridge: str, ways: Ports) -> None:
        """Let just these ports lead to machines on a bridge; mend what others changed. Raises MachineError."""
        if not ways:
            await self.remove()
            return
        ways = {address: tuple(ports) for address, ports in sorted(ways.items())}
        wanted = (bridge, ways)
        if wanted == self._applied and time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._applied, self._clean = None, False
        await self._refuse_nftables()
        for table, rules in chains(self.chain, bridge, ways).items():
            if any([await self._rules(table, name) != wanted_rules for name, wanted_rules in rules.items()]):
                await self._write(table, rules)
        await self._hook()
        self._applied, self._checked = wanted, time.monotonic()

    async def neighbours(self, bridge: str) -> str:
        """Return whom the kernel talks to on a bridge. Raises MachineError."""
        return await run(*self._prefix, "ip", "-4", "neigh", "show", "dev", bridge)

    async def remove(self) -> None:
        """Remove everything; nothing when there is nothing."""
        if self._clean or await self._rules("nat", self.chain) is None:
            self._clean = True
            return
        for table, hook, rule in self._hooks():
            with suppress(Ended):
                await self._iptables("-t", table, "-D", hook, *rule.split())
        for table, name in (("filter", ""), ("nat", "-IN"), ("nat", "-OUT"), ("nat", "")):
            with suppress(Ended):
                await self._iptables("-t", table, "-F", self.chain + name)
                await self._iptables("-t", table, "-X", self.chain + name)
        self._applied, self._clean = None, True

    def _hooks(self) -> Sequence[tuple[str, str, str]]:
        return (
            ("nat", "PREROUTING", f"{_LOCAL} -j {self.chain}-IN"),
            ("nat", "OUTPUT", f"! -d 127.0.0.0/8 {_LOCAL} -j {self.chain}"),
            ("nat", "POSTROUTING", f"-j {self.chain}-OUT"),
            ("filter", "FORWARD", f"-j {self.chain}"),
        )

    async def _hook(self) -> None:
        """Make the kernel's own chains lead to ours: after those of others, but before what refuses."""
        for table, hook, rule in self._hooks():
            there = await self._rules(table, hook) or []
            if table == "filter" and f"-A {hook} {rule}" in there:
                ours = there.index(f"-A {hook} {rule}")
                if not any("LIBVIRT" in other for other in there[:ours]):
                    continue
                await self._iptables("-t", table, "-D", hook, *rule.split())
            elif f"-A {hook} {rule}" in there:
                continue
            how = "-I" if table == "filter" else "-A"
            await self._iptables("-t", table, how, hook, *rule.split())

    async def _rules(self, table: str, chain: str) -> list[str] | None:
        """Return the rules of a chain as they read back, None when there is no such chain."""
        try:
            said = await self._iptables("-t", table, "-S", chain)
        except Ended:
            return None
        return [line for line in said.splitlines() if line.startswith("-A ")]

    async def _write(self, table: str, rules: Mapping[str, Sequence[str]]) -> None:
        for name, lines in rules.items():
            with suppress(Ended):
                await self._iptables("-t", table, "-N", name)
            await self._iptables("-t", table, "-F", name)
            for line in lines:
                await self._iptables("-t", table, *line.split())
        differing = [name for name, lines in rules.items() if await self._rules(table, name) != lines]
        if differing:
            raise MachineError("failed", f"the rules of {differing[0]} in the table {table} read back as others")

    async def _refuse_nftables(self) -> None:
        """Raise MachineError where libvirt has its rules in a table of nftables: there no other rule overrules them."""
        try:
            await run(*self._prefix, "nft", "list", "table", "ip", "libvirt_network")
        except MachineError:
            return  # no such table, or no such program
        raise MachineError(
            "failed",
            "libvirt's own rules of nftables refuse what is forwarded to machines: "
            f'set firewall_backend = "iptables" in /etc/libvirt/network.conf and restart it, {_INSTEAD}',
        )

    async def _iptables(self, *words: str) -> str:
        return await run(*self._prefix, "iptables", "-w", "5", *words)


def chains(chain: str, bridge: str, ways: Ports) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the rules of each chain by table, written as `iptables -S` reads them back.

    `-IN`: a port that something on the server itself has open is left to it. `-OUT`: what comes from a machine and goes
    to one on the same bridge has to come back through here, or the answer would come from another address.
    """
    ports = [
        (address, protocol, f"{block.first}:{block.last}" if block.last > block.first else f"{block.first}")
        for address, blocks in ways.items()
        for block in blocks
        for protocol in ("tcp", "udp")
    ]
    to = [
        f"-A {chain} -p {kind} -m {kind} --dport {port} -j DNAT --to-destination {address}"
        for address, kind, port in ports
    ]
    own = [
        f"-A {chain}-IN -p {kind} -m {kind} --dport {port} -m socket --nowildcard -j RETURN" for _, kind, port in ports
    ]
    back = [f"-A {chain}-OUT -s {address}/32 -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE" for address in ways]
    through = [f"-A {chain} -d {address}/32 -o {bridge} -m conntrack --ctstate DNAT -j ACCEPT" for address in ways]
    nat = {chain: to, f"{chain}-IN": [*own, f"-A {chain}-IN -j {chain}"], f"{chain}-OUT": back}
    return {"nat": nat, "filter": {chain: through}}


def bridge_behind_nat(network_xml: str) -> str:
    """Return the bridge of a network of libvirt's, empty when its machines are not behind NAT."""
    root = ET.fromstring(network_xml)  # noqa: S314 - libvirt's own
    forward, bridge = root.find("forward"), root.find("bridge")
    if forward is None or bridge is None or forward.get("mode", "nat") != "nat":
        return ""
    return bridge.get("name", "")


def addresses(vm_ids: Sequence[str], neighbours: str) -> Mapping[str, str]:
    """Return the IPv4 addresses of machines, from what `ip -4 neigh show dev BRIDGE` says."""
    ids = {mac_address(vm_id): vm_id for vm_id in vm_ids}
    rows = [line.split() for line in neighbours.splitlines()]
    told = {row[row.index("lladdr") + 1]: row[0] for row in rows if "lladdr" in row[:-1]}
    return {ids[mac]: address for mac, address in told.items() if mac in ids}
