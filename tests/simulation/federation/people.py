"""What people do to a federation: they deploy with policies, scale, drain, join and remove clusters."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec

from fallow.api.routes.members import change_member, remove_member
from fallow.decide.selectors import parse_selector
from fallow.model.clusters import HERE_ID, ClusterPolicy, ClusterSpread, Rebalance
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, RouteSpec
from fallow.model.labels import Selector
from fallow.model.members import Facts, JoinRequest, Member, MemberChange, Role, Scheduling
from fallow.model.registrations import SignedBundle
from fallow.model.taints import Taint, Toleration
from fallow.model.tokens import TokenRequest
from simulation.federation.world import FederationWorld
from simulation.planes import Plane
from simulation.workload import _CALLER, TOKEN_SECONDS, Acts, People, _services

REGIONS = ("east", "west")
TAINT = "upgrade"
MOST_CLUSTERS = 5
FEWEST_CLUSTERS = 3


class FederationPeople(People):
    """Operators of a host, and users of it."""

    world: FederationWorld

    def __init__(self, world: FederationWorld, chance: Random) -> None:
        super().__init__(world, chance)
        self.policies = True  # deployments have all kinds of policies, not just the plain one

    async def act(self) -> None:
        """Do one thing by chance."""
        acts: Acts = [
            (3, self.deploy), (6, self.scale), (2, self.update), (1, self.delete), (3, self.change_policy),
            (3, self.drain), (3, self.use_again), (1, self.remove), (1, self.join), (1, self.label), (1, self.taint),
        ]  # fmt: skip
        await self._do_one(acts)

    # deployments

    def _spec(self, name: str) -> DeploymentSpec:
        chance = self.chance
        container = ContainerSpec(
            image=f"shop:{chance.randrange(2)}",
            ports=(PortSpec(container=80),),
            health=HealthCheck(kind="tcp", port=80, interval_seconds=2.0),
            resources=Resources(cpus=chance.choice((0.5, 1.0, 1.0, 2.0))),
        )
        routes = (RouteSpec(host=f"{name}.example", port=80),) if name != "jobs" else ()
        return DeploymentSpec(
            replicas=chance.randint(1, 10), container=container, routes=routes, clusters=self._policy()
        )

    def _policy(self) -> ClusterPolicy:
        chance = self.chance
        if not self.policies or chance.random() < 0.4:
            return ClusterPolicy()
        names = [found.name for found in self._clusters()]
        few = {name: chance.randint(1, 3) for name in names if chance.random() < 0.4}
        one, other = chance.sample(REGIONS, 2)
        return ClusterPolicy(
            divide=chance.choice(("weighted", "weighted", "capacity", "capacity", "aggregate", "duplicate")),
            where=parse_selector(f"region = {chance.choice(REGIONS)}") if chance.random() < 0.2 else Selector(),
            weights=few if chance.random() < 0.4 else {},
            min=few if chance.random() < 0.2 else {},
            max={name: count + 2 for name, count in few.items()} if chance.random() < 0.2 else {},
            fallback=tuple(parse_selector(f"region = {region}") for region in (one, other))
            if chance.random() < 0.2
            else (),
            tolerate=(Toleration(key=TAINT),) if chance.random() < 0.3 else (),
            spread=ClusterSpread(label="region", min_groups=2) if chance.random() < 0.1 else None,
            rebalance=self._rebalance() if chance.random() < 0.3 else None,
            fence_seconds=chance.choice((3.0, 8.0)) if chance.random() < 0.15 else 0.0,
            floor=chance.randint(0, 3) if chance.random() < 0.15 else None,
        )

    def _rebalance(self) -> Rebalance:
        after = self.chance.choice((0.0, 5.0, 20.0))
        if self.chance.random() < 0.5:
            return Rebalance(after_seconds=after, at_once=1)
        return Rebalance(after_seconds=after, percent=self.chance.choice((10, 30, 100)))

    async def scale(self) -> None:
        """Want more or fewer replicas."""
        current = self._one()
        if current is not None:
            await self._scale(current, self.chance.randint(0 if self.chance.random() < 0.1 else 1, 12))

    async def update(self) -> None:
        """Deploy another version."""
        current = self._one()
        if current is None:
            return
        container = msgspec.structs.replace(current.spec.container, image=f"shop:{self.chance.randrange(6)}")
        await self._wish(current.name, msgspec.structs.replace(current.spec, container=container), "updates")

    async def change_policy(self) -> None:
        """Want the same divided otherwise."""
        current = self._one()
        if current is not None:
            await self._divide_by(current, self._policy())

    async def _divide_by(self, current: Deployment, policy: ClusterPolicy) -> None:
        await self._wish(current.name, msgspec.structs.replace(current.spec, clusters=policy), "changes the policy of")

    # clusters

    def _clusters(self) -> list[Member]:
        found = [one for one in self.world.watch.members().values() if one.role is Role.CLUSTER and one.id != HERE_ID]
        return sorted(found, key=lambda one: one.name)

    async def drain(self) -> None:
        """Drain or cordon a cluster."""
        await self._put_out(self._clusters(), 1)

    async def use_again(self) -> None:
        """Take a drain or cordon back."""
        await self._take_in(self._clusters())

    async def label(self) -> None:
        """Say that a cluster lies elsewhere."""
        clusters = self._clusters()
        if clusters:
            change = MemberChange(labels={"region": self.chance.choice(REGIONS)})
            await self._change_member(self.chance.choice(clusters).name, change)

    async def taint(self) -> None:
        """Taint a cluster, or take its taints away."""
        clusters = self._clusters()
        if clusters:
            member = self.chance.choice(clusters)
            taint = Taint(key=TAINT, effect=self.chance.choice(("no-new", "move")))
            await self._change_member(member.name, MemberChange(taints=() if member.taints else (taint,)))

    async def _change_member(self, name: str, change: MemberChange) -> None:
        self.world.story.tell("people", f"change {name}: {change.labels or ''} {change.taints or ''}")

        async def work(plane: Plane) -> None:
            await change_member(_services(plane), _CALLER, name, change)

        await self.call(work)

    async def remove(self) -> None:
        """Remove a cluster for good."""
        clusters = self._clusters()
        if len(clusters) <= FEWEST_CLUSTERS:
            return
        await self._remove(self.chance.choice(clusters).name)

    async def _remove(self, name: str) -> None:
        self.world.story.tell("people", f"remove {name}")

        async def work(plane: Plane) -> None:
            await remove_member(_services(plane), _CALLER, name, force=True)

        await self.call(work)

    async def join(self, role: Role = Role.CLUSTER) -> None:
        """Let a cluster join."""
        if len(self._clusters()) >= MOST_CLUSTERS:
            return
        await self.join_cluster(float(self.chance.randint(4, 14)))

    async def join_cluster(self, cpus: float) -> Any:
        """Let a cluster with so many processors join; it asks until it is told who it is."""
        self.machines += 1
        number = self.machines
        labels = {"region": self.chance.choice(REGIONS)}
        secret = (await self._until_answered(self._cluster_token(labels))).secret
        facts = Facts(hostname=f"cluster{number}", cpus=cpus, memory_bytes=2**40)

        async def join(plane: Plane) -> Any:
            request = JoinRequest(
                token=secret, csr_pem=f"key {number}", role=Role.CLUSTER, facts=facts, sent_at=plane.clock()
            )
            signed = SignedBundle(bundle=msgspec.json.encode(request).decode(), signature="paper")
            return await plane.admission.join(signed, f"10.0.0.{number}"), plane.host

        identity, joined_at = await self._until_answered(join)
        world = self.world
        member = world.add_cluster(identity.member_id, identity.name, cpus, joined_at)
        world.story.tell("people", f"{identity.name} joins with {cpus:g} processors, {labels}")
        if identity.member_id not in world.watch.members():
            world.story.broke("an acknowledged write is kept", f"{identity.name} joined and is not stored")
        world.start_cluster(member)
        return member

    def _cluster_token(self, labels: dict[str, str]) -> Callable[[Plane], Awaitable[Any]]:
        async def create(plane: Plane) -> Any:
            request = TokenRequest(role=Role.CLUSTER, labels=labels, ttl_seconds=TOKEN_SECONDS)
            return await plane.tokens._create_join(request, "people")

        return create

    async def tidy(self) -> None:
        """Take back what would keep replicas from fitting: drains, cordons, what is dead, and some of the taints."""
        for member in self._clusters():
            world_member = self.world.clusters.get(member.id)
            if world_member is None or not world_member.site.powered:
                await self._until(lambda name=member.name: self._remove(name))  # type: ignore[misc]
            elif member.scheduling is not Scheduling.ACTIVE:
                await self._until_scheduled(member.name)
            if member.taints and self.chance.random() < 0.5:
                await self._until(lambda name=member.name: self._change_member(name, MemberChange(taints=())))  # type: ignore[misc]
