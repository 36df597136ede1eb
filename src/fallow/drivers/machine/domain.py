"""A virtual machine as libvirt wants it told. No input or output here.

Elements: https://libvirt.org/formatdomain.html
"""

import hashlib
import math
import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fallow.drivers.machine.contract import MachineSpec
from fallow.drivers.machine.groups import PERIOD_US, quota_us

Accelerator = Literal["kvm", "tcg"]

PREFIX = "fallow-"
XMLNS = "https://fallow.invalid/vm/1"  # of our part of a domain's metadata
LOWEST_SHARES = 2  # the least of control groups of version 1, and near it of version 2
LOWEST_WEIGHT = 100  # of input and output, the least that libvirt takes
_VM_ID = re.compile(r"[a-z0-9]{1,40}\Z")
_NAMESPACE = uuid.UUID("6f1d1c52-6b8e-4f0a-9c8a-0b6a2f3f1f0e")
_CPU = {"kvm": ("host-passthrough", ""), "tcg": ("custom", "qemu64")}
_TCG_CACHE_MIB = 256  # of translated code; more than twice as much by itself
# An emulated processor has no secrets to leak between guests, and its clock needs no calibration.
_TCG_WORDS = "mitigations=off tsc=reliable no_timer_check"
_OVERHEAD_BYTES = 512 * 2**20  # of the emulator beside what its guest has


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """Where machines are connected: to a bridge of this machine, or to one of libvirt's networks by name."""

    bridge: str = ""
    network: str = "default"


@dataclass(frozen=True, kw_only=True)
class DomainPlan:
    """Everything a domain is made from. Without `kernel` the disk's own boot loader starts.

    `agent` is a further disk, with what somebody else's image lacks.
    """

    spec: MachineSpec
    member_id: str
    folder: Path
    disk: Path
    seed: Path
    console: Path
    kernel: Path | None = None
    initrd: Path | None = None
    command_line: str = ""
    agent: Path | None = None
    attachment: Attachment = Attachment()
    accelerator: Accelerator = "kvm"
    partition: str = ""
    processors: int = 1  # of this machine: a machine may grow up to them while it runs
    room: float = math.inf  # the most that its limit may be just now, in processors
    io_weight: bool = False  # control groups of this machine know one


def domain_name(vm_id: str) -> str:
    """Return what a machine's domain is called. Raises ValueError for an id that is none of ours."""
    if not _VM_ID.match(vm_id):
        raise ValueError(f"{vm_id!r} is not the id of a virtual machine")
    return PREFIX + vm_id


def domain_uuid(member_id: str, vm_id: str) -> str:
    """Return the only id that the domain of a member's machine can have, so that nobody else's is taken for it."""
    return str(uuid.uuid5(_NAMESPACE, f"{member_id}/{vm_id}"))


def mac_address(vm_id: str) -> str:
    """Return an address of the range for QEMU that is always the same for a machine."""
    digest = hashlib.sha256(vm_id.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def vcpus(cpus: float) -> int:
    """Return how many processors a guest sees for a share of so many."""
    return max(1, math.ceil(round(cpus, 3)))


def memory_ceiling(memory_bytes: int, accelerator: Accelerator) -> int:
    """Return what the process of a machine may take that booted with `memory_bytes`: only one gone wrong meets it."""
    translated = 4 * _TCG_CACHE_MIB * 2**20 if accelerator == "tcg" else 0
    return memory_bytes + memory_bytes // 4 + _OVERHEAD_BYTES + translated


def domain_xml(plan: DomainPlan) -> str:
    """Return the domain's definition. Raises ValueError for an id that is none of ours."""
    spec, name = plan.spec, domain_name(plan.spec.vm_id)
    root = ET.Element("domain", type="kvm" if plan.accelerator == "kvm" else "qemu")
    _text(root, "name", name)
    _text(root, "uuid", domain_uuid(plan.member_id, spec.vm_id))
    _text(root, "title", f"Fallow {spec.name}")
    mark = ET.SubElement(ET.SubElement(root, "metadata"), f"{{{XMLNS}}}vm")
    mark.attrib.update({"id": spec.vm_id, "name": spec.name, "member": plan.member_id})
    _text(root, "memory", str(spec.memory_bytes), unit="b")
    current = vcpus(spec.cpus)
    _text(root, "vcpu", str(max(current, plan.processors)), placement="static", current=str(current))
    _limits(root, plan)
    _boot(root, plan)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(root, f"on_{event}", action)
    _devices(ET.SubElement(root, "devices"), plan)
    ET.register_namespace("fallow", XMLNS)
    return ET.tostring(root, encoding="unicode")


def _limits(root: ET.Element, plan: DomainPlan) -> None:
    tune = ET.SubElement(root, "cputune")
    _text(tune, "shares", str(LOWEST_SHARES))
    _text(tune, "global_period", str(PERIOD_US))
    _text(tune, "global_quota", str(quota_us(min(plan.spec.cpus, plan.room))))
    if plan.io_weight:
        _text(ET.SubElement(root, "blkiotune"), "weight", str(LOWEST_WEIGHT))
    if plan.partition:
        _text(ET.SubElement(root, "resource"), "partition", plan.partition)


def _boot(root: ET.Element, plan: DomainPlan) -> None:
    system = ET.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    if plan.kernel is not None:
        _text(system, "kernel", str(plan.kernel))
        if plan.initrd is not None:
            _text(system, "initrd", str(plan.initrd))
        emulated = f" {_TCG_WORDS}" if plan.accelerator == "tcg" else ""
        _text(system, "cmdline", plan.command_line + emulated)
    else:
        ET.SubElement(system, "boot", dev="hd")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    mode, model = _CPU[plan.accelerator]
    cpu = ET.SubElement(root, "cpu", mode=mode)
    if model:
        _text(cpu, "model", model)
        _text(ET.SubElement(features, "tcg"), "tb-cache", str(_TCG_CACHE_MIB), unit="MiB")
    ET.SubElement(root, "clock", offset="utc")


def _devices(devices: ET.Element, plan: DomainPlan) -> None:
    _disk(devices, plan.disk, "vda", "qcow2", {"cache": "none", "io": "threads", "discard": "unmap"})
    seed = _disk(devices, plan.seed, "vdb", "raw", {"cache": "directsync"})
    ET.SubElement(seed, "readonly")
    if plan.agent is not None:
        ET.SubElement(_disk(devices, plan.agent, "vdc", "raw", {}), "readonly")
    interface = ET.SubElement(devices, "interface", type="bridge" if plan.attachment.bridge else "network")
    ET.SubElement(interface, "mac", address=mac_address(plan.spec.vm_id))
    if plan.attachment.bridge:
        ET.SubElement(interface, "source", bridge=plan.attachment.bridge)
    else:
        ET.SubElement(interface, "source", network=plan.attachment.network)
    ET.SubElement(interface, "model", type="virtio")
    ET.SubElement(interface, "rom", enabled="no")
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(plan.console), append="off")
    ET.SubElement(devices, "memballoon", model="virtio")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "controller", type="usb", model="none")


def _disk(devices: ET.Element, path: Path, target: str, kind: str, driver: dict[str, str]) -> ET.Element:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", {"name": "qemu", "type": kind, "error_policy": "enospace", **driver})
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    return disk


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    element = ET.SubElement(parent, tag)
    element.attrib.update(attributes)
    element.text = text
