"""The courses of a federation: everything at once, glitches, a lost cluster, drains by the dozen, a silence of most."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from fallow.model.members import Scheduling
from simulation.courses import chaos, play_out
from simulation.federation.faults import FederationFaults
from simulation.federation.people import FederationPeople
from simulation.federation.rest import unrest
from simulation.federation.world import FederationWorld, Member
from simulation.story import Story
from simulation.world import Outcome

CHAOS_SECONDS = (20.0, 70.0)
CALM_LOOKS = 3  # a second apart
SETTLE_SECONDS = 400.0  # a cluster that did not place what it was told is held back for five minutes
REST_SECONDS = 8.0  # so long nothing may change any more
GLITCH_SECONDS = 5.0
LONGEST_SECONDS = 1500.0
TOLD_SECONDS = 11.0  # after a lost cluster's last sign of life others are told to run what it ran
READY_SECONDS = 15.0  # and they do, when starts take 2 s
COURSES = {"chaos": 12, "glitches": 2, "loss": 2, "drains": 3, "silence": 1}  # methods of Course, and how often


async def play(seed: int, story: Story, found: Outcome) -> None:
    """Play one run, into `found` and the story, up to its end or to the first violation."""
    world = FederationWorld(seed, story)
    await play_out(world, _course(world, seed, found), found, LONGEST_SECONDS)


def chance_of(seed: int) -> Random:
    """Return the chance that a run's course is made of."""
    return Random(f"{seed}/course")


def course_of(chance: Random) -> str:
    """Return which course it is: the first that is drawn."""
    (name,) = chance.choices(list(COURSES), list(COURSES.values()))
    return name


