"""Ports of a server that lead to machines behind libvirt's own NAT, whose guest is a namespace on the bridge."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from fallow.drivers.machine import forwarding
from fallow.drivers.machine.commands import Virsh
from fallow.drivers.machine.domain import mac_address
from fallow.drivers.machine.forwarding import Rules, Ways
from fallow.model.pools import PortRange
from testbed import parts, processes
from testbed.fabric import Fabric
from testbed.libvirt import Libvirt
from testbed.processes import run
from testbed.vms import BEHIND, BRIDGE, NETWORK

pytestmark = pytest.mark.real

GUEST, OTHER_GUEST = str(BEHIND[2]), str(BEHIND[3])
PORTS = (PortRange(first=20000, last=20999), PortRange(first=8456, last=8456))


@dataclass
class Behind:
    """A server whose bridge has guests; `ask` connects from anywhere and returns who answers, or why nobody does."""

    fabric: Fabric
    libvirt: Libvirt
    address: str

    def __post_init__(self) -> None:
        self.server = f"/run/netns/{self.fabric.namespace}"
        self.rules = Rules("m-1", self.server)
        self.ways = Ways(Virsh(self.libvirt.uri), "lent", self.rules)

    def guest(self, name: str, vm_id: str, address: str) -> None:
        """Put a machine on libvirt's bridge, and let the kernel have talked to it."""
        namespace = self.fabric.node(name).namespace
        peer = f"type veth peer name lent netns {namespace} address {mac_address(vm_id)}"
        run("ip", "-n", self.fabric.namespace, "link", "add", f"g{name}", *peer.split())
        run("ip", "-n", self.fabric.namespace, "link", "set", f"g{name}", "master", BRIDGE, "up")
        run("ip", "-n", namespace, "link", "set", "eth0", "down")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "lent")
        run("ip", "-n", namespace, "link", "set", "lent", "up")
        run("ip", "-n", namespace, "route", "replace", "default", "via", str(BEHIND[1]))
        answers = lambda: self.ask(self.fabric.namespace, 1, address) == "ConnectionRefusedError"  # noqa: E731
        processes.wait_until(answers, 10, f"{address} answers")

    @contextmanager
    def listening(self, namespace: str, port: int, name: str) -> Iterator[None]:
        """Let something listen at a port, and tell its name to who connects."""
        script = f"""
import socket
listener = socket.create_server(("0.0.0.0", {port}))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"{name}")
    connection.close()
"""
        words = ["nsenter", f"--net=/run/netns/{namespace}", "python3", "-c", script]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.kill()

    def ask(self, namespace: str, port: int, address: str = "") -> str:
        script = f"""
import socket
try:
    print(socket.create_connection(("{address or self.address}", {port}), 3).recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""
        return run("nsenter", f"--net=/run/netns/{namespace}", "python3", "-c", script).strip()

    async def lead(self, **ports: tuple[PortRange, ...]) -> str:
        return "; ".join((await self.ways.lead(ports)).values())

    def iptables(self, *words: str) -> str:
        return run("nsenter", f"--net={self.server}", "iptables", *words)

    def saved(self) -> str:
        return run("nsenter", f"--net={self.server}", "iptables-save")


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    parts.require("namespaces", "libvirtd", "virsh", "iptables", "nsenter")
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric())
        address = str(fabric.subnet[5])
        run("ip", "-n", fabric.namespace, "addr", "add", f"{address}/24", "dev", "br0")
        libvirt = stack.enter_context(Libvirt(fabric))
        file = fabric.folder / "network.xml"
        file.write_text(NETWORK)
        libvirt.virsh("net-create", str(file))
        found = Behind(fabric, libvirt, address)
        fabric.node("caller")
        found.guest("guest", "a1", GUEST)
        found.guest("other", "b2", OTHER_GUEST)
        yield found


async def test_who_calls_the_server_reaches_the_machine(behind: Behind):
    guest, caller = f"{behind.fabric.namespace}-guest", f"{behind.fabric.namespace}-caller"
    with behind.listening(guest, 20005, "guest"), behind.listening(guest, 8456, "agent"):
        assert behind.ask(caller, 20005) == "ConnectionRefusedError"
        assert await behind.lead(a1=PORTS) == ""
        callers = (caller, behind.fabric.namespace, f"{behind.fabric.namespace}-other")
        assert [behind.ask(each, 20005) for each in callers] == ["guest"] * 3
        assert behind.ask(caller, 8456) == "agent"
        assert await behind.lead() == ""
        assert behind.ask(caller, 20005) == "ConnectionRefusedError"
    assert "FALLOW" not in behind.saved()


async def test_what_listens_on_the_server_itself_stays_its_own(behind: Behind):
    guest, caller = f"{behind.fabric.namespace}-guest", f"{behind.fabric.namespace}-caller"
    assert await behind.lead(a1=PORTS) == ""
    with behind.listening(guest, 20006, "guest"), behind.listening(behind.fabric.namespace, 20006, "primary"):
        assert behind.ask(caller, 20006) == "primary"
    await behind.lead()


async def test_rules_that_others_changed_are_mended(behind: Behind, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forwarding, "CHECK_SECONDS", 0.0)
    guest, caller = f"{behind.fabric.namespace}-guest", f"{behind.fabric.namespace}-caller"
    with behind.listening(guest, 20005, "guest"):
        await behind.lead(a1=PORTS)
        behind.iptables("-I", "FORWARD", "-j", "LIBVIRT_FWI")  # as libvirt does when its network is made anew
        assert behind.ask(caller, 20005) == "ConnectionRefusedError"
        await behind.lead(a1=PORTS)
        assert behind.ask(caller, 20005) == "guest"
        behind.iptables("-t", "nat", "-F", behind.rules.chain)
        behind.iptables("-t", "nat", "-D", "PREROUTING", "1")
        assert behind.ask(caller, 20005) == "ConnectionRefusedError"
        await behind.lead(a1=PORTS)
        assert behind.ask(caller, 20005) == "guest"
        before = behind.saved().count("-A")
        await behind.lead(a1=PORTS)
        assert behind.saved().count("-A") == before
    behind.iptables("-D", "FORWARD", "-j", "LIBVIRT_FWI")
    await behind.lead()


async def test_the_next_agent_takes_over_and_another_members_rules_stay(behind: Behind):
    caller = f"{behind.fabric.namespace}-caller"
    others = Ways(Virsh(behind.libvirt.uri), "lent", Rules("m-2", behind.server))
    with behind.listening(f"{behind.fabric.namespace}-other", 21005, "other"):
        await others.lead({"b2": (PortRange(first=21000, last=21999),)})
        await behind.lead(a1=PORTS)
        again = Ways(Virsh(behind.libvirt.uri), "lent", Rules("m-1", behind.server))
        await again.lead({})
        assert behind.rules.chain not in behind.saved()
        assert behind.ask(caller, 21005) == "other"
    await others.lead({})
    behind.rules = Rules("m-1", behind.server)
    behind.ways = again


async def test_a_machine_that_nobody_sees_is_told(behind: Behind):
    assert f"no address of it is seen on {BRIDGE}" in await behind.lead(c3=PORTS)
    assert "--vm-bridge" in await behind.lead(c3=PORTS)
    gone = Ways(Virsh(behind.libvirt.uri), "nosuch", behind.rules)
    assert "nosuch" in (await gone.lead({"a1": PORTS}))["a1"]
