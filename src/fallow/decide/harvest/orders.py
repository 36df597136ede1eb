"""What a server is told: its policy, whether it may lend just now, and what to do with each of its virtual machines."""

from fallow.decide.clones import superseded
from fallow.decide.harvest.pools import pool_of
from fallow.decide.placement.request import NANO
from fallow.decide.placement.standing import need_of
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.pools import NetworkMode, PortRange
from fallow.model.server_frames import SetLending
from fallow.model.servers import Lending
from fallow.model.vms import Vm, VmOrder, VmWish

# What an emergency on a server spares last.
_RANK_OF_SPOT, _RANK_OF_HARVEST = 1, 2


def closed(snapshot: Snapshot, server: Member) -> str:
    """Return why nothing may be lent of a server, though there might be room; empty: it may lend.

    Its lending hours are not looked at: the server knows its own clock, and tells that it does not lend.
    """
    if server.scheduling is Scheduling.DRAINING:
        return "it is drained by an operator"
    lending = snapshot.lendings.get(server.id)
    if lending is not None and leaving(server, lending):
        return f"it shuts down: {lending.leaving}"
    pool, policy = pool_of(snapshot, server)
    return "" if policy.lends else f"its server pool {pool} lends nothing"


def leaving(server: Member, lending: Lending) -> bool:
    """Say whether a server has said that it shuts down, and has not come back since with another start of its agent.

    A start is on record only a moment after its session was opened, so the one that said it need not be.
    """
    runs = server.runs
    if not lending.leaving or superseded(runs, lending.left_by):
        return False
    return not runs or runs[-1].instance == lending.left_by or runs[-1].at <= lending.updated_at


def orders_of(snapshot: Snapshot, server: Member) -> SetLending:
    """Return all that a server should do.

    A virtual machine is told to stop or to go only once nothing is left on it, and nothing can come any more. It also
    stops, for as long as it is empty, while its server is closed.
    """
    why = closed(snapshot, server)
    vms = sorted(snapshot.vms_by_server.get(server.id, ()), key=lambda vm: vm.id)
    return SetLending(
        policy=pool_of(snapshot, server)[1],
        closed=why,
        vms=tuple(_order(snapshot, server, vm, closed=bool(why)) for vm in vms),
    )


def leaves(vm: Vm) -> bool:
    """Say whether what runs in a virtual machine should move away."""
    return vm.draining or vm.wanted is not VmWish.RUNNING


def empty(snapshot: Snapshot, vm: Vm) -> bool:
    """Say whether a virtual machine holds no replicas."""
    return not vm.node_id or not snapshot.replicas_by_node.get(vm.node_id)


def told(snapshot: Snapshot, vm: Vm) -> VmWish:
    """Return what a virtual machine's server should make of it by now, as long as the server is open."""
    node = snapshot.members.get(vm.node_id)
    # A node that is neither drained nor dead may be given a replica at this very moment.
    may_get = node is not None and node.scheduling is not Scheduling.DRAINING and node.state is not MemberState.DEAD
    return VmWish.RUNNING if may_get or not empty(snapshot, vm) else vm.wanted


def _order(snapshot: Snapshot, server: Member, vm: Vm, *, closed: bool) -> VmOrder:
    asked, rank = _held(snapshot, vm)
    return VmOrder(
        vm_id=vm.id,
        name=vm.name,
        isolation=vm.isolation,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        disk_bytes=vm.disk_bytes,
        image=vm.image,
        wanted=_stopped_if(told(snapshot, vm), closed and empty(snapshot, vm)),
        joined=_joined(snapshot, vm),
        asked_cpus=asked / NANO,
        rank=rank,
        ports=_ports(server, vm, snapshot.members.get(vm.node_id)),
    )


def _ports(server: Member, vm: Vm, node: Member | None) -> tuple[PortRange, ...]:
    """Return the ports of a node that is reached at its server's address: it joined from behind NAT."""
    if node is None or vm.isolation != "vm" or node.lease.mode is not NetworkMode.DIRECT:
        return ()
    if node.lease.address != server.lease.address:
        return ()
    agent = node.lease.agent_port
    return (node.lease.host_ports, *((PortRange(first=agent, last=agent),) if agent else ()))


def _joined(snapshot: Snapshot, vm: Vm) -> bool:
    """Say whether a virtual machine knows that it is a node; before its first session it may have ended unaware."""
    node = snapshot.members.get(vm.node_id)
    return bool(vm.node_id) and (node is None or node.state is not MemberState.JOINING)


def _stopped_if(wish: VmWish, stops: bool) -> VmWish:
    return VmWish.STOPPED if stops and wish is VmWish.RUNNING else wish


def _held(snapshot: Snapshot, vm: Vm) -> tuple[int, int]:
    """Return what all that a virtual machine holds asks for (billionths of a processor), and the best class of it.

    The class is 0 for nothing, 1 for `spot`, 2 for anything better.
    """
    asked = best = 0
    for replica in snapshot.replicas_by_node.get(vm.node_id, ()) if vm.node_id else ():
        template = snapshot.templates.get(replica.template_id)
        spot = template is not None and template.placement.service_class == "spot"
        best = max(best, _RANK_OF_SPOT if spot else _RANK_OF_HARVEST)
        asked += need_of(template).cpus
    return asked, best
