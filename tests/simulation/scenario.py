"""The course of a run: a cluster grows, people and faults do as they like, faults end, and it must come to rest."""

import asyncio
from random import Random

from fallow.model.members import Role
from simulation.courses import chaos, play_out
from simulation.faults import Faults
from simulation.invariants import Watch
from simulation.rest import stuck, unrest
from simulation.story import Story
from simulation.workload import People
from simulation.world import Outcome, World

CHAOS_SECONDS = (20.0, 60.0)
CALM_LOOKS = 6  # a second apart: longer than a new replica of a paused update takes to prove itself
SETTLE_SECONDS = 240.0  # back-off reaches 60 s, the garbage loop takes 60 s
REST_SECONDS = 3.0  # so long nothing may change any more


async def play(seed: int, story: Story, found: Outcome) -> None:
    """Play one run, into `found` and the story, up to its end or to the first violation."""
    world = World(seed, story)
    await play_out(world, _course(world, seed, found), found)


async def _course(world: World, seed: int, found: Outcome) -> None:
    chance = Random(f"{seed}/course")
    people = People(world, Random(f"{seed}/people"))
    faults = Faults(world, Random(f"{seed}/faults"))
    loop = asyncio.get_running_loop()
    for host in world.hosts:
        world.start_plane(host)
    background = [loop.create_task(world.send_requests()), loop.create_task(_check_often(world, people))]
    for _ in range(chance.randint(4, 6)):
        await people.join()
    for _ in range(chance.randint(1, 2)):
        await people.join(Role.GATEWAY)
    for _ in range(chance.randint(2, 4)):
        await people.attempt(people.deploy)
    if chance.random() < 0.7:
        await asyncio.sleep(chance.random() * 6.0)
    await chaos(people, faults, chance, CHAOS_SECONDS, calms=(1.0, 2.0, 4.0))
    story = world.story
    story.tell("FAULT", "no more faults from here on")
    await faults.mend()
    await people.tidy()
    await faults.mend()
    if world.shared and chance.random() < 0.5:
        await _lose_one(world, chance)
    found.settle_seconds = await _settle(world, people)
    for task in background:
        task.cancel()


async def _lose_one(world: World, chance: Random) -> None:
    """Lose one control plane for good, once every member has learnt of the other: all must go on without it."""
    await asyncio.sleep(12.0)
    world.kill_plane(chance.choice(world.hosts), "for good")


async def _check_often(world: World, people: People) -> None:
    while True:
        await asyncio.sleep(0.5)
        deaf = any(world.network.is_partitioned(host) for host in world.hosts)
        if deaf or any(world.frozen(plane) for plane in world.planes.values()):
            world.watch.deaf_at = world.now()
        world.check_members()
        world.check_leader()
        people.check_acknowledged()


async def _settle(world: World, people: People) -> float:
    """Wait until all is as it is wanted, and stays so; return after how many seconds it was."""
    began = world.now()
    watch: Watch = world.watch
    calm = 0
    while calm < CALM_LOOKS:
        missing = [*unrest(watch), *_unconnected(world)]
        calm = 0 if missing else calm + 1
        if world.now() - began > SETTLE_SECONDS:
            world.story.broke("it comes to rest", f"after {SETTLE_SECONDS:.0f} s: {'; '.join(missing[:6])}")
            return world.now() - began
        await asyncio.sleep(1.0)
    took = world.now() - began
    world.story.tell("rest", f"all is as wanted after {took:.0f} s")
    running = _picture(world)
    until = world.now() + REST_SECONDS
    while world.now() < until:
        await asyncio.sleep(1.0)
        if missing := unrest(watch):
            world.story.broke("it stays at rest", "; ".join(missing[:6]))
        elif _picture(world) != running:
            world.story.broke("it stays at rest", "replicas come and go though nothing is asked for")
    people.check_acknowledged()
    return took


def _unconnected(world: World) -> list[str]:
    connected = {link.member_id for plane in world.working() for link in plane.hub.links()}
    return [
        f"member {found.name} has no session" for found in world.watch.members().values() if found.id not in connected
    ]


def _picture(world: World) -> list[tuple[str, str]]:
    excused = stuck(world.watch)
    replicas = [found for found in world.watch.replicas().values() if not found.ended and found.id not in excused]
    return sorted((found.id, found.state) for found in replicas)
