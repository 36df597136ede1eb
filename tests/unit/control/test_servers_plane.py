"""A whole control plane with a server: a virtual machine made by policy, told, given its token, and gone again."""

from pathlib import Path

import msgspec
from bundles import bundle, new_key
from control_rig import until
from server_records import report, use
from session_rig import Connection, Machine
from test_plane import dial, started

from fallow.control.plane import ControlPlane
from fallow.decide.plan import Step
from fallow.drivers.authority import Authority
from fallow.model.members import Identity, MemberState, Role
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenAsked, VmTokenGranted
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.vms import VmOrder, VmState, VmWish


async def order(connection: Connection, wanted: VmWish, **more: object) -> VmOrder:
    """Return the order of the only virtual machine, once it is as wanted."""
    while True:
        told = await connection.hear_a(SetLending)
        for found in told.vms:
            if found.wanted is wanted and all(getattr(found, name) == value for name, value in more.items()):
                return found


async def joined(plane: ControlPlane, token: str) -> Identity:
    found = await plane.admission.join(bundle(token, new_key(), sent_at=plane.clock()), "10.0.0.9")
    assert isinstance(found, Identity)
    return found


async def test_a_vm_from_its_policy_to_a_node_and_back(tmp_path: Path) -> None:
    async with started(tmp_path) as (plane, port):
        machine = Machine(Authority.create_or_load(tmp_path / "ca"), tmp_path, "srv", Role.SERVER)
        machine.record = msgspec.structs.replace(machine.record, state=MemberState.JOINING)
        await plane.applier.commit(Step(puts=(machine.record,)))
        connection = await dial(machine, port)
        await connection.say(ServerReported(report=report()))
        made = await order(connection, VmWish.RUNNING)
        await connection.say(VmTokenAsked(vm_id=made.vm_id))
        granted = await connection.hear_a(VmTokenGranted)
        node = await joined(plane, granted.token)
        connected = msgspec.structs.replace(plane.cache.snapshot().members[node.member_id], state=MemberState.READY)
        await plane.applier.commit(Step(puts=(connected,)))
        await order(connection, VmWish.RUNNING, joined=True)
        assert plane.cache.snapshot().vms_by_node[node.member_id].id == made.vm_id
        await connection.say(ServerReported(report=report(vms=(use(made.vm_id),))))
        await until(lambda: plane.cache.snapshot().vms[made.vm_id].state is VmState.RUNNING)
        none = LendingPolicy(vms=VmPlan(count=0))
        await plane.applier.commit(Step(puts=(ServerPool(id="default", created_at=0, updated_at=0, policy=none),)))
        await order(connection, VmWish.ABSENT)
        await until(lambda: plane.cache.snapshot().members[node.member_id].scheduling == "draining")
        await connection.say(ServerLeaving(reason="power"))
        while not (await connection.hear_a(SetLending)).closed:
            pass
        connection.writer.transport.abort()
