"""Virtual machines of QEMU through libvirt.

Domains are transient: what outlives a stop is a folder, so that nothing that was defined once is started by others.
"""

import asyncio
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fallow.drivers.machine import folders
from fallow.drivers.machine.accelerator import Wish, accelerator
from fallow.drivers.machine.commands import Virsh
from fallow.drivers.machine.contract import FoundMachine, MachineError, MachineSpec, MachineUse, Seed
from fallow.drivers.machine.domain import (
    LOWEST_SHARES,
    LOWEST_WEIGHT,
    PREFIX,
    Accelerator,
    Attachment,
    DomainPlan,
    domain_name,
    domain_uuid,
    domain_xml,
    memory_ceiling,
    vcpus,
)
from fallow.drivers.machine.folders import Folders
from fallow.drivers.machine.forwarding import Rules, Ways
from fallow.drivers.machine.groups import MachineGroups, quota_us
from fallow.drivers.machine.images import Images
from fallow.model.pools import PortRange
from fallow.model.server_pools import Isolation
from fallow.model.vms import LENT_GROUP

POLL_SECONDS = 0.3
STOP_SECONDS = 20.0
BALLOON_SECONDS = 60.0  # so long a machine may take to give memory back
_RUNS_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
# virDomainState and the reasons of virDomainPausedReason, as `virsh domstats` numbers them
_PAUSED, _ENDED, _SLEEPS = (3,), (5, 6), (7,)
_REASONS = {1: "somebody paused it", 5: "its disk cannot be written: is the server's disk full?", 10: "it crashed"}


@dataclass(frozen=True, kw_only=True)
class LibvirtOptions:
    """Where machines run and lie. `folder` holds disks, where QEMU may enter as another user."""

    uri: str = "qemu:///system"
    folder: Path = Path("/var/lib/fallow-vms")
    attachment: Attachment = field(default_factory=Attachment)
    accelerator: Wish = "auto"


