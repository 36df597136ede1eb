"""What goes wrong: each fault begins, lasts for a while, and is mended."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from fallow.drivers.engine.contract import EngineError, ErrorKind
from simulation.members import Node
from simulation.world import Running, World

ENGINE_KINDS: tuple[ErrorKind, ...] = ("failed", "unreachable", "no-space", "conflict", "port-in-use")
ENGINE_METHODS = ("create", "start", "stop", "remove", "list", "inspect", "image")
PULL_KINDS: tuple[ErrorKind, ...] = ("failed", "unreachable", "no-space", "denied", "not-found")
CLOCK_JUMPS = (-7200.0, -60.0, -5.0, 5.0, 60.0, 7200.0)


class Faults:
    """Begins faults by chance until told to end."""

    def __init__(self, world: World, chance: Random) -> None:
        self.world = world
        self.chance = chance
        self._tasks: list[asyncio.Task[None]] = []
        self._kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (4, self.partition), (3, self.cut), (3, self.slow_link), (4, self.agent_killed), (3, self.power_cut),
            (2, self.engine_away), (4, self.engine_errors), (2, self.engine_slow), (2, self.answers_lost),
            (2, self.disk_full), (5, self.container_ends), (3, self.container_sick), (2, self.clock_jumps),
            (3, self.plane_killed), (5, self.plane_killed_at_commit), (2, self.store_errors), (2, self.frames_repeated),
            (2, self.gateway_stumbles), (1, self.gateway_reboots), (1, self.port_stolen), (3, self.plane_frozen),
            (2, self.plane_cut_off), (5, self.plane_frozen_at_commit), (5, self.container_ends_and_node_is_cut_off),
        ]  # fmt: skip
        if world.shared:
            self._kinds.append((6, self.plane_lags))

    def begin(self) -> None:
        """Begin one fault of any kind."""
        weights = [weight for weight, _ in self._kinds]
        (kind,) = self.chance.choices([kind for _, kind in self._kinds], weights)
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(kind)))

    async def _run(self, kind: Callable[[], Awaitable[None]]) -> None:
        await kind()

    async def mend(self) -> None:
        """Mend everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        world = self.world
        world.store_faults.error_share = world.store_faults.slow_seconds = world.store_faults.kill_in = 0
        world.store_faults.freeze_in = 0
        world.store_faults.lag.clear()
        world.network.repeat_share = 0.0
        world.network.slow.clear()
        for plane in list(world.planes.values()):
            world.thaw_plane(plane)
        for host in world.hosts:
            world.network.heal(host)
            world.start_plane(host)
        for running in world.members.values():
            world.network.heal(running.member_id)
            machine = running.machine
            if machine is not None:
                machine.disk.full = False
                machine.slowness = 1.0
                machine.sick.clear()
                machine.foreign_ports.clear()
                machine._faults.clear()
                if machine.powered:
                    machine.set_online(True)
            if running.host is not None:
                running.host.faults = 0
            if isinstance(running.agent, Node):
                running.agent.engine.lost_answers = 0.0
            if running.member_id not in world.watch.removed:
                world.start_agent(running)

    def _any(self, gateways: bool = True, nodes: bool = True) -> Running | None:
        found = [
            running
            for running in self.world.members.values()
            if running.member_id not in self.world.watch.removed and (gateways if running.host is not None else nodes)
        ]
        return self.chance.choice(found) if found else None

    def _tell(self, what: str) -> None:
        self.world.story.tell("FAULT", what)

    async def _last(self, least: float, most: float) -> None:
        """Wait for as long as the fault lasts: mostly short, now and then long."""
        await asyncio.sleep(least + (most - least) * self.chance.random() ** 2)

    # the network

    async def partition(self) -> None:
        running = self._any()
        if running is None:
            return
        self._tell(f"{running.name} is cut off")
        self.world.network.partition(running.member_id)
        await self._last(0.5, 25.0)
        self._tell(f"{running.name} is reached again")
        self.world.network.heal(running.member_id)

    async def cut(self) -> None:
        running = self._any()
        if running is not None:
            self._tell(f"connections of {running.name} break")
            self.world.network.reset(running.member_id)

    async def slow_link(self) -> None:
        running = self._any()
        if running is None:
            return
        self._tell(f"the way to {running.name} is slow")
        self.world.network.slow[running.member_id] = self.chance.choice((0.1, 0.5, 2.0))
        await self._last(2.0, 20.0)
        self.world.network.slow.pop(running.member_id, None)

    async def frames_repeated(self) -> None:
        self._tell("frames arrive twice")
        self.world.network.repeat_share = 0.3
        await self._last(2.0, 20.0)
        self.world.network.repeat_share = 0.0

    # members

    async def agent_killed(self) -> None:
        running = self._any()
        if running is None:
            return
        self.world.kill_agent(running, "is killed")
        await self._last(0.1, 15.0)
        self.world.start_agent(running)

    async def power_cut(self) -> None:
        running = self._any(gateways=False)
        if running is None:
            return
        self.world.power_cut(running)
        await self._last(1.0, 25.0)
        self.world.start_agent(running)

    async def gateway_reboots(self) -> None:
        running = self._any(nodes=False)
        if running is None:
            return
        self.world.power_cut(running)
        await self._last(0.5, 10.0)
        self.world.start_agent(running)

    async def gateway_stumbles(self) -> None:
        running = self._any(nodes=False)
        if running is not None and running.host is not None:
            self._tell(f"the proxy of {running.name} refuses orders")
            running.host.faults += self.chance.randint(1, 4)

    async def engine_away(self) -> None:
        running = self._any(gateways=False)
        if running is None or running.machine is None:
            return
        self._tell(f"the engine of {running.name} is away")
        running.machine.set_online(False)
        await self._last(0.5, 15.0)
        if running.machine.powered:
            self._tell(f"the engine of {running.name} is back")
            running.machine.set_online(True)

    async def engine_errors(self) -> None:
        running = self._any(gateways=False)
        if running is None or running.machine is None:
            return
        for _ in range(self.chance.randint(1, 3)):
            pull = self.chance.random() < 0.3
            method = "pull" if pull else self.chance.choice(ENGINE_METHODS)
            kind = self.chance.choice(PULL_KINDS if pull else ENGINE_KINDS)
            self._tell(f"the next {method} at {running.name} fails: {kind}")
            running.machine.fail(method, EngineError(kind, f"scripted {kind}"))

    async def engine_slow(self) -> None:
        running = self._any(gateways=False)
        if running is None or running.machine is None:
            return
        self._tell(f"the engine of {running.name} is slow")
        running.machine.slowness = self.chance.choice((10.0, 100.0))
        await self._last(2.0, 20.0)
        running.machine.slowness = 1.0

    async def answers_lost(self) -> None:
        running = self._any(gateways=False)
        if running is None or not isinstance(running.agent, Node):
            return
        self._tell(f"answers of the engine of {running.name} are lost")
        agent = running.agent
        agent.engine.lost_answers = 0.5
        await self._last(1.0, 10.0)
        agent.engine.lost_answers = 0.0

    async def disk_full(self) -> None:
        running = self._any(gateways=False)
        if running is None or running.machine is None:
            return
        self._tell(f"the disk of {running.name} is full")
        running.machine.disk.full = True
        await self._last(1.0, 20.0)
        self._tell(f"the disk of {running.name} has room again")
        running.machine.disk.full = False

    async def port_stolen(self) -> None:
        running = self._any(gateways=False)
        if running is None or running.machine is None:
            return
        port = 20000 + self.chance.randrange(4)
        self._tell(f"somebody else listens on port {port} of {running.name}")
        running.machine.foreign_ports.add(port)
        await self._last(2.0, 15.0)
        running.machine.foreign_ports.discard(port)

    # containers

    def _container(self) -> tuple[Running, str] | None:
        running = self._any(gateways=False)
        if running is None or running.machine is None or not running.machine.running():
            return None
        return running, self.chance.choice(sorted(running.machine.running()))

    async def container_ends(self) -> None:
        found = self._container()
        if found is not None and found[0].machine is not None:
            self._tell(f"the process of {found[1]} dies")
            found[0].machine.exit(found[1], self.chance.choice((0, 1, 137)))

    async def container_ends_and_node_is_cut_off(self) -> None:
        """Let a container of an update die and its node vanish: what follows is the node's fault, not the update's."""
        watch = self.world.watch
        new = [
            found
            for found in watch.replicas().values()
            if (of := watch.deployments().get(found.deployment_id)) is not None
            and of.update is not None
            and of.update.under_way
            and found.healthy
            and found.generation == of.generation
        ]
        replica = self.chance.choice(new) if new else None
        machine = watch.machines.get(replica.node_id) if replica is not None else None
        if replica is None or machine is None or replica.id not in machine.running():
            return
        self._tell(f"the process of {replica.id} dies, and its node is cut off")
        machine.exit(replica.id, 1)
        await asyncio.sleep(0.2)
        self.world.network.partition(replica.node_id)
        await self._last(4.0, 12.0)
        self.world.network.heal(replica.node_id)

    async def container_sick(self) -> None:
        found = self._container()
        if found is None or found[0].machine is None:
            return
        self._tell(f"{found[1]} does not answer")
        found[0].machine.sick[found[1]] = None
        await self._last(1.0, 20.0)
        found[0].machine.sick.pop(found[1], None)

    # the control plane

    async def clock_jumps(self) -> None:
        jump = self.chance.choice(CLOCK_JUMPS)
        running = self._any() if self.chance.random() < 0.6 else None
        if running is not None:
            self._tell(f"the clock of {running.name} jumps by {jump:+.0f} s")
            running.skew += jump
        else:
            self._tell(f"the control plane's clock jumps by {jump:+.0f} s")
            self.world.skew += jump

    async def plane_killed(self) -> None:
        host = self._host()
        self.world.kill_plane(host, "at any time")
        await self._last(0.1, 8.0)
        self.world.start_plane(host)

    def _host(self) -> str:
        """Return a control plane's host by chance, more often that of the one which leads."""
        leader = self.world.leader()
        if leader is not None and self.chance.random() < 0.5:
            return leader.host
        return self.chance.choice(self.world.hosts)

    async def plane_frozen(self) -> None:
        plane = self.world.freeze_plane(self._host())
        if plane is not None:
            await self._last(0.5, 15.0)
            self.world.thaw_plane(plane)

    async def plane_frozen_at_commit(self) -> None:
        faults = self.world.store_faults
        faults.freeze_in = self.chance.randint(1, 12)
        while faults.freeze_in > 0:
            await asyncio.sleep(0.5)
        await self._last(2.0, 15.0)
        for plane in list(self.world.planes.values()):
            self.world.thaw_plane(plane)

    async def plane_cut_off(self) -> None:
        host = self._host()
        self._tell(f"{host} is cut off")
        self.world.network.partition(host)
        await self._last(0.5, 15.0)
        self._tell(f"{host} is reached again")
        self.world.network.heal(host)

    async def plane_lags(self) -> None:
        """Let a process see late what is stored, and nodes turn to it, or away from it, meanwhile."""
        plane = self.world.planes.get(self._host())
        if plane is None:
            return
        lag = self.world.store_faults.lag
        self._tell(f"{plane.process.name} hears late of what is stored")
        lag[plane.process] = self.chance.choice((0.1, 0.5, 1.0))
        for _ in range(self.chance.randint(0, 4)):
            await self.cut()
            await asyncio.sleep(self.chance.random())
        await self._last(1.0, 10.0)
        lag.pop(plane.process, None)

    async def plane_killed_at_commit(self) -> None:
        faults = self.world.store_faults
        faults.kill_in = self.chance.randint(1, 12)
        faults.kill_after = self.chance.random() < 0.5
        while faults.kill_in > 0:
            await asyncio.sleep(0.5)
        await self._last(0.1, 5.0)
        for host in self.world.hosts:
            self.world.start_plane(host)

    async def store_errors(self) -> None:
        faults = self.world.store_faults
        self._tell("the store is slow and fails now and then")
        faults.error_share = self.chance.choice((0.0, 0.05, 0.3))
        faults.slow_seconds = self.chance.choice((0.0, 0.02, 0.3))
        await self._last(1.0, 10.0)
        faults.error_share = faults.slow_seconds = 0.0
