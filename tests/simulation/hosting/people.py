"""What people do where servers lend: they deploy in classes, edit policies, drain servers, and make VMs by hand."""

from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec

from fallow.api.routes.server_pools import change_server_pool
from fallow.api.routes.vms import change_vm, create_vm, delete_vm
from fallow.decide.selectors import parse_selector
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec, Resources, RestartPolicy
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, RouteSpec
from fallow.model.labels import Selector
from fallow.model.members import Facts, JoinRequest, Member, Role, Scheduling
from fallow.model.registrations import SignedBundle
from fallow.model.server_pools import DEFAULT_POOL, LendingChange, ServerPoolChange, VmPlanChange
from fallow.model.tokens import TokenRequest
from fallow.model.vms import SERVER_LABEL, Vm, VmChange, VmRequest, VmWish
from simulation.hosting.world import HostingWorld
from simulation.planes import Plane
from simulation.workload import Acts, People, _services

CLASSES = {"web": "", "api": "harvest", "jobs": "spot", "pay": "standard"}
CROWD = ("web", "api", "jobs")
LENT = parse_selector("fallow.server")
MIB = 2**20
GOOD = LendingChange(lends=True, hours=(), reserve_cpus=0.0, vms=VmPlanChange(count=1))


class HostingPeople(People):
    """Operators of servers, and users of what they lend."""

    world: HostingWorld

    def __init__(self, world: HostingWorld, chance: Random) -> None:
        super().__init__(world, chance)
        self._made_by_hand = 0
        self._crowding: tuple[str, ...] = ()

    async def act(self) -> None:
        """Do one thing by chance."""
        acts: Acts = [
            (3, self.deploy), (6, self.scale), (2, self.update), (1, self.delete), (3, self.drain_server),
            (3, self.use_server), (1, self.drain), (2, self.use_again), (3, self.edit), (2, self.make_vm),
            (3, self.change_vm), (1, self.delete_vm),
        ]  # fmt: skip
        await self._do_one(acts)

    # deployments

    def _spec(self, name: str) -> DeploymentSpec:
        chance = self.chance
        container = ContainerSpec(
            image=f"shop:{chance.randrange(2)}",
            ports=(PortSpec(container=80),),
            health=HealthCheck(kind="tcp", port=80, interval_seconds=2.0),
            stop_grace_seconds=0.5,
            resources=Resources(cpus=chance.choice((0.2, 0.5, 1.0)), memory_bytes=chance.choice((64, 256, 512)) * MIB),
            restart=RestartPolicy(delay_seconds=0.5, max_delay_seconds=4.0),
        )
        lent = name in self._crowding or (CLASSES[name] in ("harvest", "spot") and chance.random() < 0.5)
        placement = PlacementPolicy(
            strategy=chance.choice(("spread", "pack")),
            service_class=CLASSES[name],  # type: ignore[arg-type]
            selector=LENT if lent else Selector(),
        )
        routes = (RouteSpec(host=f"{name}.example", port=80),) if name in ("web", "api") else ()
        return DeploymentSpec(replicas=chance.randint(1, 5), container=container, placement=placement, routes=routes)

    async def crowd(self) -> None:
        """Fill what is lent with small replicas of every class that may go there."""
        self._crowding = CROWD
        for name in CROWD:
            spec = self._spec(name)
            resources = msgspec.structs.replace(spec.container.resources, cpus=self.chance.choice((0.2, 0.3, 0.5)))
            container = msgspec.structs.replace(spec.container, resources=resources)
            spec = msgspec.structs.replace(spec, replicas=self.chance.randint(3, 5), container=container)
            await self.attempt(lambda name=name, spec=spec: self._wish(name, spec, "deploys"))  # type: ignore[misc]
        self._crowding = ()

    async def scale(self) -> None:
        """Want more or fewer replicas."""
        current = self._one()
        if current is not None:
            await self._scale(current, self.chance.randint(0 if self.chance.random() < 0.1 else 1, 7))

    async def update(self) -> None:
        """Deploy another version."""
        current = self._one()
        if current is not None:
            container = msgspec.structs.replace(current.spec.container, image=f"shop:{self.chance.randrange(2)}")
            await self._wish(current.name, msgspec.structs.replace(current.spec, container=container), "updates")

    # servers

    async def join_server(self) -> None:
        """Let a server join."""
        self.machines += 1
        name = f"srv{self.machines}"
        cpus = float(self.chance.choice((4, 8)))

        async def token(plane: Plane) -> Any:
            return await plane.tokens.create(TokenRequest(role="server", name=name), "people")

        secret = (await self._until_answered(token)).secret
        facts = Facts(hostname=name, architecture="amd64", cpus=cpus, memory_bytes=16 * 2**30)
        address, key = f"10.0.1.{self.machines}", f"server {self.machines}"

        async def join(plane: Plane) -> Any:
            request = JoinRequest(token=secret, csr_pem=key, role=Role.SERVER, facts=facts, sent_at=plane.clock())
            signed = SignedBundle(bundle=msgspec.json.encode(request).decode(), signature="paper")
            return await plane.admission.join(signed, address), plane.host

        identity, joined_at = await self._until_answered(join)
        self.world.start_agent(self.world.add_server(identity.member_id, identity.name, cpus, joined_at))

    def _servers(self) -> list[Member]:
        found = [one for one in self.world.watch.members().values() if one.role is Role.SERVER]
        return sorted(found, key=lambda one: one.name)

    def _nodes(self) -> list[Any]:
        """Return the nodes that are machines of their own."""
        return [found for found in super()._nodes() if SERVER_LABEL not in found.labels]

    async def drain_server(self) -> None:
        """Drain a server, if another one is in use."""
        await self._put_out(self._servers(), 1)

    async def drain(self) -> None:
        """Drain or cordon a node, if another one is in use."""
        await self._put_out(self._nodes(), 1)

    async def use_server(self) -> None:
        """Use a server again."""
        await self._take_in(self._servers())

    async def edit(self) -> None:
        """Change how servers lend; now and then so that they do not."""
        chance = self.chance
        await self._edit(
            chance.choice(
                (
                    LendingChange(lends=False),
                    LendingChange(lends=True),
                    LendingChange(hours=(self._hours(),)),
                    LendingChange(hours=()),
                    LendingChange(cpu_threshold=0.5, cpu_ceiling=chance.choice((0.6, 0.7))),
                    LendingChange(cpu_threshold=0.65, cpu_ceiling=0.8),
                    LendingChange(reserve_cpus=chance.choice((0.0, 1.0))),
                    LendingChange(vms=VmPlanChange(count=chance.choice((0, 1, 2)))),
                )
            )
        )

    def _hours(self) -> str:
        """Return hours that begin or end about now."""
        minute = int(self.world.clock() // 60)
        first = (minute - self.chance.choice((60, 1, 0, -1))) % 1440
        last = (first + self.chance.choice((1, 2, 120))) % 1440
        return f"{first // 60:02}:{first % 60:02}-{last // 60:02}:{last % 60:02}"

    async def begin_policy(self) -> None:
        """Say how servers lend at first: quick where the product is patient, so that runs are short."""
        chance = self.chance
        await self._until(
            lambda: self._edit(
                LendingChange(
                    evict_after_seconds=chance.choice((2.0, 5.0, 10.0)),
                    move_seconds=chance.choice((5.0, 15.0)),
                    backoff_seconds=chance.choice((15.0, 25.0)),
                    vms=VmPlanChange(count=chance.choice((1, 1, 2)), memory_bytes=chance.choice((0, 2048 * MIB))),
                )
            )
        )

    async def _edit(self, change: LendingChange) -> None:
        self.world.story.tell("people", f"edit the policy: {_words(change)}")

        async def edit(plane: Plane) -> None:
            data = ServerPoolChange(policy=change)
            await change_server_pool(_services(plane), _caller(data), DEFAULT_POOL, data)

        await self.call(edit)

    # virtual machines

    async def make_vm(self) -> None:
        """Make a VM by hand, of the policy's size or of one's own."""
        servers = self._servers()
        if not servers or sum(not vm.automatic for vm in self.world.watch.vms().values()) >= 2:
            return
        self._made_by_hand += 1
        data = VmRequest(
            server=self.chance.choice(servers).name,
            name=f"hand{self._made_by_hand}",
            cpus=self.chance.choice((1.0, 2.0)),
            memory_bytes=1024 * MIB,
        )
        self.world.story.tell("people", f"make {data.name} on {data.server}")

        async def make(plane: Plane) -> None:
            await create_vm(_services(plane), _caller(data), data)

        await self.call(make)

    def _vm(self) -> Vm | None:
        found = sorted(self.world.watch.vms().values(), key=lambda vm: vm.name)
        return self.chance.choice(found) if found else None

    async def change_vm(self) -> None:
        """Stop, start, drain or resize a VM."""
        vm = self._vm()
        if vm is not None:
            await self._change_vm(
                vm,
                self.chance.choice(
                    (
                        VmChange(wanted="stopped"),
                        VmChange(wanted="running"),
                        VmChange(draining=True),
                        VmChange(draining=False),
                        VmChange(cpus=vm.cpus + self.chance.choice((-1.0, 1.0)) if vm.cpus > 1 else 2.0),
                        VmChange(memory_bytes=int(vm.memory_bytes * self.chance.choice((0.75, 1.25)))),
                    )
                ),
            )

    async def _change_vm(self, vm: Vm, data: VmChange) -> None:
        self.world.story.tell("people", f"change {vm.name}: {_words(data)}")

        async def change(plane: Plane) -> None:
            await change_vm(_services(plane), _caller(data), vm.id, data)

        await self.call(change)

    async def delete_vm(self) -> None:
        """Delete a VM."""
        vm = self._vm()
        if vm is None:
            return
        self.world.story.tell("people", f"delete {vm.name}")

        async def delete(plane: Plane) -> None:
            await delete_vm(_services(plane), _caller(None), vm.id)

        await self.call(delete)

    # the end

    async def tidy(self) -> None:
        """Take back what keeps replicas from fitting and machines from running."""
        for member in (*self._servers(), *self._nodes()):
            if member.scheduling is not Scheduling.ACTIVE:
                await self._until_scheduled(member.name)
        await self._until(lambda: self._edit(GOOD))
        for vm in list(self.world.watch.vms().values()):
            if vm.wanted is VmWish.STOPPED or vm.draining:
                vm_data = VmChange(wanted="running", draining=False)
                await self._until(lambda vm=vm, data=vm_data: self._change_vm(vm, data))  # type: ignore[misc]


def _caller(data: Any) -> Any:
    """Return what the API's functions ask of a request with this body."""

    async def body() -> bytes:
        return msgspec.json.encode(data)

    return SimpleNamespace(scope={"state": {"caller": SimpleNamespace(name="people")}}, body=body)


def _words(change: msgspec.Struct) -> str:
    """Return what a change names."""
    return ", ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(change).items() if value is not None)
