"""Servers, server pools and virtual machines as people see them."""

from collections.abc import Iterable
from dataclasses import dataclass

from fallow.decide.harvest.heard import HeardServer, HeardServers
from fallow.decide.harvest.pools import pool_of
from fallow.decide.placement.phrases import STATES
from fallow.decide.placement.standing import Lenders, Standing, least
from fallow.decide.selectors import format_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.members import Member, MemberState
from fallow.model.server_pools import DEFAULT_POOL, ServerPool, ServerPoolView
from fallow.model.servers import Lending, ServerReport, ServerView
from fallow.model.vms import Vm, VmUse, VmView

_NONE = Lending(id="", created_at=0.0, updated_at=0.0)
_SMALLEST = least(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What the replicas on lent capacity ask for together."""

    replicas: int
    cpus: float
    memory_bytes: int


def load_of(snapshot: Snapshot, vms: Iterable[Vm]) -> Load:
    """Return what is placed on the nodes of these virtual machines."""
    held = [found for vm in vms for found in held_by(snapshot, vm)]
    asked = [
        snapshot.templates[found.template_id].container.resources
        for found in held
        if found.template_id in snapshot.templates
    ]
    return Load(
        replicas=len(held),
        cpus=sum(found.cpus for found in asked),
        memory_bytes=sum(found.memory_bytes for found in asked),
    )


def held_by(snapshot: Snapshot, vm: Vm) -> list[Replica]:
    """Return the replicas that occupy a virtual machine's node."""
    return snapshot.replicas_by_node.get(vm.node_id, []) if vm.node_id else []


def standing_of(snapshot: Snapshot, server: Member, heard: HeardServer | None, now: float) -> Standing:
    """Return how placement sees a server, given what it said last."""
    return Lenders(snapshot, {} if heard is None else {server.id: heard}, now).standing(server.id)


def why_not(server: Member, standing: Standing) -> str:
    """Return why not even the smallest replica may go to a server now; empty: one may.

    The same rule as placement's, in its words without the server's name.
    """
    if server.state is not MemberState.READY:
        reason = f": {server.state_reason}" if server.state_reason else ""
        return f"is {STATES[server.state]}{reason}"
    text = standing.refusal(_SMALLEST)[1].removeprefix(f"server {server.name}")
    return f"has no room: the smallest {text[2:]}" if text.startswith(": ") else text.strip()


def server_view(snapshot: Snapshot, server: Member, heard: HeardServer | None, now: float) -> ServerView:
    """Return a server with what it lends; `heard` is what it said last, None: nothing."""
    pool, policy = pool_of(snapshot, server)
    lending = snapshot.lendings.get(server.id, _NONE)
    vms = sorted(snapshot.vms_by_server.get(server.id, ()), key=lambda vm: vm.name)
    load = load_of(snapshot, vms)
    report = heard.report if heard is not None and heard.fresh else ServerReport()
    return ServerView(
        id=server.id,
        name=server.name,
        revision=server.revision,
        state=server.state,
        scheduling=server.scheduling,
        labels=server.labels,
        address=server.lease.address,
        pool=pool,
        cpu_threshold=policy.cpu_threshold,
        cpu_ceiling=policy.cpu_ceiling,
        memory_threshold=policy.memory_threshold,
        memory_ceiling=policy.memory_ceiling,
        report=heard.report if heard is not None else None,
        age_seconds=heard.age_seconds if heard is not None else None,
        vms=tuple(vm.name for vm in vms),
        replicas=load.replicas,
        requested_cpus=load.cpus,
        requested_memory_bytes=load.memory_bytes,
        offered_cpus=max(report.offer_cpus, load.cpus) if report.lends else 0.0,
        offered_memory_bytes=max(report.offer_memory_bytes, load.memory_bytes) if report.lends else 0,
        why_not=why_not(server, standing_of(snapshot, server, heard, now)),
        backoff_until=lending.backoff_until,
        closed=lending.closed,
        evictions=lending.evictions,
        evicted_at=lending.evicted_at,
        evicted_why=lending.reason,
    )


def server_views(snapshot: Snapshot, heard: HeardServers, now: float) -> tuple[ServerView, ...]:
    """Return every server, by name."""
    found = sorted(snapshot.servers.values(), key=lambda server: server.name)
    return tuple(server_view(snapshot, server, heard.get(server.id), now) for server in found)


def vm_view(snapshot: Snapshot, vm: Vm, heard: HeardServers) -> VmView:
    """Return a virtual machine with its node, and what its server said of it last, unless that is too old."""
    server = snapshot.members.get(vm.server_id)
    node = snapshot.members.get(vm.node_id)
    use = _use(vm, heard.get(vm.server_id))
    return VmView(
        id=vm.id,
        name=vm.name,
        server=server.name if server is not None else vm.server_id,
        isolation=vm.isolation,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        disk_bytes=vm.disk_bytes,
        image=vm.image,
        wanted=vm.wanted,
        automatic=vm.automatic,
        fixed=vm.fixed,
        draining=vm.draining,
        state=vm.state,
        state_since=vm.state_since,
        problem=vm.problem or (use.problem if use is not None else ""),
        node=node.name if node is not None else "",
        replicas=len(held_by(snapshot, vm)),
        use=use,
        created_at=vm.created_at,
        revision=vm.revision,
    )


def vm_views(snapshot: Snapshot, vms: Iterable[Vm], heard: HeardServers) -> tuple[VmView, ...]:
    """Return virtual machines by server and name."""
    views = (vm_view(snapshot, vm, heard) for vm in vms)
    return tuple(sorted(views, key=lambda view: (view.server, view.name)))


def _use(vm: Vm, heard: HeardServer | None) -> VmUse | None:
    if heard is None or not heard.fresh:
        return None
    return next((use for use in heard.report.vms if use.vm_id == vm.id), None)


def pool_views(snapshot: Snapshot, heard: HeardServers) -> tuple[ServerPoolView, ...]:
    """Return every server pool by name, `default` also when it is not stored."""
    by_pool: dict[str, list[Member]] = {name: [] for name in {*snapshot.server_pools, DEFAULT_POOL}}
    for server in snapshot.servers.values():
        by_pool[pool_of(snapshot, server)[0]].append(server)
    return tuple(
        _pool_view(snapshot.server_pools.get(name) or standing_default(), by_pool[name], heard)
        for name in sorted(by_pool)
    )


def standing_default() -> ServerPool:
    """Return the pool `default` as it is before anybody changes it; its revision 0 says that it is not stored."""
    return ServerPool(id=DEFAULT_POOL, created_at=0.0, updated_at=0.0)


def servers_of(snapshot: Snapshot, pool: str) -> tuple[Member, ...]:
    """Return the servers of a pool, by name."""
    found = (server for server in snapshot.servers.values() if pool_of(snapshot, server)[0] == pool)
    return tuple(sorted(found, key=lambda server: server.name))


def _pool_view(pool: ServerPool, servers: Iterable[Member], heard: HeardServers) -> ServerPoolView:
    members = sorted(servers, key=lambda server: server.name)
    fresh = [found.report for each in members if (found := heard.get(each.id)) is not None and found.fresh]
    lending = [report for report in fresh if report.lends]
    return ServerPoolView(
        name=pool.id,
        selector="" if pool.id == DEFAULT_POOL else format_selector(pool.selector),
        policy=pool.policy,
        revision=pool.revision,
        created_at=pool.created_at,
        created_by=pool.created_by,
        servers=tuple(each.name for each in members),
        cpus=sum(report.cpus for report in fresh),
        memory_bytes=sum(report.memory_bytes for report in fresh),
        offered_cpus=sum(report.offer_cpus for report in lending),
        offered_memory_bytes=sum(report.offer_memory_bytes for report in lending),
    )
