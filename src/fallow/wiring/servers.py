"""Servers that lend: identity, limits, measuring, virtual machines, agent."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fallow.cli.launchers import LendOptions
from fallow.model.members import Role
from fallow.model.vms import LENT_GROUP
from fallow.wiring.logs import say
from fallow.wiring.members import ended, join, networking, upgrader_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fallow.agent.machines import Machines
    from fallow.agent.server import Parts
    from fallow.drivers.machine.contract import Machine
    from fallow.model.frames import Frame
    from fallow.model.server_pools import Isolation


# Lowest weights, and the controllers that limits need; the agent sets and checks the rest in the control group itself.
_SLICE = ("CPUAccounting=yes", "MemoryAccounting=yes", "IOAccounting=yes", "CPUWeight=1", "IOWeight=1")


async def lend(options: LendOptions, stop: asyncio.Event, upgrades: bool = False) -> int:
    """Join as a server and lend until `stop`; machines and limits stay. `upgrades` as for a node."""
    from fallow.agent.server import ServerAgent
    from fallow.drivers.systemd import start_slice

    parts = parts_of(options)
    if not options.within and (problem := await asyncio.to_thread(start_slice, LENT_GROUP, _SLICE)):
        say(problem)
    await asyncio.to_thread(parts.limits.prepare)  # where nothing can be limited no token should be used up
    identity = await join(options, Role.SERVER)
    if options.install:
        return _install(options)
    upgrader = upgrader_of(options, stop) if upgrades else None
    agent = ServerAgent(parts, options.data, identity, variables=options.variables, network=networking(identity))
    agent.upgraded_by(upgrader)
    await agent.run(stop)
    return ended(upgrader)


def parts_of(options: LendOptions) -> "Parts":
    """Return what a server's agent works with on this machine."""
    from fallow.agent.measuring import Measuring
    from fallow.agent.peaks import Peaks
    from fallow.agent.primaries import GroupSource, source
    from fallow.agent.server import Parts
    from fallow.agent.whole import WholeGroup
    from fallow.drivers.cgroups import Groups
    from fallow.drivers.limits.kernel import KernelLimits
    from fallow.drivers.systemd import shutting_down
    from fallow.model.servers import Primary

    groups, group = Groups(), f"{options.within}/{LENT_GROUP}"
    limits = KernelLimits(group, groups)
    whole = WholeGroup(options.within, groups) if options.within else None
    primaries = [source(primary, groups, group) for primary in options.primaries]
    lent = GroupSource(Primary(kind="cgroup", name=group), groups)
    return Parts(
        measuring=Measuring(limits, primaries, lent=lent, whole=whole),
        limits=limits,
        machines=lambda send: machines_of(options, send),
        peaks=Peaks(),
        stopping=lambda: options.drain_on_stop or shutting_down(),
    )


def machines_of(options: LendOptions, send: "Callable[[Frame], Awaitable[None]]") -> "Machines":
    """Return what makes virtual machines on this server, which has joined."""
    from fallow.agent.identity import IdentityStore
    from fallow.agent.machines import Machines
    from fallow.drivers.machine.cgroup import CgroupMachines, CgroupOptions
    from fallow.drivers.machine.domain import Attachment
    from fallow.drivers.machine.libvirt import LibvirtMachines, LibvirtOptions

    wanted = options.machines
    libvirt = LibvirtOptions(
        uri=wanted.libvirt,
        folder=wanted.folder,
        attachment=Attachment(bridge=wanted.bridge, network=wanted.network),
        accelerator=wanted.accelerator,
    )
    engine_words = ("--engine", wanted.engine) if wanted.engine else ()
    cgroups = CgroupOptions(folder=options.data / "machines", arguments=engine_words)
    member_id, parent = IdentityStore(options.data).identity.member_id, f"{options.within}/{LENT_GROUP}".lstrip("/")
    drivers: dict[Isolation, Machine] = {
        "vm": LibvirtMachines(libvirt, member_id, parent),
        "cgroup": CgroupMachines(cgroups, parent),
    }
    return Machines(drivers, options.data, send)


def _install(options: LendOptions) -> int:
    from fallow.agent.install import SERVER_UNIT, install

    machines = options.machines
    words = ["join", "--role", "server"]
    words += ["--primary", ",".join(primary.text for primary in options.primaries)] if options.primaries else []
    words += ["--libvirt", machines.libvirt, "--vm-network", machines.network]
    words += ["--vm-bridge", machines.bridge] if machines.bridge else []
    words += ["--vm-accelerator", machines.accelerator, "--vm-folder", str(machines.folder)]
    words += ["--engine", machines.engine] if machines.engine else []
    words += ["--within", options.within] if options.within else []
    words += ["--drain-on-stop"] if options.drain_on_stop else []
    program = str(Path(sys.argv[0]).resolve())
    path = install([program, *words, "--data", str(options.data.resolve())], "Fallow lending", name=SERVER_UNIT)
    say(f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.")
    return 0
