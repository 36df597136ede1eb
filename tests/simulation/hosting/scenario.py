"""The course of a run with servers: they join, VMs come up, primaries live, faults happen, and it comes to rest."""

import asyncio
from random import Random

from fallow.model.members import Role
from fallow.model.server_pools import LendingPolicy
from simulation.courses import chaos, play_out
from simulation.hosting.faults import CALM_LOAD, HostingFaults
from simulation.hosting.limits import LOOK_SECONDS
from simulation.hosting.people import HostingPeople
from simulation.hosting.rest import hosting_unrest
from simulation.hosting.world import Agent, HostingWorld, ServerRunning, hosting_replaced
from simulation.scenario import _unconnected
from simulation.story import Story
from simulation.world import Outcome

CHAOS_SECONDS = (15.0, 40.0)
BEGIN_SECONDS = 20.0  # at most, until the first machines have joined
SETTLE_SECONDS = 300.0
CALM_LOOKS = 3
CROWDED = 0.5  # of the runs: what is lent is full of all classes, and servers need back a part of it
REST_SECONDS = 4.0
WAITS_IN = 8  # one run in so many has primaries that wait


async def play(seed: int, story: Story, found: Outcome) -> None:
    """Play one run, into `found` and the story, up to its end or to the first violation."""
    with hosting_replaced():
        world = HostingWorld(seed, story)
        await play_out(world, _course(world, seed, found), found)


async def _course(world: HostingWorld, seed: int, found: Outcome) -> None:
    chance = Random(f"{seed}/course")
    people = HostingPeople(world, Random(f"{seed}/people"))
    faults = HostingFaults(world, Random(f"{seed}/faults"))
    loop = asyncio.get_running_loop()
    for host in world.hosts:
        world.start_plane(host)
    background = [loop.create_task(world.send_requests()), loop.create_task(_check_often(world, people))]
    await people.begin_policy()
    for _ in range(2):
        await people.join()
    await people.join(Role.GATEWAY)
    for _ in range(chance.randint(1, 3)):
        await people.join_server()
    for running in world.servers.values():
        assert running.server is not None
        running.server.load(CALM_LOAD)
    if chance.random() < 0.8:
        await _first_machine(world)
    if chance.random() < CROWDED:
        await people.crowd()
    else:
        for _ in range(chance.randint(2, 4)):
            await people.attempt(people.deploy)
    await asyncio.sleep(chance.random() * 6.0)
    living = loop.create_task(faults.live())
    # By chance of its own, and not in every run: the courses of all others stay as they are.
    waiting = loop.create_task(faults.wait(Random(f"{seed}/waits"))) if seed % WAITS_IN == WAITS_IN - 1 else None
    await chaos(people, faults, chance, CHAOS_SECONDS, calms=(1.5, 3.0, 6.0))
    living.cancel()
    if waiting is not None:
        waiting.cancel()
    world.story.tell("FAULT", "no more faults from here on")
    await faults.mend()
    await people.tidy()
    await faults.mend()
    found.settle_seconds = await _settle(world, people)
    for task in background:
        task.cancel()


async def _first_machine(world: HostingWorld) -> None:
    until = world.now() + BEGIN_SECONDS
    while world.now() < until and not any(vm.node_id for vm in world.watch.vms().values()):
        await asyncio.sleep(0.5)


async def _check_often(world: HostingWorld, people: HostingPeople) -> None:
    watch, looks = world.watch, 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for running in world.servers.values():
            assert running.server is not None
            watch.limits.look(running.server, _told(running))
        looks += 1
        if looks % 2:
            continue
        if any(world.network.is_partitioned(host) for host in world.hosts) or any(
            world.frozen(plane) for plane in world.planes.values()
        ):
            watch.deaf_at = world.now()
        faults = world.store_faults
        if faults.slow_seconds or faults.error_share or faults.lag:
            watch.store_slow_at = world.now()
        world.check_members()
        world.check_leader()
        people.check_acknowledged()


def _told(running: ServerRunning) -> LendingPolicy | None:
    """Return the policy that a server's agent holds to; None: it is not at work."""
    if running.process is None or not isinstance(running.agent, Agent):
        return None
    told = running.agent.lending._told
    return told.policy if told is not None else LendingPolicy()


async def _settle(world: HostingWorld, people: HostingPeople) -> float:
    """Wait until all is as it is wanted, and stays so; return after how many seconds it was."""
    began, calm, watch = world.now(), 0, world.watch
    while calm < CALM_LOOKS:
        missing = [*hosting_unrest(watch), *_unconnected(world)]  # type: ignore[arg-type]
        calm = 0 if missing else calm + 1
        if world.now() - began > SETTLE_SECONDS:
            world.story.broke("it comes to rest", f"after {SETTLE_SECONDS:.0f} s: {'; '.join(missing[:6])}")
            return world.now() - began
        await asyncio.sleep(1.0)
    took = world.now() - began
    world.story.tell("rest", f"all is as wanted after {took:.0f} s")
    # What is to be replaced goes once that fits: when a back-off ends, or an offer has climbed.
    replaced = {found.replaces for found in watch.replicas().values() if not found.node_id and not found.ended}
    healthy = {found.id for found in watch.replicas().values() if found.healthy} - replaced
    until = world.now() + REST_SECONDS
    while world.now() < until:
        await asyncio.sleep(1.0)
        gone = healthy - {found.id for found in watch.replicas().values() if found.healthy}
        if gone:
            world.story.broke("it stays at rest", f"{', '.join(sorted(gone))} went though nothing was asked for")
    people.check_acknowledged()
    return took
