"""A virtual machine as libvirt wants it told, and what libvirt says of it."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallow.drivers.machine.contract import MachineSpec
from fallow.drivers.machine.domain import (
    Attachment,
    DomainPlan,
    domain_name,
    domain_uuid,
    domain_xml,
    mac_address,
    vcpus,
)
from fallow.drivers.machine.libvirt import read_domains

MIB = 2**20
SPEC = MachineSpec(vm_id="a1", name="vm1", cpus=1.5, memory_bytes=512 * MIB, disk_bytes=MIB)
PLAN = DomainPlan(
    spec=SPEC,
    member_id="m-1",
    folder=Path("/v"),
    disk=Path("/v/disk.qcow2"),
    seed=Path("/v/seed.iso"),
    console=Path("/v/console.log"),
    partition="/fallow.slice",
    processors=8,
)


def read(plan: DomainPlan) -> ET.Element:
    return ET.fromstring(domain_xml(plan))


def test_what_a_domain_is():
    root = read(PLAN)
    assert root.get("type") == "kvm"
    assert root.findtext("name") == "fallow-a1"
    assert root.findtext("uuid") == domain_uuid("m-1", "a1")
    assert (root.findtext("memory"), root.find("memory").get("unit")) == (str(512 * MIB), "b")
    assert (root.findtext("vcpu"), root.find("vcpu").get("current")) == ("8", "2")
    assert root.findtext("cputune/shares") == "2"
    assert root.findtext("cputune/global_quota") == "150000"
    assert root.findtext("resource/partition") == "/fallow.slice"
    assert root.find("cpu").get("mode") == "host-passthrough"
    assert root.find("blkiotune") is None
    assert root.find("os/kernel") is None
    mark = root.find("metadata")[0]
    assert (mark.get("id"), mark.get("member")) == ("a1", "m-1")
    assert [each.get("file") for each in root.findall("devices/disk/source")] == ["/v/disk.qcow2", "/v/seed.iso"]
    assert root.find("devices/interface/source").get("network") == "default"


def test_what_an_image_lacks_is_on_a_disk_that_nobody_writes_to():
    disk = read(replace(PLAN, agent=Path("/v/agent.iso"))).findall("devices/disk")[2]
    assert (disk.find("source").get("file"), disk.find("target").get("dev")) == ("/v/agent.iso", "vdc")
    assert disk.find("driver").get("type") == "raw"
    assert disk.find("readonly") is not None


def test_an_emulated_one_with_a_kernel_on_a_bridge():
    plan = replace(
        PLAN,
        accelerator="tcg",
        kernel=Path("/v/vmlinuz"),
        initrd=Path("/v/initrd"),
        command_line="quiet",
        attachment=Attachment(bridge="br0"),
        io_weight=True,
    )
    root = read(plan)
    assert root.get("type") == "qemu"
    assert root.findtext("cpu/model") == "qemu64"
    assert root.findtext("os/kernel") == "/v/vmlinuz"
    assert root.findtext("os/cmdline").startswith("quiet ")
    assert root.find("devices/interface/source").get("bridge") == "br0"
    assert root.findtext("blkiotune/weight") == "100"


def test_a_limit_that_has_no_room_yet_is_as_large_as_it_may_be():
    assert read(replace(PLAN, room=0.4)).findtext("cputune/global_quota") == "40000"


@given(name=st.text(min_size=1, max_size=30).filter(lambda text: all(ord(c) >= 32 and c.isprintable() for c in text)))
def test_nothing_that_is_said_becomes_an_element(name: str):
    folder = Path("/v") / name.replace("/", "-")
    plan = replace(PLAN, spec=replace(SPEC, name=name), disk=folder / "d", attachment=Attachment(bridge=name))
    root = read(plan)
    assert root.findtext("title") == f"Fallow {name}"
    assert root.find("devices/disk/source").get("file") == str(folder / "d")
    assert root.find("devices/interface/source").get("bridge") == name
    assert {each.tag for each in root.iter()} == {each.tag for each in read(PLAN).iter()}


@pytest.mark.parametrize("vm_id", ["", "a b", "a;b", "../x", "A", "a-b", "a\n", "x" * 41])
def test_an_id_that_is_none_of_ours_is_refused(vm_id: str):
    with pytest.raises(ValueError, match="not the id"):
        domain_name(vm_id)


def test_addresses_are_steady_and_apart():
    assert mac_address("a1") == mac_address("a1")
    assert mac_address("a1") != mac_address("a2")
    assert mac_address("a1").startswith("52:54:00:")


@pytest.mark.parametrize(("cpus", "seen"), [(0.1, 1), (1.0, 1), (1.0001, 1), (1.5, 2), (8.0, 8)])
def test_how_many_processors_a_guest_sees(cpus: float, seen: int):
    assert vcpus(cpus) == seen


def test_only_ours_are_read_from_what_libvirt_says():
    said = "\n".join(
        (
            f"{domain_uuid('m-1', 'a1')} fallow-a1",
            f"{domain_uuid('m-2', 'a2')} fallow-a2",
            "11111111-1111-1111-1111-111111111111 fallow-a3",
            "11111111-1111-1111-1111-111111111112 web",
            "",
            "Domain: 'fallow-a1'",
            "  state.state=1",
            "  balloon.current=131072",
            "",
            "Domain: 'fallow-a2'",
            "  state.state=1",
            "Domain: 'web'",
            "  state.state=5",
        )
    )
    assert read_domains(said, "m-1") == {"a1": {"state.state": "1", "balloon.current": "131072"}}
    assert read_domains("", "m-1") == {}