class Course:
    """One run of one kind."""

    def __init__(self, world: FederationWorld, seed: int) -> None:
        self.world = world
        self.chance = chance_of(seed)
        self.people = FederationPeople(world, Random(f"{seed}/people"))
        self.faults = FederationFaults(world, Random(f"{seed}/faults"))

    async def begin(self, cpus: tuple[int, int] = (6, 14)) -> None:
        """Start the host, and let clusters join and deployments be divided over them."""
        world, chance = self.world, self.chance
        for host in world.hosts:
            world.start_plane(host)
        for _ in range(chance.randint(3, 5)):
            await self.people.join_cluster(float(chance.randint(*cpus)))
        for _ in range(chance.randint(1, 4)):
            await self.people.attempt(self.people.deploy)

    # courses

    async def chaos(self) -> None:
        """Let people and faults do as they like."""
        await self.begin()
        if self.chance.random() < 0.6:
            await asyncio.sleep(self.chance.random() * 10.0)
        await chaos(self.people, self.faults, self.chance, CHAOS_SECONDS, calms=(2.0, 4.0, 8.0), busies=(1.0, 3.0, 6.0))
        await self._end_faults()

    async def glitches(self) -> None:
        """Cut clusters off for moments: nothing may move."""
        await self.begin()
        await self.settle()
        self.world.watch.calm = True
        for _ in range(self.chance.randint(3, 8)):
            await self._glitch(self.chance.choice(list(self.world.clusters.values())))
            await asyncio.sleep(self.chance.uniform(0.0, 8.0))
        await asyncio.sleep(15.0)
        self.world.watch.calm = False

    async def _glitch(self, member: Member) -> None:
        seconds = self.chance.uniform(0.3, GLITCH_SECONDS)
        network, story = self.world.network, self.world.story
        kind = self.chance.choice(("cut off", "mute", "deaf", "killed", "host"))
        story.tell("FAULT", f"for {seconds:.1f} s: {kind} {member.site.name}")
        if kind == "cut off":
            network.partition(member.site.id)
        elif kind == "killed":
            self.world.kill_cluster(member, "is killed")
        elif kind == "host":
            self.world.kill_plane(self.world.hosts[0], "at any time")
        else:
            network.cut_one_way(member.site.id, kind == "mute")
        await asyncio.sleep(seconds)
        network.heal(member.site.id)
        self.world.start_cluster(member)
        self.world.start_plane(self.world.hosts[0])

    async def loss(self) -> None:
        """Lose a cluster for good: what it ran serves elsewhere in time."""
        await self.begin(cpus=(30, 40))
        await self.settle()
        await asyncio.sleep(5.0)
        watch = self.world.watch
        lost = self.chance.choice(list(self.world.clusters.values()))
        if self.chance.random() < 0.5:
            self.world.lose_cluster(lost)
        else:
            self.world.story.tell("FAULT", f"{lost.site.name} is cut off for good")
            self.world.network.partition(lost.site.id)
        await asyncio.sleep(0.1)  # what was on its way arrives
        heard_at = self.world.now() - watch.silence(lost.site.id)
        await asyncio.sleep(heard_at + TOLD_SECONDS - self.world.now())
        for deployment in watch.deployments().values():
            told = {id_: count for id_, count in watch.told(deployment.id).items() if id_ != lost.site.id}
            if self._fits_elsewhere(deployment.id, lost) and sum(told.values()) < deployment.spec.replicas:
                text = f"{deployment.path}: {sum(told.values())} of {deployment.spec.replicas}"
                self.world.story.broke("what a lost cluster ran is told elsewhere in time", text)
        await asyncio.sleep(heard_at + READY_SECONDS - self.world.now())
        for deployment in watch.deployments().values():
            ready = {id_: count for id_, count in watch.ready(deployment.id).items() if id_ != lost.site.id}
            if self._fits_elsewhere(deployment.id, lost) and sum(ready.values()) < deployment.spec.replicas:
                text = f"{deployment.path}: {sum(ready.values())} of {deployment.spec.replicas}"
                self.world.story.broke("what a lost cluster ran is ready elsewhere in time", text)
        if lost.site.powered:
            await asyncio.sleep(self.chance.uniform(0.0, 60.0))
            self.world.story.tell("FAULT", f"{lost.site.name} is reached again")
            self.world.network.heal(lost.site.id)
        else:
            await self.people.tidy()

    def _fits_elsewhere(self, deployment_id: str, lost: Member) -> bool:
        """Say whether any policy lets another cluster take what is lost, and one has room."""
        deployment = self.world.watch.deployments()[deployment_id]
        policy, cpus = deployment.spec.clusters, deployment.spec.container.resources.cpus
        if policy.max or policy.where.requirements or policy.weights or policy.spread or policy.fence_seconds:
            return False
        others = (found.site for found in self.world.clusters.values() if found is not lost)
        return any(site.powered and site.free >= cpus for site in others)

    async def drains(self) -> None:
        """Drain, stop to drain, and scale, twenty times, all interleaved; now and then the host is killed."""
        await self.begin()
        await self.settle()
        acts: list[Callable[[], Awaitable[None]]] = [
            self.people.drain, self.people.drain, self.people.use_again, self.people.scale,
        ]  # fmt: skip
        faulty = self.chance.random() < 0.5
        for _ in range(20):
            await self.people.attempt(self.chance.choice(acts))
            if faulty and self.chance.random() < 0.3:
                self.faults.kill_at_commit()
            await asyncio.sleep(self.chance.choice((0.0, 0.1, 1.0, 4.0)))
        await self.faults.mend()
        for member in self.people._clusters():
            if member.scheduling is not Scheduling.ACTIVE and self.chance.random() < 0.5:
                await self.people._until_scheduled(member.name)

    async def silence(self) -> None:
        """Let most clusters, or all, be silent at once for a while: the host takes itself for cut off."""
        await self.begin()
        await self.settle()
        self.world.watch.calm = True
        members = list(self.world.clusters.values())
        fewest = (len(members) + 1) // 2 + 1  # more than half of all, the host's own nodes among them
        most = self.chance.sample(members, self.chance.randint(min(fewest, len(members)), len(members)))
        self.world.story.tell("FAULT", f"cut off: {', '.join(sorted(found.site.name for found in most))}")
        for member in most:
            self.world.network.partition(member.site.id)
        await asyncio.sleep(self.chance.uniform(6.0, 60.0))
        for member in most:
            self.world.network.heal(member.site.id)
        await asyncio.sleep(15.0)
        self.world.watch.calm = False

    # the end

    async def _end_faults(self) -> None:
        self.world.story.tell("FAULT", "no more faults from here on")
        await self.faults.mend()
        await self.people.tidy()
        await self.faults.mend()

    async def settle(self) -> float:
        """Wait until all is as it is wanted; return after how many seconds it was."""
        world, began, calm = self.world, self.world.now(), 0
        while calm < CALM_LOOKS:
            # While nobody leads nothing changes, whatever there is to do: that is no rest.
            missing = unrest(world.watch) if world.leader() is not None else ["no process leads"]
            calm = 0 if missing else calm + 1
            if world.now() - began > SETTLE_SECONDS:
                world.story.broke("it comes to rest", f"after {SETTLE_SECONDS:.0f} s: {'; '.join(missing[:6])}")
                break
            await asyncio.sleep(1.0)
        took = world.now() - began
        world.story.tell("rest", f"all is as wanted after {took:.0f} s")
        return took

    async def rest(self) -> None:
        """Check that nothing changes any more."""
        moves, until = self.world.watch.moves, self.world.now() + REST_SECONDS
        while self.world.now() < until:
            await asyncio.sleep(1.0)
            if missing := unrest(self.world.watch):
                self.world.story.broke("it stays at rest", "; ".join(missing[:6]))
            elif self.world.watch.moves != moves:
                self.world.story.broke("it stays at rest", "clusters are told otherwise though nothing is asked for")


async def _course(world: FederationWorld, seed: int, found: Outcome) -> None:
    course = Course(world, seed)
    checking = asyncio.get_running_loop().create_task(_check_often(world, course.people))
    name = course_of(course.chance)
    world.story.tell("course", name)
    await getattr(course, name)()
    found.settle_seconds = await course.settle()
    await course.rest()
    course.people.check_acknowledged()
    checking.cancel()


async def _check_often(world: FederationWorld, people: FederationPeople) -> None:
    while True:
        await asyncio.sleep(0.5)
        watch, faults = world.watch, world.store_faults
        cut = any(world.network.is_partitioned(host) for host in world.hosts)
        frozen = any(world.frozen(plane) for plane in world.planes.values())
        if cut or frozen:
            watch.deaf_at = world.now()
        if (
            cut
            or frozen
            or faults.slow_seconds
            or faults.error_share
            or faults.lag
            or len(world.working()) < len(world.hosts)
            or world.leader() is None  # the one that leads was killed; another has begun in its place, and waits
        ):
            watch.host_stumbled_at = world.now()
        watch.note_rooms()
        world.check_leader()
        people.check_acknowledged()
