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
    from fallow.agent.server import Parts


async def lend(options: LendOptions, stop: asyncio.Event, upgrades: bool = False) -> int:
    """Join as a server and lend until `stop`; machines and limits stay. `upgrades` as for a node."""
    from fallow.agent.server import ServerAgent

    parts = parts_of(options)
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
    from fallow.agent.primaries import source
    from fallow.agent.server import NoMachines, Parts
    from fallow.drivers.cgroups import Groups
    from fallow.drivers.limits.kernel import KernelLimits
    from fallow.drivers.systemd import shutting_down

    groups, group = Groups(), f"/{LENT_GROUP}"
    limits = KernelLimits(group, groups)
    return Parts(
        measuring=Measuring(limits, [source(primary, groups, group) for primary in options.primaries]),
        limits=limits,
        machines=lambda _: NoMachines("this version makes no virtual machines"),
        peaks=Peaks(),
        stopping=lambda: options.drain_on_stop or shutting_down(),
    )


def _install(options: LendOptions) -> int:
    from fallow.agent.install import SERVER_UNIT, install

    machines = options.machines
    words = ["join", "--role", "server"]
    words += ["--primary", ",".join(primary.text for primary in options.primaries)] if options.primaries else []
    words += ["--libvirt", machines.libvirt, "--vm-network", machines.network]
    words += ["--vm-bridge", machines.bridge] if machines.bridge else []
    words += ["--drain-on-stop"] if options.drain_on_stop else []
    program = str(Path(sys.argv[0]).resolve())
    path = install([program, *words, "--data", str(options.data.resolve())], "Fallow lending", name=SERVER_UNIT)
    say(f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.")
    return 0
