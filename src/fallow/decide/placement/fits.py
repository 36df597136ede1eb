"""Say of one binding whether it still holds: the rules of placement, for one node, without a table."""

from collections.abc import Iterable

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.matching import matches, picks, trouble_of
from fallow.decide.placement import phrases
from fallow.decide.placement.disk import disk_full
from fallow.decide.placement.request import Request, going, protocol_bit, replaced_by, request_of
from fallow.decide.placement.result import Binding
from fallow.decide.placement.standing import NOBODY, Lenders, is_stray, needed, report_of, vm_trouble
from fallow.decide.placement.table import free_room
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard, sight_of
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.labels import Selector
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.meta import Reason


def fits(
    snapshot: Snapshot,
    binding: Binding,
    heard: Heard | None = None,
    servers: HeardServers | None = None,
    now: float = 0.0,
) -> Reason | None:
    """Return why `binding` does not hold on `snapshot`, None when it does.

    Looks only at what is on its node, and where that is on lent capacity on its server (which alone `now` is for).
    """
    replica = snapshot.replicas.get(binding.replica_id)
    if replica is None:
        return Reason(code="ReplicaGone", text="the replica is no longer wanted")
    if replica.state is not ReplicaState.PENDING:
        return Reason(code="ReplicaNotPending", text=f"the replica is {replica.state}, not pending")
    template = snapshot.templates.get(replica.template_id)
    if template is None:
        return Reason(code="NoTemplate", text="what it is made of is no longer stored")
    node = snapshot.nodes.get(binding.node_id)
    if node is None:
        return Reason(code="NodeGone", text="the node was removed")
    others = [found for found in snapshot.replicas_by_node.get(node.id, ()) if found.id != replica.id]
    request = request_of(template)
    neighbours = _neighbours(snapshot, node) if request.fixed_ports else []
    return (
        _in_service(node, binding)
        or _known(snapshot, node, heard or {})
        or _wanted(snapshot, node, request)
        or _resourceful(snapshot, node, request, heard or {})
        or _room(snapshot, node, request, others, servers or NOBODY)
        or _lent(snapshot, node, request, servers or NOBODY, now)
        or _crowd(snapshot, request, replica, others)
        or _ports(node, request, binding, [*others, *neighbours])
    )


def _neighbours(snapshot: Snapshot, node: Member) -> list[Replica]:
    """Return the replicas of other nodes at the same address: they share its host ports."""
    beside = [id_ for id_, found in snapshot.nodes.items() if found.lease.address == node.lease.address]
    return [replica for id_ in beside if id_ != node.id for replica in snapshot.replicas_by_node.get(id_, ())]


def _in_service(node: Member, binding: Binding) -> Reason | None:
    if node.state is not MemberState.READY:
        return Reason(code="NodeNotReady", text=f"{node.name}: {phrases.STATES[node.state]}")
    if node.scheduling is not Scheduling.ACTIVE:
        text = phrases.CORDONED if node.scheduling is Scheduling.CORDONED else phrases.DRAINING
        return Reason(code="NodeNotSchedulable", text=f"{node.name}: {text}")
    if not node.lease.address:
        return Reason(code="NodeNotReachable", text=f"{node.name}: {phrases.NO_ADDRESS}")
    if node.network_problem:
        return Reason(code="NodeNotReachable", text=f"{node.name}: {phrases.NO_NETWORK}")
    if node.lease.address != binding.address:
        return Reason(code="AddressChanged", text=f"{node.name}: its address is now {node.lease.address}")
    return None


def _known(snapshot: Snapshot, node: Member, heard: Heard) -> Reason | None:
    if is_stray(snapshot, node):
        return Reason(code="VmUnknown", text=f"{node.name}: {phrases.VM_UNKNOWN}")
    if disk_full(node, heard.get(node.id)):
        return Reason(code="NodeDiskFull", text=f"{node.name}: {phrases.DISK_FULL}")
    return None


