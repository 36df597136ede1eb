"""What people do to a cluster, by the API's own functions; and what they may rely on once it was acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec

from fallow.api.routes.deployments import change_deployment, delete_deployment
from fallow.api.routes.members import change_member, remove_member
from fallow.api.routes.updates import pause, restart, resume, rollback
from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused
from fallow.control.rosters import guarded
from fallow.decide.compose import Application
from fallow.decide.deploy import Changes, StillDeletingError, changes
from fallow.decide.plan import Step
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec, Resources, RestartPolicy
from fallow.model.deployments import (
    Deployment,
    DeploymentChange,
    DeploymentSpec,
    PlacementPolicy,
    RollbackRequest,
    RouteSpec,
)
from fallow.model.members import Facts, JoinRequest, Member, MemberChange, MemberState, Role, Scheduling
from fallow.model.registrations import SignedBundle
from fallow.model.tokens import TokenRequest
from fallow.model.updates import UpdateConfig
from fallow.store.contract import StoreError
from simulation.clock import forever
from simulation.machines import EXITS, ILL, STUBBORN
from simulation.planes import Plane
from simulation.promises import config_of
from simulation.world import IMAGES, World

PROJECT = "shop"
NAMES = ("web", "api", "jobs", "pay")
MISSING = "shop:missing"  # in no registry
PATIENCE_SECONDS = 20.0
TOKEN_SECONDS = 86400.0  # clocks jump by hours while people wait for an answer

Acts = list[tuple[int, Callable[[], Awaitable[None]]]]  # with their weights


class NoAnswer(Exception):  # noqa: N818
    """The control plane died, or did not answer: it may have been done or not."""


class People:
    """Operators and users, one at a time."""

    def __init__(self, world: World, chance: Random) -> None:
        self.world = world
        self.chance = chance
        self.wished: dict[str, DeploymentSpec | None] = {}  # by name; None: deletion was acknowledged
        self.unsure: set[str] = set()  # names of which the last word was not acknowledged
        self.scheduled: dict[str, Scheduling] = {}  # nodes by name: what was acknowledged last
        self.machines = 0
        self._deploying = asyncio.Lock()

    async def call(self, work: Callable[[Plane], Awaitable[Any]]) -> Any:
        """Call the API of the control plane there is. Raises NoAnswer and Refused."""
        planes = [plane for plane in self.world.planes.values() if plane.running]
        if not planes:
            raise NoAnswer
        plane = self.chance.choice(planes) if len(planes) > 1 else planes[0]
        task = plane.process.spawn(_called(work, plane))
        done, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        if not done:
            task.cancel()
        if not done or task.cancelled():
            raise NoAnswer
        try:
            return task.result()
        except StoreError as error:
            raise NoAnswer from error

    async def act(self) -> None:
        """Do one thing by chance."""
        acts: Acts = [
            (4, self.deploy), (5, self.scale), (4, self.update), (1, self.delete), (1, self.change_routes),
            (3, self.drain), (3, self.use_again), (1, self.remove), (1, self.join),
        ]  # fmt: skip
        if self.world.wide:
            acts += [(3, self.reconsider)] if self.world.shared else []
            acts += [(1, self.restart), (2, self.roll_back), (1, self.pause), (2, self.resume)]
        await self._do_one(acts)

    async def _do_one(self, acts: Acts) -> None:
        """Do one of these by chance."""
        (chosen,) = self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])
        await self.attempt(chosen)

    async def attempt(self, chosen: Callable[[], Awaitable[None]]) -> None:
        """Do one thing, whatever the answer."""
        try:
            await chosen()
        except NoAnswer:
            self.world.story.tell("people", "  no answer")
        except Refused as refused:
            self.world.story.tell("people", f"  refused: {refused.problem.title}")

    # deployments

    async def deploy(self) -> None:
        """Deploy something that is not there, or another version of it."""
        name = self.chance.choice(NAMES)
        await self._wish(name, self._spec(name), "deploys")

    async def update(self) -> None:
        """Change what an existing deployment is made of."""
        current = self._one()
        if current is None:
            return
        spec = msgspec.structs.replace(current.spec, container=self._version(current))
        if self.world.wide and self.chance.random() < 0.6:
            spec = msgspec.structs.replace(spec, update=self._config("rollback"), rollback=self._config("pause"))
        await self._wish(current.name, spec, "updates")

    def _version(self, current: Deployment) -> ContainerSpec:
        """Return another version, now and then one that does not work."""
        image, command = f"shop:{self.chance.randrange(IMAGES)}", STUBBORN if current.name == "jobs" else None
        if self.world.wide and self.chance.random() < 0.3:
            image, command = self.chance.choice(((MISSING, command), (image, EXITS), (image, ILL)))
        return msgspec.structs.replace(current.spec.container, image=image, command=command)

    def _config(self, action: Any) -> UpdateConfig:
        chance = self.chance
        return UpdateConfig(
            parallelism=chance.choice((None, 0, 1, 2)),
            delay_seconds=chance.choice((0.0, 0.0, 2.0)),
            monitor_seconds=chance.choice((0.0, 1.0, 5.0)),
            max_failure_ratio=chance.choice((0.0, 0.0, 0.3)),
            failure_action=chance.choice((action, action, action, "pause", "continue")),
            order=chance.choice(("start-first", "start-first", "stop-first")),
            progress_seconds=chance.choice((20.0, 600.0)),
        )

    async def restart(self) -> None:
        """Renew every replica by one of the same."""
        await self._revise("restart", restart)

    async def roll_back(self) -> None:
        """Go back to the last good generation, or by mistake to one that never worked."""
        kept = [found for found in self.world.watch.templates() if _never_works(found.container)]
        if kept and self.chance.random() < 0.6:
            template = self.chance.choice(kept)
            data = RollbackRequest(to=template.generation)
            current = self.world.watch.deployments().get(template.deployment_id)
            if current is not None and not current.deleting:
                await self._revise("roll back to what never worked:", rollback, current, data=data)
        else:
            await self._revise("roll back", rollback, data=RollbackRequest())

    async def pause(self) -> None:
        """Pause an update."""
        await self._revise("pause", pause)

    async def resume(self) -> None:
        """Let a paused update go on."""
        await self._revise("resume", resume)

    async def _revise(self, verb: str, do: Any, current: Deployment | None = None, **more: Any) -> None:
        current = current or self._one()
        if current is None:
            return

        async def revise(plane: Plane) -> None:
            await do(_services(plane), _CALLER, PROJECT, current.name, **more)

        await self._change(current.name, current.spec, revise, f"{verb} {current.name}", going_back=True)
        stored = next((one for one in self.world.watch.deployments().values() if one.name == current.name), None)
        self.wished[current.name] = stored.spec if stored is not None else None

    async def change_routes(self) -> None:
        """Take a deployment's routes away, or give it some."""
        current = self._one()
        if current is not None:
            routes = () if current.spec.routes else (_route(current.name),)
            await self._wish(current.name, msgspec.structs.replace(current.spec, routes=routes), "routes")

    async def scale(self) -> None:
        """Want more or fewer replicas."""
        current = self._one()
        if current is None:
            return
        most = 1 if _fixed(current.spec) else (3 if current.spec.placement.max_per_node else 6)
        await self._scale(current, self.chance.randint(0 if self.chance.random() < 0.2 else 1, most))

    async def reconsider(self) -> None:
        """Want one replica more, and think better of it at once: another process may not know of the first wish yet."""
        current = self._one()
        if current is None or _fixed(current.spec):
            return
        await self._scale(current, current.spec.replicas + 1)
        await self._scale(current, current.spec.replicas)

    async def _scale(self, current: Deployment, count: int) -> None:
        stored = self.world.watch.deployments().get(current.id, current)
        wanted = msgspec.structs.replace(stored.spec, replicas=count)

        async def scale(plane: Plane) -> None:
            await change_deployment(_services(plane), _CALLER, PROJECT, current.name, DeploymentChange(replicas=count))

        await self._change(current.name, wanted, scale, f"scales {current.name} to {count}")

    async def delete(self) -> None:
        """Delete a deployment."""
        current = self._one()
        if current is None:
            return

        async def delete(plane: Plane) -> None:
            await delete_deployment(_services(plane), _CALLER, PROJECT, current.name)

        await self._change(current.name, None, delete, f"deletes {current.name}")

    async def _wish(self, name: str, spec: DeploymentSpec, verb: str) -> None:
        application = Application(project=PROJECT, deployments=((name, spec),), warnings=())

        async def deploy(plane: Plane) -> None:
            def decide() -> tuple[Step | None, Changes]:
                done = changes(plane.cache.snapshot(), application, plane.clock(), new_id)
                return guarded(plane.cache, done.step, "deployments", plane.clock()) if done.step else None, done

            async with self._deploying:
                await commit_again(plane.applier, decide)

        try:
            text = f"{verb} {name}: {spec.replicas} of {spec.container.image}, routes {len(spec.routes)}"
            await self._change(name, spec, deploy, text)
        except StillDeletingError:
            self.world.story.tell("people", f"{name} is still being deleted")

    async def _change(
        self,
        name: str,
        wanted: DeploymentSpec | None,
        work: Callable[[Plane], Awaitable[None]],
        text: str,
        going_back: bool = False,
    ) -> None:
        self.world.story.tell("people", text)
        before, unsure = self.wished.get(name), name in self.unsure
        self.unsure.add(name)
        try:
            await self.call(work)
        except (Refused, StillDeletingError):
            self.wished[name] = before
            if not unsure:
                self.unsure.discard(name)
            raise
        self.unsure.discard(name)
        self.wished[name] = wanted
        self.world.story.tell("people", "  acknowledged")
        if not going_back:
            self.check_acknowledged()

    def check_acknowledged(self) -> None:
        """Check that every acknowledged wish is stored."""
        for member in self.world.watch.members().values():
            if member.scheduling is not self.scheduled.get(member.name, member.scheduling):
                self.world.story.broke("an acknowledged write is kept", f"{member.name} is {member.scheduling}")
        stored = {found.name: found for found in self.world.watch.deployments().values()}
        for name, wanted in self.wished.items():
            if name in self.unsure:
                continue
            found = stored.get(name)
            if wanted is None and found is not None and not found.deleting:
                self.world.story.broke("an acknowledged write is kept", f"the deletion of {name} is lost")
            if wanted is not None and (found is None or found.deleting):
                self.world.story.broke("an acknowledged write is kept", f"{name} is gone or going")
            elif wanted is not None and found is not None and (differ := _differing(found, wanted)):
                self.world.story.broke("an acknowledged write is kept", f"{name} has another {', '.join(differ)}")

    def _one(self) -> Deployment | None:
        """Return a deployment by chance."""
        found = [one for one in self.world.watch.deployments().values() if not one.deleting]
        return self.chance.choice(sorted(found, key=lambda one: one.name)) if found else None

    def _spec(self, name: str) -> DeploymentSpec:
        chance = self.chance
        fixed = name == "pay"
        container = ContainerSpec(
            image=f"shop:{chance.randrange(IMAGES)}",
            command=STUBBORN if name == "jobs" else None,
            ports=(PortSpec(container=80, host=8080 if fixed else None),),
            health=HealthCheck(kind="none")
            if name == "jobs"
            else HealthCheck(kind="tcp", port=80, interval_seconds=2.0),
            stop_grace_seconds=chance.choice((0.5, 3.0)),
            resources=Resources(cpus=0.2),
            restart=RestartPolicy(delay_seconds=0.5, max_delay_seconds=4.0),
        )
        placement = PlacementPolicy(
            strategy=chance.choice(("spread", "pack")), max_per_node=1 if name == "api" and chance.random() < 0.3 else 0
        )
        most = 1 if fixed else (3 if placement.max_per_node else 6)
        routes = (_route(name),) if name != "jobs" else ()
        spec = DeploymentSpec(replicas=chance.randint(1, most), container=container, placement=placement, routes=routes)
        if self.world.wide and chance.random() < 0.5:
            spec = msgspec.structs.replace(spec, update=self._config("rollback"), rollback=self._config("pause"))
        return spec

    # members

    async def drain(self) -> None:
        """Drain or cordon a node."""
        await self._put_out(self._nodes(), 3)

    async def use_again(self) -> None:
        """Take a drain or cordon back."""
        await self._take_in(self._nodes())

    async def _put_out(self, members: Sequence[Member], least: int) -> None:
        """Drain or cordon one of those that are in use, if they are more than `least`."""
        active = [found for found in members if found.scheduling is Scheduling.ACTIVE]
        if len(active) > least:
            kind = self.chance.choice((Scheduling.DRAINING, Scheduling.DRAINING, Scheduling.CORDONED))
            await self._schedule(self.chance.choice(active).name, kind)

    async def _take_in(self, members: Sequence[Member]) -> None:
        """Take the drain or cordon of one back."""
        out = [found for found in members if found.scheduling is not Scheduling.ACTIVE]
        if out:
            await self._schedule(self.chance.choice(out).name, Scheduling.ACTIVE)

    async def _schedule(self, name: str, scheduling: Scheduling) -> None:
        self.world.story.tell("people", f"want {name} {scheduling}")

        async def change(plane: Plane) -> None:
            await change_member(_services(plane), _CALLER, name, MemberChange(scheduling=scheduling))

        known = self.scheduled.pop(name, None)
        try:
            await self.call(change)
        except Refused:
            if known is not None:
                self.scheduled[name] = known
            raise
        self.scheduled[name] = scheduling

    async def remove(self) -> None:
        """Remove a node, by force when it holds replicas."""
        nodes = self._nodes()
        if len(nodes) <= 4:
            return
        node = self.chance.choice(nodes)
        self.world.story.tell("people", f"remove {node.name}")

        async def remove(plane: Plane) -> None:
            await remove_member(_services(plane), _CALLER, node.name, force=True)

        await self.call(remove)

    async def join(self, role: Role = Role.NODE) -> None:
        """Let a machine join; it asks again, with the same token and key, until it is told who it is."""
        if role is Role.NODE and len(self._nodes()) >= 7:
            return
        self.machines += 1
        number = self.machines
        address = f"10.0.0.{number}" if role is Role.GATEWAY or number % 3 else f"10.0.0.{number - 1}"
        secret = (await self._until_answered(self._token(role))).secret
        facts = Facts(hostname=f"{role}{number}", architecture="amd64", cpus=4.0, memory_bytes=8 * 2**30)

        async def join(plane: Plane) -> Any:
            request = JoinRequest(token=secret, csr_pem=f"key {number}", role=role, facts=facts, sent_at=plane.clock())
            signed = SignedBundle(bundle=msgspec.json.encode(request).decode(), signature="paper")
            return await plane.admission.join(signed, address), plane.host

        identity, joined_at = await self._until_answered(join)
        world = self.world
        if role is Role.NODE:
            running = world.add_node(identity.member_id, identity.name, address, joined_at)
        else:
            running = world.add_gateway(identity.member_id, identity.name, joined_at)
        if identity.member_id not in world.watch.members():
            world.story.broke("an acknowledged write is kept", f"{identity.name} joined and is not stored")
        world.start_agent(running)

    def _token(self, role: Role) -> Callable[[Plane], Awaitable[Any]]:
        async def create(plane: Plane) -> Any:
            return await plane.tokens.create(TokenRequest(role=role, ttl_seconds=TOKEN_SECONDS), "people")

        return create

    async def _until_answered(self, work: Callable[[Plane], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await self.call(work)
            except NoAnswer:
                await asyncio.sleep(1.0)
            except Refused as refused:
                if refused.problem.status == HTTPStatus.SERVICE_UNAVAILABLE:  # nobody leads just now
                    await asyncio.sleep(1.0)
                    continue
                self.world.story.broke("an acknowledged write is kept", f"refused: {refused}")
                await forever()

    def _nodes(self) -> list[Any]:
        found = [one for one in self.world.watch.members().values() if one.role is Role.NODE]
        return sorted(found, key=lambda one: one.name)

    async def tidy(self) -> None:
        """Take back what would keep replicas from fitting: drains, cordons and too few nodes; and what never works."""
        for name in [found.name for found in self.world.watch.deployments().values()]:
            await self._repair(name)
        for node in self._nodes():
            if node.scheduling is not Scheduling.ACTIVE:
                await self._until_scheduled(node.name)
        while sum(node.state is not MemberState.DEAD for node in self._nodes()) < 4:
            await self.join()

    async def _repair(self, name: str) -> None:
        """Update a version that does not work, and that nothing takes back, to one that does."""
        while True:
            stored = next((one for one in self.world.watch.deployments().values() if one.name == name), None)
            if stored is None or stored.deleting or not _stays_broken(stored):
                return
            command = STUBBORN if name == "jobs" else None
            container = msgspec.structs.replace(stored.spec.container, image="shop:0", command=command)
            spec = msgspec.structs.replace(stored.spec, container=container, update=UpdateConfig())
            await self.attempt(lambda spec=spec: self._wish(name, spec, "repairs"))  # type: ignore[misc]
            await asyncio.sleep(1.0)

    async def _until_scheduled(self, name: str) -> None:
        await self._until(lambda: self._schedule(name, Scheduling.ACTIVE))

    async def _until(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something, again as long as nobody answers; a refusal is an answer."""
        while True:
            try:
                await work()
            except NoAnswer:
                await asyncio.sleep(1.0)
            except Refused:
                return
            else:
                return


async def _called(work: Callable[[Plane], Awaitable[Any]], plane: Plane) -> Any:
    return await work(plane)


def _differing(found: Deployment, wanted: DeploymentSpec) -> list[str]:
    """Name what is stored otherwise than it was wished; what an update that fails takes back is not."""
    back = ("container", "placement", "routes") if found.update is not None and found.update.rollback else ()
    return [
        field
        for field in DeploymentSpec.__struct_fields__
        if field not in back and getattr(found.spec, field) != getattr(wanted, field)
    ]


def _never_works(container: ContainerSpec) -> bool:
    return container.image == MISSING or container.command in (EXITS, ILL)


def _stays_broken(found: Deployment) -> bool:
    container, config = found.spec.container, config_of(found)
    if not _never_works(container):
        return False
    lenient = config.failure_action == "continue" or config.max_failure_ratio > 0 or found.name == "jobs"
    return lenient or found.update is None or not found.update.under_way or found.update.forgiven > 0


def _route(name: str) -> RouteSpec:
    return RouteSpec(host=f"{name}.example", port=80)


def _fixed(spec: DeploymentSpec) -> bool:
    return any(port.host for port in spec.container.ports)


_CALLER: Any = SimpleNamespace(scope={"state": {"caller": SimpleNamespace(name="people")}})


def _services(plane: Plane) -> Any:
    """Return what the API's functions need of a control plane."""
    return SimpleNamespace(
        cache=plane.cache,
        applier=plane.applier,
        hub=plane.hub,
        settings=plane.settings,
        clock=plane.clock,
        new_id=new_id,
        store=plane.store,
        resolver=plane.distribution.resolver,
    )
