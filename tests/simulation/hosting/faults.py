"""What goes wrong with servers that lend, beside all that goes wrong with nodes and control planes."""

import asyncio
from random import Random

from simulation.faults import Faults
from simulation.hosting.servers import GIB, SYSTEM_CPUS, Guest, Server
from simulation.hosting.world import HostingWorld, ServerRunning

CALM_LOAD, CALM_MEMORY = 0.08, 2 * GIB


class HostingFaults(Faults):
    """Begins faults by chance until told to end."""

    world: HostingWorld

    def __init__(self, world: HostingWorld, chance: Random) -> None:
        super().__init__(world, chance)
        self._squeezed: dict[str, None] = {}  # servers whose primaries stay as they are
        self._kinds = [
            (2, self.partition), (2, self.cut), (2, self.slow_link), (2, self.agent_killed), (1, self.power_cut),
            (1, self.engine_errors), (1, self.answers_lost), (1, self.container_ends), (1, self.clock_jumps),
            (2, self.plane_killed), (5, self.plane_killed_at_commit), (1, self.store_errors), (1, self.frames_repeated),
            (1, self.plane_frozen), (2, self.plane_frozen_at_commit), (1, self.plane_cut_off),
            (6, self.server_killed), (3, self.server_cut_off), (2, self.server_loses_power), (2, self.server_leaves),
            (8, self.jump), (8, self.squeeze), (4, self.memory_grows), (3, self.metrics_stop), (2, self.primary_ends),
            (2, self.disk_full), (3, self.machine_hangs), (3, self.machine_ignores_balloon), (3, self.boot_fails),
            (2, self.machine_crashes), (2, self.hypervisor_away),
        ]  # fmt: skip

    async def mend(self) -> None:
        """Mend everything, and let primaries rest."""
        await super().mend()
        self._squeezed.clear()
        for running in self.world.servers.values():
            server = running.server
            assert server is not None
            server.blind, server.primary_missing, server.away, server.boots_fail = "", False, False, 0
            server.deaf.clear()
            server.hung.clear()
            server.load(CALM_LOAD)
            server.waits = {}
            server.own_memory = CALM_MEMORY
            running.folder.full = False
            if running.leaves:  # its agent is about to end: its machine stops, and starts again
                self.world.power_cut(running)
            if running.member_id not in self.world.watch.removed:
                self.world.power_on(running)
        self._note_store()

    def _note_store(self) -> None:
        self.world.watch.store_slow_at = self.world.now()

    def _server(self) -> tuple[ServerRunning, Server] | None:
        found = [one for one in self.world.servers.values() if one.member_id not in self.world.watch.removed]
        running = self.chance.choice(found) if found else None
        return (running, running.server) if running is not None and running.server is not None else None

    def _guest(self) -> tuple[Server, Guest] | None:
        found = [(server, guest) for server in self.world.watch.servers.values() for guest in server.running()]
        return self.chance.choice(found) if found else None

    # what the primary does

    async def live(self) -> None:
        """Let primaries live, without end: lulls, bursts, and now and then all of it at once."""
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / 5.0))
            found = self._server()
            if found is not None and found[1].id not in self._squeezed:
                found[1].load(self.chance.choice((0.03, 0.05, 0.1, 0.1, 0.2, 0.3, 0.45, 0.6, 0.9)))
                found[1].own_memory = int(self.chance.choice((1.5, 2, 2, 4, 6)) * GIB)

    async def wait(self, chance: Random) -> None:
        """Let the primary of each server wait once, for processors or its disk, though it uses little of them."""
        for running in list(self.world.servers.values()):
            await asyncio.sleep(chance.uniform(1.0, 6.0))
            server, resource = running.server, chance.choice(("cpu", "io"))
            assert server is not None
            self._tell(f"the primary of {running.name} waits: {resource}")
            server.waits = {f"{resource}_waiting": 0.9}
            await asyncio.sleep(10.0)
            server.waits = {}

    async def jump(self) -> None:
        """Let a primary jump from next to nothing to everything."""
        found = self._server()
        if found is not None:
            found[1].load(0.05)
            await asyncio.sleep(self.chance.choice((0.0, 3.0)))
            self._tell(f"the primary of {found[0].name} wants everything")
            found[1].load(1.0)
            await self._last(1.0, 25.0)
            found[1].load(0.05)

    async def squeeze(self) -> None:
        """Let a primary leave what is lent a part of what it asked for, until some of that has to go."""
        found = self._server()
        asked = self.world.watch.asked_cpus(found[1].id) if found is not None else 0.0
        if found is None or not asked or found[1].id in self._squeezed:
            return
        server, watch = found[1], self.world.watch
        left = asked * self.chance.uniform(0.15, 0.55)
        ceiling = watch.policy(server.id).cpu_ceiling
        self._squeezed[server.id] = None
        self._tell(f"the primary of {server.name} leaves {left:.2f} of {asked:.2f} processors that were asked for")
        server.load(max(0.0, ceiling - (left + SYSTEM_CPUS) / server.cpus))
        before, until = watch.evictions(server.id), self.world.now() + 25.0
        while self.world.now() < until and watch.evictions(server.id) == before:
            await asyncio.sleep(0.5)
        await self._last(0.0, 5.0)
        self._squeezed.pop(server.id, None)
        server.load(0.05)

    async def memory_grows(self) -> None:
        """Let a primary's memory grow, up to far above the ceiling."""
        found = self._server()
        if found is None:
            return
        server = found[1]
        most = self.chance.choice((0.8, 0.88, 0.95))
        self._tell(f"the memory of {server.name} grows to {most:.0%}")
        while server.own_memory < most * server.memory_bytes:
            server.own_memory += 2 * GIB
            await asyncio.sleep(0.5)
        await self._last(1.0, 25.0)
        server.own_memory = CALM_MEMORY

    async def primary_ends(self) -> None:
        """Let a primary not be found for a while."""
        found = self._server()
        if found is not None:
            self._tell(f"the primary of {found[0].name} is not found")
            found[1].primary_missing = True
            await self._last(1.0, 15.0)
            found[1].primary_missing = False

    async def metrics_stop(self) -> None:
        """Let nothing be measured, with an error or without an end."""
        found = self._server()
        if found is not None:
            found[1].blind = self.chance.choice(("fails", "hangs"))
            self._tell(f"measuring {found[0].name} {found[1].blind}")
            await self._last(1.0, 15.0)
            found[1].blind = ""

    # servers

    async def server_killed(self) -> None:
        """Kill a server's agent; its machines go on."""
        found = self._server()
        if found is not None:
            self.world.kill_agent(found[0], "is killed")
            await self._last(0.1, 12.0)
            self.world.start_agent(found[0])

    async def server_cut_off(self) -> None:
        """Cut a server off, with or without its machines."""
        found = self._server()
        if found is None:
            return
        cut = [found[0].member_id]
        if self.chance.random() < 0.5:
            cut += [guest.member_id for guest in found[1].running() if guest.member_id]
        self._tell(f"{found[0].name} is cut off, {len(cut) - 1} machines too")
        for id_ in cut:
            self.world.network.partition(id_)
        await self._last(0.5, 20.0)
        for id_ in cut:
            self.world.network.heal(id_)

    async def server_loses_power(self) -> None:
        """Cut a server's power."""
        found = self._server()
        if found is not None:
            self.world.power_cut(found[0])
            await self._last(1.0, 15.0)
            self.world.power_on(found[0])

    async def server_leaves(self) -> None:
        """Shut a server down in good order; it starts again some time."""
        found = self._server()
        if found is None or found[0].process is None or found[0].stop is None:
            return
        self._tell(f"{found[0].name} shuts down")
        found[1].shuts_down = found[0].leaves = True
        found[0].stop.set()
        await self._last(5.0, 40.0)
        self.world.power_cut(found[0])
        await asyncio.sleep(self.chance.uniform(0.5, 5.0))
        self.world.power_on(found[0])

    async def disk_full(self) -> None:
        """Let a server's agent be unable to keep anything."""
        found = self._server()
        if found is not None:
            self._tell(f"the disk of {found[0].name} is full")
            found[0].folder.full = True
            await self._last(1.0, 15.0)
            found[0].folder.full = False

    async def hypervisor_away(self) -> None:
        """Restart a server's hypervisor: its machines go on, and cannot be looked at."""
        found = self._server()
        if found is not None:
            self._tell(f"the hypervisor of {found[0].name} is away")
            found[1].away = True
            await self._last(0.5, 15.0)
            found[1].away = False

    async def boot_fails(self) -> None:
        """Let the next machines not boot."""
        found = self._server()
        if found is not None:
            self._tell(f"machines of {found[0].name} do not boot")
            found[1].boots_fail = self.chance.randint(1, 2)

    # machines

    async def machine_crashes(self) -> None:
        """Let a machine end."""
        found = self._guest()
        if found is not None and found[1].process is not None:
            self._tell(f"{found[1].vm_id} crashes")
            found[0].machines.end(found[1].vm_id)
            self.world._ends(*found, "crashed")

    async def machine_hangs(self) -> None:
        """Let a machine hang: it is paused, says nothing, and does not stop when it is asked to."""
        found = self._guest()
        if found is None:
            return
        server, guest = found
        self._tell(f"{guest.vm_id} hangs")
        server.hung[guest.vm_id] = None
        if guest.member_id:
            self.world.network.partition(guest.member_id)
        if self.chance.random() < 0.5:
            server.machines.end(guest.vm_id, "paused")
        await self._last(1.0, 15.0)
        server.hung.pop(guest.vm_id, None)
        if guest.member_id:
            self.world.network.heal(guest.member_id)

    async def machine_ignores_balloon(self) -> None:
        """Let a machine keep its memory whatever it is told."""
        found = self._guest()
        if found is not None:
            self._tell(f"{found[1].vm_id} ignores its balloon")
            found[0].deaf[found[1].vm_id] = None
            await self._last(5.0, 40.0)
            found[0].deaf.pop(found[1].vm_id, None)

    # control planes, of which the watch has to know

    async def clock_jumps(self) -> None:
        """Set a clock."""
        before = self.world.skew
        await super().clock_jumps()
        if self.world.skew != before:
            self.world.watch.clock_set_at = self.world.now()