class LibvirtMachines:
    """The virtual machines of one member."""

    isolation: Isolation = "vm"

    def __init__(self, options: LibvirtOptions, member_id: str, parent: str = LENT_GROUP) -> None:
        self._options = options
        self._member_id = member_id
        self._virsh = Virsh(options.uri)
        self._folders = Folders(options.folder / "machines" / member_id, Images(options.folder / "images"))
        self._groups = MachineGroups(parent)
        self._accelerator: Accelerator | None = None
        self._names: dict[str, str] = {}  # of their control groups
        self._ways = Ways(self._virsh, options.attachment.network, Rules(member_id))
        self._unreached: Mapping[str, str] = {}  # why gateways cannot reach a machine
        self._held: dict[str, tuple[int, float]] = {}  # bytes it should be left, and since when

    async def check(self) -> None:
        """Find out whether libvirt answers and how machines run; see the contract."""
        if platform.machine() not in ("x86_64", "AMD64"):
            raise MachineError("failed", f"virtual machines run on x86-64 only, this is {platform.machine()}")
        _partition(self._groups.parent)
        await self._virsh.run("version")
        self._accelerator = await accelerator(self._options.accelerator)

    async def survey(self) -> tuple[FoundMachine, ...]:
        """Return all machines that have a folder or a domain."""
        on_disk, domains = await asyncio.to_thread(self._folders.list), await self._domains()
        self._names = {vm_id: self._find(vm_id) for vm_id in domains}
        return tuple(
            self._found(vm_id, on_disk.get(vm_id, False), domains.get(vm_id))
            for vm_id in sorted(on_disk.keys() | domains.keys())
        )

    async def prepare(self, spec: MachineSpec) -> None:
        """Make its folder."""
        await self._folders.make(spec)

    async def start(self, spec: MachineSpec, seed: Seed | None = None) -> None:
        """Start it, or let it go on."""
        domain = (await self._domains()).get(spec.vm_id)
        state = int(domain["state.state"]) if domain is not None else _ENDED[0]
        name = domain_name(spec.vm_id)
        if state in _PAUSED:
            await self._virsh.run("resume", name)
        if domain is not None and state not in _ENDED:
            return
        if domain is not None:
            await self._destroy(spec.vm_id)
        plan = await self._plan(spec)
        await asyncio.to_thread(self._lay_out, plan, seed)
        await self._virsh.run("create", str(plan.folder / "domain.xml"), seconds=120)
        self._held.pop(spec.vm_id, None)
        group = self._names[spec.vm_id] = self._find(spec.vm_id)
        if group and plan.room < spec.cpus:
            await asyncio.to_thread(self._groups.keep_quota, group, spec.cpus)
        ceiling = memory_ceiling(spec.memory_bytes, plan.accelerator) // 1024
        await self._virsh.run("memtune", name, "--hard-limit", str(ceiling), "--live")

    async def _plan(self, spec: MachineSpec) -> DomainPlan:
        folder, made = self._folders.of(spec.vm_id), await asyncio.to_thread(self._folders.made, spec.vm_id)
        if self._accelerator is None:
            await self.check()
        await asyncio.to_thread(self._groups.make)
        return DomainPlan(
            spec=spec,
            member_id=self._member_id,
            folder=folder,
            disk=folder / folders.DISK,
            seed=folder / folders.SEED,
            console=folder / folders.CONSOLE,
            kernel=Path(made.kernel) if made.kernel else None,
            initrd=Path(made.initrd) if made.initrd else None,
            command_line=made.command_line,
            agent=Path(made.agent) if made.agent else None,
            attachment=self._options.attachment,
            accelerator=self._accelerator or "tcg",
            partition=_partition(self._groups.parent),
            processors=os.cpu_count() or 1,
            room=self._groups.room(),
            io_weight=self._groups.weighs_io(),
        )

    def _lay_out(self, plan: DomainPlan, seed: Seed | None) -> None:
        spec = plan.spec
        if seed is not None:
            self._folders.write_seed(spec.vm_id, seed)
        self._folders.granted(spec.vm_id, spec.memory_bytes)
        try:
            (plan.folder / "domain.xml").write_text(domain_xml(plan), encoding="utf-8")
        except OSError as error:
            raise MachineError("failed", f"{plan.folder}: {error.strerror}") from error

    async def stop(self, vm_id: str, grace_seconds: float) -> None:
        """Press its power button, and pull its plug after the grace."""
        if grace_seconds > 0 and await self._runs(vm_id):
            try:
                await self._virsh.run("shutdown", domain_name(vm_id), "--mode", "acpi")
            except MachineError as error:
                if error.kind == "unreachable":
                    raise
            deadline = time.monotonic() + grace_seconds
            while time.monotonic() < deadline and await self._runs(vm_id):  # noqa: ASYNC110 - libvirt is asked
                await asyncio.sleep(POLL_SECONDS)
        await self._destroy(vm_id)

    async def destroy(self, vm_id: str) -> None:
        """Pull its plug and remove its folder."""
        await self._destroy(vm_id)
        self._held.pop(vm_id, None)
        await asyncio.to_thread(self._folders.remove, vm_id)

    async def resize(self, spec: MachineSpec) -> str:
        """Plug in processors, move its limit, inflate its balloon; more memory than it booted with has to wait."""
        domain = (await self._domains()).get(spec.vm_id)
        if domain is None:
            raise MachineError("not-found", f"{spec.name} does not run")
        name, notes = domain_name(spec.vm_id), []
        wanted, current, most = vcpus(spec.cpus), int(domain["vcpu.current"]), int(domain["vcpu.maximum"])
        if wanted > most:
            notes.append(f"{wanted} processors instead of {most}")
        if min(wanted, most) > current:
            await self._virsh.run("setvcpus", name, str(min(wanted, most)), "--live")
        await self._limit(spec)
        has = int(domain["balloon.maximum"]) * 1024
        if spec.memory_bytes > has:
            notes.append(f"{spec.memory_bytes} bytes of memory instead of {has}")
        await self.hold(spec.vm_id, min(spec.memory_bytes, has))
        await asyncio.to_thread(self._folders.granted, spec.vm_id, spec.memory_bytes)
        return f"it gets {' and '.join(notes)} when it is started next" if notes else ""

    async def _limit(self, spec: MachineSpec) -> None:
        """Set how much processor time it may use, or as much of that as there is just now, and read it back."""
        group, now = self._find(spec.vm_id), min(spec.cpus, self._groups.room())
        words = ("--live", "--set", f"global_quota={quota_us(now)}")
        await self._virsh.run("schedinfo", domain_name(spec.vm_id), *words)
        if now < spec.cpus:
            await asyncio.to_thread(self._groups.keep_quota, group, spec.cpus)
        else:
            await asyncio.to_thread(self._groups.forget_quota, group)
        found = await asyncio.to_thread(self._groups.quota, group)
        if found is not None and abs(found - spec.cpus) > 0.01:
            raise MachineError("failed", f"its limit of {spec.cpus:g} processors reads back as {found:g}")

    async def hold(self, vm_id: str, memory_bytes: int) -> None:
        """Set its balloon."""
        await self._virsh.run("setmem", domain_name(vm_id), str(memory_bytes // 1024), "--live")
        self._held[vm_id] = (memory_bytes, time.monotonic())

    def least_memory(self, memory_bytes: int) -> int:
        """Return a quarter, but no less than what a kernel and an engine need."""
        return min(memory_bytes, max(memory_bytes // 4, 256 * 2**20))

    async def forward(self, ports: Mapping[str, Sequence[PortRange]]) -> None:
        """Forward them where libvirt's network is behind NAT."""
        self._unreached = await self._ways.lead({} if self._options.attachment.bridge else ports)

    async def clear_seed(self, vm_id: str, seed: Seed) -> None:
        """Write the seed again, without the token."""
        await asyncio.to_thread(self._folders.write_seed, vm_id, replace(seed, token=""))

    def use(self, vm_id: str) -> MachineUse | None:
        """Return what its control group has used."""
        group = self._names.get(vm_id)
        return self._groups.use(group, self._groups.quota(group) or 1.0) if group else None

    async def _destroy(self, vm_id: str) -> None:
        if await self._runs(vm_id):
            try:
                await self._virsh.run("destroy", domain_name(vm_id))
            except MachineError as error:
                if error.kind != "not-found" and await self._runs(vm_id):
                    raise
        self._names.pop(vm_id, None)

    async def _runs(self, vm_id: str) -> bool:
        return vm_id in await self._domains()

    async def _domains(self) -> Mapping[str, Mapping[str, str]]:
        """Return what libvirt says of each of our domains."""
        said = await self._virsh.batch(("list --all --uuid --name", "domstats --state --vcpu --balloon"))
        return read_domains(said, self._member_id)

    def _find(self, vm_id: str) -> str:
        """Return the name of a domain's control group, as libvirt makes it without systemd and with it."""
        name = re.escape(domain_name(vm_id))
        escaped = re.escape(domain_name(vm_id).replace("-", "\\x2d"))
        return self._groups.find(
            re.compile(rf"(qemu-\d+-{name}\.libvirt-qemu|machine-qemu\\x2d\d+\\x2d{escaped}\.scope)$")
        )

    def _found(self, vm_id: str, whole: bool, domain: Mapping[str, str] | None) -> FoundMachine:
        seeded = whole and self._folders.seeded(vm_id)
        state = int(domain["state.state"]) if domain is not None else _ENDED[0]
        if domain is None or state in _ENDED:
            return FoundMachine(vm_id=vm_id, whole=whole, seeded=seeded)
        paused = state in (*_PAUSED, *_SLEEPS)
        why = _REASONS.get(int(domain.get("state.reason", "0")), "nobody knows why")
        group, has = self._names[vm_id], int(domain.get("balloon.maximum", "0")) * 1024
        quota = self._groups.quota(group) if group else None
        granted = self._folders.made(vm_id).memory_bytes if whole else has
        problems = [f"it is paused: {why}"] if paused else []
        problems += [*self._limits(vm_id, quota, has), *self._balloon(vm_id, domain)]
        told = self._folders.problem_told(vm_id) if seeded else ""
        problems += [f"it says that it cannot join: {told}"] if told else []
        problems += [self._unreached[vm_id]] if vm_id in self._unreached else []
        return FoundMachine(
            vm_id=vm_id,
            status="paused" if paused else "running",
            whole=whole,
            seeded=seeded,
            cpus=round(quota or 0.0, 3),
            memory_bytes=min(granted, has),
            problem="; ".join(problems),
        )

    def _limits(self, vm_id: str, quota: float | None, booted_bytes: int) -> Sequence[str]:
        group = self._names[vm_id]
        if not group:
            return [f"it is not in the control group {self._groups.parent}, which all that is lent should be in"]
        weight, found = self._groups.weight(group), []
        if not quota:
            found.append("it has no limit of processor time")
        if weight is not None and weight > LOWEST_SHARES:
            found.append(f"its share of processor time reads back as {weight} instead of {LOWEST_SHARES}")
        most, kept = memory_ceiling(booted_bytes, self._accelerator or "tcg"), self._groups.memory_limit(group)
        if kept is not None and not 0 < kept <= most:
            has = f"{kept // 2**20} MiB" if kept else "nothing"
            found.append(f"its process is limited to {has} of memory instead of {most // 2**20} MiB")
        io = self._groups.io_weight(group)
        if io is not None and io > LOWEST_WEIGHT:
            found.append(f"its weight of input and output reads back as {io} instead of {LOWEST_WEIGHT}")
        return found

    def _balloon(self, vm_id: str, domain: Mapping[str, str]) -> Sequence[str]:
        wanted, since = self._held.get(vm_id, (0, 0.0))
        has = int(domain.get("balloon.current", "0")) * 1024
        if wanted and time.monotonic() - since > BALLOON_SECONDS and has > wanted * 1.05:
            return [
                f"it keeps {has // 2**20} MiB of memory, and should have given back all above {wanted // 2**20} MiB"
            ]
        return []


def read_domains(said: str, member_id: str) -> Mapping[str, Mapping[str, str]]:
    """Read what `virsh list --uuid --name` and then `virsh domstats` say; only this member's, by the machine's id."""
    listed, _, stats = said.partition("Domain: ")
    ours = {}
    for words in (line.split() for line in listed.splitlines()):
        vm_id = words[1].removeprefix(PREFIX) if len(words) == 2 else ""
        if vm_id and words[1].startswith(PREFIX) and words[0] == domain_uuid(member_id, vm_id):
            ours[vm_id] = words[1]
    told = {}
    for block in stats.split("Domain: "):
        name, _, rest = block.partition("\n")
        pairs = (line.strip().partition("=") for line in rest.splitlines())
        told[name.strip().strip("'")] = {key: value for key, mark, value in pairs if mark}
    return {vm_id: told[name] for vm_id, name in ours.items() if "state.state" in told.get(name, {})}


def _partition(group: str) -> str:
    """Return how libvirt is told of a control group; where systemd runs it makes a slice of the name.

    Raises MachineError for a group that libvirt would take for another one.
    """
    if _RUNS_SYSTEMD.is_dir():
        return f"/{group.removesuffix('.slice')}"
    plain = next((part for part in group.split("/") if "." not in part), None)
    if plain is not None:
        raise MachineError(
            "failed",
            f"libvirt would add `.partition` to {plain!r} of the control group {group}, as it does to names without a "
            "dot: give it a name with one",
        )
    return f"/{group}"
