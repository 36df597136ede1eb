"""A whole control plane places on lent capacity by what a server says, and moves away what the server needs back."""

from pathlib import Path

import msgspec
from control_rig import until
from records import NOW, deployment, template
from session_rig import Machine
from test_plane import dial, started

from fallow.decide.plan import Step
from fallow.drivers.authority import Authority
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, ReplicaState
from fallow.model.members import MemberState, Role
from fallow.model.server_frames import ServerReported
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm

GIB = 2**30
BULK = deployment(
    "bulk",
    revision=0,
    spec=DeploymentSpec(
        replicas=1,
        container=ContainerSpec(image="shop:1", resources=Resources(cpus=0.5, memory_bytes=GIB // 4)),
        placement=PlacementPolicy(service_class="spot"),
    ),
)
WELL = ServerReport(cpus=8.0, memory_bytes=16 * GIB, offer_cpus=4.0, offer_memory_bytes=8 * GIB, lends=True)


async def test_it_goes_where_a_server_lends_and_leaves_when_that_is_needed_back(tmp_path: Path) -> None:
    async with started(tmp_path) as (plane, port):
        authority = Authority.create_or_load(tmp_path / "ca")
        server, node = Machine(authority, tmp_path, "srv", Role.SERVER), Machine(authority, tmp_path, "vm")
        vm = Vm(
            id="v-1", created_at=NOW, updated_at=NOW, name="vm-1", server_id=server.record.id, cpus=4.0,
            memory_bytes=4 * GIB, disk_bytes=0, image="default", node_id=node.record.id,
        )  # fmt: skip
        pool = ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(vms=VmPlan(count=0)))
        members = [msgspec.structs.replace(each.record, state=MemberState.JOINING) for each in (server, node)]
        made = msgspec.structs.replace(template(BULK), revision=0)
        await plane.applier.commit(Step(puts=(*members, vm, pool)))
        await dial(node, port)
        says = await dial(server, port)
        await until(lambda: plane.cache.snapshot().members[node.record.id].state is MemberState.READY)
        await plane.applier.commit(Step(puts=(BULK, made)))

        def replica_in(*states: ReplicaState) -> bool:
            return any(found.state in states for found in plane.cache.snapshot().replicas.values())

        await until(lambda: any(found.reason is not None for found in plane.cache.snapshot().replicas.values()))
        (waiting,) = plane.cache.snapshot().replicas.values()
        assert waiting.reason is not None
        assert "server srv has not said anything yet, so it counts as full" in waiting.reason.text
        await says.say(ServerReported(report=WELL))
        await until(lambda: replica_in(ReplicaState.PLACED))
        (placed,) = plane.cache.snapshot().replicas.values()
        assert placed.node_id == node.record.id
        await says.say(ServerReported(report=msgspec.structs.replace(WELL, relief_cpus=0.4, relief_seconds=60.0)))
        await until(lambda: plane.cache.snapshot().replicas[placed.id].state is ReplicaState.STOPPING)
        lending = plane.cache.snapshot().lendings[server.record.id]
        assert lending.evictions == 1
        assert lending.backoff_until > plane.clock()
        await until(lambda: any("backing off" in found.reason.text for found in waiting_ones(plane)))


def waiting_ones(plane: object) -> list[object]:
    replicas = plane.cache.snapshot().replicas.values()  # type: ignore[attr-defined]
    return [found for found in replicas if found.state is ReplicaState.PENDING and found.reason is not None]
