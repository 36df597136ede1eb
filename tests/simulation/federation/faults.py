"""What goes wrong in a federation: clusters cut off, lost, restored, slow, full or lying, and a host that stumbles."""

import asyncio
from random import Random

from simulation.faults import Faults
from simulation.federation.world import FederationWorld, Member

CLOCK_JUMPS = (-3600.0, -60.0, 60.0, 3600.0)
BACKUP_SECONDS = (2.0, 20.0)


class FederationFaults(Faults):
    """Begins faults by chance until told to end."""

    world: FederationWorld

    def __init__(self, world: FederationWorld, chance: Random) -> None:
        super().__init__(world, chance)
        self._kinds = [
            (4, self.cluster_cut_off), (3, self.cluster_cut_one_way), (2, self.cut), (2, self.slow_link),
            (3, self.cluster_killed), (2, self.cluster_loses_power), (1, self.cluster_lost), (2, self.cluster_restored),
            (3, self.containers_end), (2, self.cluster_shrinks), (2, self.cluster_slow), (2, self.cluster_lies),
            (2, self.most_silent), (2, self.clock_jumps), (3, self.frames_repeated),
            (3, self.plane_killed), (6, self.plane_killed_at_commit), (2, self.plane_frozen),
            (3, self.plane_frozen_at_commit), (2, self.plane_cut_off), (2, self.store_errors),
        ]  # fmt: skip
        if world.shared:
            self._kinds.append((4, self.plane_lags))

    def kill_at_commit(self) -> None:
        """Kill a control plane of the host at one of the commits that come next."""
        self._tasks.append(asyncio.get_running_loop().create_task(self.plane_killed_at_commit()))

    async def mend(self) -> None:
        """Mend everything but what is lost for good."""
        await super().mend()
        for member in self.world.clusters.values():
            site = member.site
            self.world.network.heal(site.id)
            site.start_seconds = 2.0
            self._speak_the_truth(member)
            if site.id not in self.world.watch.removed:
                self.world.start_cluster(member)

    def _cluster(self) -> Member | None:
        found = [
            member
            for member in self.world.clusters.values()
            if member.site.id not in self.world.watch.removed and member.site.powered
        ]
        return self.chance.choice(found) if found else None

    # the network

    async def cluster_cut_off(self) -> None:
        """Cut a cluster off: for a moment, for a minute, or until faults end."""
        member = self._cluster()
        if member is not None:
            seconds = self.chance.choice((2.0, 5.0, 5.0, 9.0, 15.0, 60.0, 1e6))
            self._tell(f"{member.site.name} is cut off for {seconds:g} s")
            self.world.network.partition(member.site.id)
            await asyncio.sleep(seconds)
            self._heal(member)

    async def cluster_cut_one_way(self) -> None:
        """Let a cluster hear without being heard, or be heard without hearing."""
        member = self._cluster()
        if member is not None:
            mute = self.chance.random() < 0.5
            self._tell(f"{member.site.name} {'is not heard' if mute else 'hears nothing'}")
            self.world.network.cut_one_way(member.site.id, mute)
            await self._last(1.0, 30.0)
            self._heal(member)

    def _heal(self, member: Member) -> None:
        self._tell(f"{member.site.name} is reached again")
        self.world.network.heal(member.site.id)

    async def most_silent(self) -> None:
        """Cut most clusters off at once, or all."""
        members = [found for found in self.world.clusters.values() if found.site.id not in self.world.watch.removed]
        few = self.chance.sample(members, max(0, len(members) - self.chance.randint(0, 1)))
        self._tell(f"most are cut off: {', '.join(sorted(found.site.name for found in few))}")
        for member in few:
            self.world.network.partition(member.site.id)
        await self._last(2.0, 30.0)
        for member in few:
            self._heal(member)

    async def cut(self) -> None:
        """Break a cluster's connection off."""
        member = self._cluster()
        if member is not None:
            self._tell(f"the connection of {member.site.name} breaks")
            self.world.network.reset(member.site.id)

    async def slow_link(self) -> None:
        """Let a cluster's words take long."""
        member = self._cluster()
        if member is not None:
            self._tell(f"the way to {member.site.name} is slow")
            self.world.network.slow[member.site.id] = self.chance.choice((0.1, 0.5, 1.0))
            await self._last(2.0, 20.0)
            self.world.network.slow.pop(member.site.id, None)

    # clusters

    async def cluster_killed(self) -> None:
        """Kill a cluster's control plane for a while."""
        member = self._cluster()
        if member is not None:
            self.world.kill_cluster(member, "is killed")
            await self._last(0.1, 20.0)
            self.world.start_cluster(member)

    async def cluster_loses_power(self) -> None:
        """Lose all of a cluster for a while."""
        member = self._cluster()
        if member is not None:
            self.world.lose_cluster(member)
            await self._last(1.0, 30.0)
            self._tell(f"{member.site.name} has power again")
            member.site.power_on()
            self.world.start_cluster(member)

    async def cluster_lost(self) -> None:
        """Lose a cluster for good."""
        powered = [found for found in self.world.clusters.values() if found.site.powered]
        member = self._cluster()
        if member is not None and len(powered) > 2:
            self.world.lose_cluster(member)

    async def cluster_restored(self) -> None:
        """Put a backup in the place of a cluster's store."""
        member = self._cluster()
        if member is not None:
            member.site.backup = member.site.kept.copy()
            await asyncio.sleep(self.chance.uniform(*BACKUP_SECONDS))
            if member.site.powered:
                self.world.kill_cluster(member, "is stopped")
                await self._last(0.1, 8.0)
                if member.process is None:
                    self.world.restore_cluster(member)
                    self.world.start_cluster(member)

    async def containers_end(self) -> None:
        """Let some of a cluster's containers end by themselves."""
        member = self._cluster()
        if member is not None and member.site.containers:
            found = self.chance.sample(list(member.site.containers.values()), min(2, len(member.site.containers)))
            self._tell(f"containers end in {member.site.name}: {', '.join(sorted(one.id for one in found))}")
            member.site.lose(found)

    async def cluster_shrinks(self) -> None:
        """Lose some of a cluster's machines for a while."""
        member = self._cluster()
        if member is None:
            return
        cpus = float(int(member.site.cpus * self.chance.choice((0.3, 0.6))))
        self._tell(f"machines of {member.site.name} with {cpus:g} processors are lost")
        member.site.shrink(cpus)
        try:
            await self._last(5.0, 60.0)
        finally:
            member.site.cpus += cpus
            member.site.changed()

    async def cluster_slow(self) -> None:
        """Let replicas take long to start in a cluster."""
        member = self._cluster()
        if member is not None:
            self._tell(f"starts take long in {member.site.name}")
            member.site.start_seconds = self.chance.choice((8.0, 30.0))
            await self._last(5.0, 30.0)
            member.site.start_seconds = 2.0

    async def cluster_lies(self) -> None:
        """Let a cluster claim room that it does not have, or deny what it has."""
        member = self._cluster()
        if member is not None:
            member.site.lie = self.chance.choice((0, 50, 100_000))
            self._tell(f"{member.site.name} says that it has room for {member.site.lie}")
            member.site.changed()
            await self._last(5.0, 40.0)
            self._speak_the_truth(member)

    def _speak_the_truth(self, member: Member) -> None:
        if member.site.lie is not None:
            member.site.lie, member.site.lied_at = None, self.world.now()
            member.site.changed()

    # clocks

    async def clock_jumps(self) -> None:
        """Set the clock of the host or of a cluster."""
        jump = self.chance.choice(CLOCK_JUMPS)
        member = self._cluster() if self.chance.random() < 0.5 else None
        self._tell(f"the clock of {member.site.name if member else 'the host'} jumps by {jump:+.0f} s")
        if member is not None:
            member.skew += jump
        else:
            self.world.skew += jump
            self.world.watch.jumped_at = self.world.now()