def _wanted(snapshot: Snapshot, node: Member, request: Request) -> Reason | None:
    sets = snapshot.label_sets
    for requirement in request.policy.selector.requirements:
        asked = Selector(requirements=(requirement,))
        if not matches(asked, node.labels, sets):
            text = trouble_of(asked, sets, trusted=True) or phrases.requirement(requirement)
            return Reason(code="SelectorMismatch", text=f"{node.name}: {text}")
    architectures = request.policy.architectures
    if architectures and node.facts.architecture not in architectures:
        return Reason(code="ArchitectureMismatch", text=f"{node.name}: {phrases.architecture(architectures)}")
    return None


def _resourceful(snapshot: Snapshot, node: Member, request: Request, heard: Heard) -> Reason | None:
    """Look at what the node says and measures, for the few requests that ask."""
    if not request.policy.resources.requirements:
        return None
    sets, sight = snapshot.label_sets, sight_of(node, heard.get(node.id))
    for requirement in request.policy.resources.requirements:
        asked = Selector(requirements=(requirement,))
        if not picks(asked, sight, sets):
            text = trouble_of(asked, sets) or phrases.requirement(requirement)
            return Reason(code="ResourcesMismatch", text=f"{node.name}: {text}")
    return None


def _room(
    snapshot: Snapshot, node: Member, request: Request, others: Iterable[Replica], servers: HeardServers
) -> Reason | None:
    if not request.reserves:
        return None
    vm = snapshot.vms_by_node.get(node.id)
    cpus, memory = free_room(node, others, snapshot.templates, vm, report_of(servers, vm))
    if 0 < request.cpus > cpus:
        return Reason(code="NotEnoughCpu", text=f"{node.name}: {phrases.cpus(request.cpus, cpus)}")
    if 0 < request.memory_bytes > memory:
        return Reason(code="NotEnoughMemory", text=f"{node.name}: {phrases.memory(request.memory_bytes, memory)}")
    return None


def _lent(snapshot: Snapshot, node: Member, request: Request, servers: HeardServers, now: float) -> Reason | None:
    """Look at the server of a node on lent capacity, with what is placed on all its virtual machines."""
    vm = snapshot.vms_by_node.get(node.id)
    if vm is None:
        return None
    if request.policy.service_class == "standard":
        return Reason(code="LentCapacity", text=f"{node.name}: {phrases.STANDARD}")
    if trouble := vm_trouble(vm, report_of(servers, vm)):
        return Reason(code="VmLeaves", text=f"{node.name}: {trouble}")
    code, text = Lenders(snapshot, servers, now).standing(vm.server_id).refusal(needed(request))
    return Reason(code=code, text=f"{node.name}: {text}") if code else None


def _crowd(snapshot: Snapshot, request: Request, replica: Replica, others: Iterable[Replica]) -> Reason | None:
    limit = request.policy.max_per_node
    if not limit:
        return None
    same = {found.id for found in others if found.deployment_id == replica.deployment_id and not going(found)}
    if len(same) >= limit:  # only now, since it looks at the whole deployment
        same -= replaced_by(snapshot.replicas_by_deployment.get(replica.deployment_id, ()))
    if len(same) >= limit:
        return Reason(code="TooManyPerNode", text=phrases.crowded(limit))
    return None


def _ports(node: Member, request: Request, binding: Binding, others: Iterable[Replica]) -> Reason | None:
    given = binding.host_ports
    if given.keys() != {spec.key for spec in request.ports}:
        return Reason(code="PortsChanged", text="the binding's host ports are not those the container asks for")
    for key, number, _ in request.fixed_ports:
        if given[key] != number:
            return Reason(code="PortsChanged", text=f"{key} asks for host port {number}")
    picked = {key for key, _ in request.free_ports}
    leased = node.lease.host_ports
    owned: dict[int, int] = {}
    for other in others:
        for key, number in other.host_ports.items():
            owned[number] = owned.get(number, 0) | protocol_bit(key)
    for key, number in sorted(given.items(), key=lambda item: item[0] in picked):
        if key in picked and not leased.first <= number <= leased.last:
            return Reason(code="PortOutOfRange", text=f"{node.name}: {number} is not in {leased.first}-{leased.last}")
        bits = owned.get(number, 0)
        if bits if key in picked else bits & protocol_bit(key):
            return Reason(code="PortTaken", text=f"{node.name}: {phrases.taken(number, key)}")
        owned[number] = bits | protocol_bit(key)
    return None
