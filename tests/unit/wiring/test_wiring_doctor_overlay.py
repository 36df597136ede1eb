"""What a machine needs to be in an overlay: what is missing is found, and broken only where it is needed."""

from pathlib import Path

import msgspec
import pytest
from records import overlaid

from fallow.model.doctor import Finding
from fallow.model.members import Lease
from fallow.model.network import NetworkState
from fallow.wiring import doctor_overlay


class Machine:
    """A machine made of files: programs on the path, a kernel with or without WireGuard, the tunnel's device."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.data = folder, folder / "data"
        self.path = folder / "bin"
        self.path.mkdir()
        self.release = folder / "modules" / "6.1.0-test"
        self.release.mkdir(parents=True)
        for program in ("wg", "ip", "iptables"):
            self.install(program)
        monkeypatch.setattr(doctor_overlay, "_which", lambda name: str(self.path / name) * (self.path / name).exists())
        monkeypatch.setattr(doctor_overlay, "_LOADED", folder / "loaded")
        monkeypatch.setattr(doctor_overlay, "_MODULES", folder / "modules")
        monkeypatch.setattr(doctor_overlay, "_TUN", folder / "tun")
        monkeypatch.setattr(doctor_overlay, "_may_administer", lambda: True)
        monkeypatch.setattr(doctor_overlay.platform, "release", lambda: "6.1.0-test")

    def install(self, program: str) -> None:
        (self.path / program).touch(0o755)

    def lease(self, lease: Lease, part: str = "node") -> None:
        (self.data / part).mkdir(parents=True)
        (self.data / part / "network.json").write_bytes(msgspec.json.encode(NetworkState(lease=lease)))

    def check(self) -> Finding:
        (found,) = doctor_overlay.check_overlay(self.data)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("part", ["node", "gateway"])
def test_what_is_missing_is_broken_only_where_a_member_is_in_an_overlay(machine: Machine, part: str) -> None:
    found = machine.check()
    assert (found.verdict, "wireguard-go is not installed" in found.text) == ("note", True)
    machine.lease(overlaid("a", 7).lease, part)
    found = machine.check()
    assert found.verdict == "broken"
    assert "10.86.0.7 of pool blue" in found.text
    assert "modprobe wireguard" in found.mend


def test_a_machine_with_a_flat_lease_needs_none(machine: Machine) -> None:
    machine.lease(Lease(address="192.0.2.1"))
    assert machine.check().verdict == "note"


def test_the_lease_is_known_from_the_join_on(machine: Machine) -> None:
    (machine.data / "node").mkdir(parents=True)
    saved = {"url": "u", "identity": {"member_id": "m", "lease": overlaid("a", 7).lease}, "saved_at": 1.0}
    (machine.data / "node" / "identity.json").write_bytes(msgspec.json.encode(saved))
    assert machine.check().verdict == "broken"
    (machine.data / "node" / "identity.json").write_bytes(b"{nonsense")
    assert machine.check().verdict == "note"


@pytest.mark.parametrize("tool", ["wg", "ip", "iptables"])
def test_tools_that_are_missing_are_named_with_their_package(machine: Machine, tool: str) -> None:
    (machine.path / tool).unlink()
    found = machine.check()
    assert found.text.startswith(f"{tool} not installed")
    assert doctor_overlay._TOOLS[tool] in found.mend


@pytest.mark.parametrize("where", ["loaded", "modules.builtin", "modules.dep"])
def test_the_kernels_wireguard_is_seen_loaded_built_in_or_to_be_loaded(machine: Machine, where: str) -> None:
    if where == "loaded":
        (machine.folder / where).mkdir()
    else:
        (machine.release / where).write_text("kernel/net/ipv4/x.ko\nkernel/drivers/net/wireguard/wireguard.ko.xz: a\n")
    found = machine.check()
    assert (found.verdict, found.text.startswith("the kernel's WireGuard")) == ("ok", True)


def test_the_program_needs_the_tunnels_device(machine: Machine) -> None:
    machine.install("wireguard-go")
    found = machine.check()
    assert (found.verdict, "needs" in found.text, "modprobe tun" in found.mend) == ("note", True, True)
    (machine.folder / "tun").touch()
    found = machine.check()
    assert (found.verdict, found.text.startswith("wireguard-go, ready")) == ("ok", True)


def test_who_may_not_make_interfaces_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.folder / "loaded").mkdir()
    monkeypatch.setattr(doctor_overlay, "_may_administer", lambda: False)
    machine.lease(overlaid("a", 7).lease)
    found = machine.check()
    assert (found.verdict, "CAP_NET_ADMIN" in found.mend) == ("broken", True)
