"""A host as it is, and the member clusters that follow a script; made of the world of one cluster."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fallow.agent.session import SessionRefused
from simulation.clock import Process
from simulation.federation.clusters import Cluster
from simulation.federation.sites import Site
from simulation.federation.watch import FederationWatch
from simulation.members import Folder, Identity
from simulation.story import Story
from simulation.world import EPOCH, HOSTS, World


@dataclass
class Member:
    """A member cluster: its machines, and its control plane if it has one just now."""

    site: Site
    joined_at: str = HOSTS[0]
    process: Process | None = None
    refused: bool = False
    skew: float = 0.0  # its clock's, in seconds
    folder: Folder = field(default_factory=Folder)


class FederationWorld(World):
    """One or two control planes of a host, and member clusters by id."""

    watch_type = FederationWatch
    watch: FederationWatch

    def __init__(self, seed: int, story: Story) -> None:
        super().__init__(seed, story)
        self.clusters: dict[str, Member] = {}

    def add_cluster(self, id_: str, name: str, cpus: float, joined_at: str) -> Member:
        """Let there be a cluster that has joined."""
        site = self.watch.sites[id_] = Site(id_, name, cpus, self.watch)
        member = self.clusters[id_] = Member(site, joined_at)
        return member

    def start_cluster(self, member: Member) -> None:
        """Start a cluster's control plane."""
        if member.process is not None or member.refused or not member.site.powered:
            return
        process = member.process = Process(member.site.name)
        clock: Callable[[], float] = lambda: EPOCH + self.now() + member.skew  # noqa: E731
        identity = Identity(member.site.id, member.joined_at, member.folder)

        async def run() -> None:
            cluster = Cluster(member.site, identity, self.network, self.chance["agents"], clock, self.story.tell)
            await self._run_cluster(member, cluster)

        process.spawn(run())

    async def _run_cluster(self, member: Member, cluster: Cluster) -> None:
        process, name = member.process, member.site.name
        try:
            await cluster.run(asyncio.Event())
        except SessionRefused as refused:
            self.story.tell(name, f"ends its membership: {refused}")
            member.refused = True
            if member.site.id not in self.watch.removed:
                self.story.broke("only removed members are turned away for good", name)
        except Exception as error:  # noqa: BLE001 - told as what it is
            self.story.broke("members do not crash", f"{name}: {type(error).__name__}: {error}")
        if member.process is process:
            member.process = None

    def kill_cluster(self, member: Member, how: str) -> None:
        """Kill a cluster's control plane; its containers go on."""
        if member.process is None:
            return
        self.story.tell("FAULT", f"the control plane of {member.site.name} {how}")
        process, member.process = member.process, None
        process.alive = False
        member.site.changed = lambda: None
        self.network.vanish(member.site.id)
        process.kill()

    def lose_cluster(self, member: Member) -> None:
        """Lose a whole cluster at once."""
        self.story.tell("FAULT", f"all of {member.site.name} loses power")
        self.kill_cluster(member, "is gone, too")
        member.site.power_cut()

    def restore_cluster(self, member: Member) -> None:
        """Put an old backup in the place of what a cluster's control plane had stored; it must not be running."""
        if member.site.backup is not None:
            self.story.tell("FAULT", f"{member.site.name} is restored from a backup")
            member.site.restore(member.site.backup)
