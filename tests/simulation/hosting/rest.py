"""What must hold of servers at rest, when no fault is left and nobody asks for anything."""

from collections.abc import Iterable

from fallow.model.members import MemberState
from fallow.model.vms import VmState, VmWish
from simulation.hosting.watch import HostingWatch
from simulation.rest import unrest


def hosting_unrest(watch: HostingWatch) -> list[str]:
    """Return what is not yet as it is wanted, when no fault is left."""
    return [*_machines_at_rest(watch), *_moves_at_rest(watch)] or unrest(watch)


def _machines_at_rest(watch: HostingWatch) -> Iterable[str]:
    unplaced, replicas = watch.unplaced(), watch.replicas()
    replaced = [found.replaces for found in replicas.values() if found.template_id in unplaced and not found.node_id]
    waiting = {replicas[id_].node_id for id_ in replaced if id_ in replicas and not replicas[id_].ended}
    for vm in watch.vms().values():
        node = watch.members().get(vm.node_id)
        if vm.node_id in waiting:
            continue  # what it holds has to move first, and fits nowhere else
        if vm.wanted is VmWish.ABSENT:
            yield f"VM {vm.name} is not gone yet"
        elif vm.state is not VmState.RUNNING or node is None or node.state is not MemberState.READY:
            yield f"VM {vm.name} is {vm.state}, its node {node.state if node is not None else 'is not there'}"
        elif vm.draining or vm.node_drained:
            yield f"VM {vm.name} still drains"
    lending = watch.lending()
    if len(lending) != len([id_ for id_ in watch.servers if id_ not in watch.removed]):
        yield "not every server lends"
    for server in lending:
        wanted, found = watch.policy(server.id).vms.count, watch.automatic(server.id)
        if len(found) != wanted:
            yield f"{server.name} has {len(found)} of {wanted} VMs"
    for server in watch.servers.values():
        known = {vm.id for vm in watch.vms().values() if vm.server_id == server.id}
        for vm_id in server.guests.keys() ^ known:
            yield f"the disk of {vm_id} on {server.name} is {'left' if vm_id in server.guests else 'missing'}"


def _moves_at_rest(watch: HostingWatch) -> Iterable[str]:
    for replica in watch.replicas().values():
        if replica.move is not None and not replica.ended:
            yield f"{replica.id} still has to move"
