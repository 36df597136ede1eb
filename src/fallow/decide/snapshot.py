"""A read-only picture of everything stored at one revision, with the indexes decisions need."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, compress, repeat
from operator import is_not
from typing import Any, TypeVar

from fallow.model.deployments import Deployment, Replica, ReplicaState, Template
from fallow.model.divisions import Division
from fallow.model.hosts import Host
from fallow.model.image_jobs import ImageJob, ImageTask, TaskState
from fallow.model.image_schedules import ImageSchedule
from fallow.model.images import NodeImages
from fallow.model.labels import LabelSet
from fallow.model.members import Member, MemberState, Revocation, Role, Scheduling
from fallow.model.pools import Pool, ReleasedLease
from fallow.model.registrations import MemberKey, Registration
from fallow.model.registries import KnownRegistry
from fallow.model.remotes import RemoteService
from fallow.model.rooms import Room
from fallow.model.server_pools import ServerPool
from fallow.model.servers import Lending
from fallow.model.shares import Share
from fallow.model.tokens import ApiToken, JoinToken
from fallow.model.trust import TrustPolicy
from fallow.model.upgrades import Upgrade
from fallow.model.vms import Vm

R = TypeVar("R")

# Field -> its indexes that are a part of it -> which records are in that part.
PARTS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "members": {
        "clusters": lambda member: member.role is Role.CLUSTER,
        "machines": lambda member: member.role is not Role.CLUSTER,
        "nodes": lambda member: member.role is Role.NODE,
        "servers": lambda member: member.role is Role.SERVER,
        "gateways": lambda member: member.role is Role.GATEWAY,
        "upgrading": lambda member: member.agent is not None,
        "unready": lambda member: member.state is not MemberState.READY or bool(member.fence),
    },
    "replicas": {"leaving": lambda replica: replica.state is ReplicaState.LEAVING},
}


def differing(now: Mapping[str, R], then: Mapping[str, R]) -> list[str]:
    """Return the ids of records that came or were replaced, in the order of `now`, and then of those that went.

    Two snapshots share all that has not changed, so the very same record is the same; nothing is looked into.
    """
    if now is then:
        return []
    # Nearly all are the very same records in the very same places: which needs no hash, and no look at any of them.
    moved = compress(now, map(is_not, now.values(), chain(then.values(), repeat(None))))
    found = [id_ for id_ in moved if then.get(id_) is not now[id_]]
    if len(now) - sum(id_ not in then for id_ in found) != len(then):
        found += [id_ for id_ in then if id_ not in now]
    return found


def _part(field_name: str, name: str, records: Mapping[str, R]) -> Mapping[str, R]:
    belongs = PARTS[field_name][name]
    return {id_: record for id_, record in records.items() if belongs(record)}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Records by id, as they were at `revision`. Never changed after it is made."""

    revision: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    join_tokens: Mapping[str, JoinToken] = field(default_factory=dict)
    api_tokens: Mapping[str, ApiToken] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    released_leases: Mapping[str, ReleasedLease] = field(default_factory=dict)
    label_sets: Mapping[str, LabelSet] = field(default_factory=dict)
    revocations: Mapping[str, Revocation] = field(default_factory=dict)
    upgrades: Mapping[str, Upgrade] = field(default_factory=dict)
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    member_keys: Mapping[str, MemberKey] = field(default_factory=dict)
    image_jobs: Mapping[str, ImageJob] = field(default_factory=dict)
    image_tasks: Mapping[str, ImageTask] = field(default_factory=dict)
    node_images: Mapping[str, NodeImages] = field(default_factory=dict)
    registries: Mapping[str, KnownRegistry] = field(default_factory=dict)
    trust_policies: Mapping[str, TrustPolicy] = field(default_factory=dict)
    image_schedules: Mapping[str, ImageSchedule] = field(default_factory=dict)
    divisions: Mapping[str, Division] = field(default_factory=dict)
    shares: Mapping[str, Share] = field(default_factory=dict)
    rooms: Mapping[str, Room] = field(default_factory=dict)
    remote_services: Mapping[str, RemoteService] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    server_pools: Mapping[str, ServerPool] = field(default_factory=dict)
    vms: Mapping[str, Vm] = field(default_factory=dict)
    lendings: Mapping[str, Lending] = field(default_factory=dict)

    @cached_property
    def replicas_by_deployment(self) -> Mapping[str, list[Replica]]:
        """Return the replicas of every deployment id, ended ones too."""
        found: dict[str, list[Replica]] = defaultdict(list)
        for replica in self.replicas.values():
            found[replica.deployment_id].append(replica)
        return found

    @cached_property
    def replicas_by_node(self) -> Mapping[str, list[Replica]]:
        """Return the replicas that occupy every node id: placed and not ended."""
        found: dict[str, list[Replica]] = defaultdict(list)
        for replica in self.replicas.values():
            if replica.node_id and not replica.ended:
                found[replica.node_id].append(replica)
        return found

    @cached_property
    def leaving(self) -> Mapping[str, Replica]:
        """Return the replicas that are being withdrawn."""
        return _part("replicas", "leaving", self.replicas)

    @cached_property
    def image_tasks_by_job(self) -> Mapping[str, list[ImageTask]]:
        """Return the tasks of every image job's id."""
        found: dict[str, list[ImageTask]] = defaultdict(list)
        for task in self.image_tasks.values():
            found[task.job_id].append(task)
        return found

    @cached_property
    def image_tasks_open(self) -> Mapping[str, list[ImageTask]]:
        """Return the tasks of every image job's id that have not ended."""
        found: dict[str, list[ImageTask]] = defaultdict(list)
        for task in self.image_tasks.values():
            if not task.ended:
                found[task.job_id].append(task)
        return found

    @cached_property
    def image_tasks_at_work(self) -> Mapping[str, list[ImageTask]]:
        """Return the tasks that every node id has an order for."""
        found: dict[str, list[ImageTask]] = defaultdict(list)
        for task in self.image_tasks.values():
            if task.state is TaskState.WORKING:
                found[task.member_id].append(task)
        return found

    @cached_property
    def shares_by_deployment(self) -> Mapping[str, list[Share]]:
        """Return the shares of every deployment id."""
        found: dict[str, list[Share]] = defaultdict(list)
        for share in self.shares.values():
            found[share.deployment_id].append(share)
        return found

    @cached_property
    def shares_by_cluster(self) -> Mapping[str, list[Share]]:
        """Return the shares of every cluster id."""
        found: dict[str, list[Share]] = defaultdict(list)
        for share in self.shares.values():
            found[share.cluster_id].append(share)
        return found

    @cached_property
    def shares_empty(self) -> Mapping[str, list[Share]]:
        """Return the shares of every cluster id of which it is told to run nothing."""
        found: dict[str, list[Share]] = defaultdict(list)
        for share in self.shares.values():
            if not share.replicas:
                found[share.cluster_id].append(share)
        return found

    @cached_property
    def shares_leaving(self) -> Mapping[str, list[Share]]:
        """Return the shares of every cluster id of which replicas wait to stop."""
        found: dict[str, list[Share]] = defaultdict(list)
        for share in self.shares.values():
            if share.reported is not None and share.reported.leaving:
                found[share.cluster_id].append(share)
        return found

    @cached_property
    def clusters(self) -> Mapping[str, Member]:
        """Return the clusters this one is the host of, itself among them; empty: it stands alone."""
        return _part("members", "clusters", self.members)

    @cached_property
    def machines(self) -> Mapping[str, Member]:
        """Return the members that are no clusters."""
        return _part("members", "machines", self.members)

    @cached_property
    def nodes(self) -> Mapping[str, Member]:
        """Return the members that run containers."""
        return _part("members", "nodes", self.members)

    @cached_property
    def servers(self) -> Mapping[str, Member]:
        """Return the members that lend what their primary application leaves idle."""
        return _part("members", "servers", self.members)

    @cached_property
    def vms_by_node(self) -> Mapping[str, Vm]:
        """Return the virtual machine that each node on lent capacity is; what a node says of itself does not count."""
        return {vm.node_id: vm for vm in self.vms.values() if vm.node_id}

    @cached_property
    def vms_by_server(self) -> Mapping[str, list[Vm]]:
        """Return the virtual machines of every server's id."""
        found: dict[str, list[Vm]] = defaultdict(list)
        for vm in self.vms.values():
            found[vm.server_id].append(vm)
        return found

    @cached_property
    def draining(self) -> frozenset[str]:
        """Return the ids of nodes whose replicas are to move."""
        return frozenset(id_ for id_, node in self.nodes.items() if node.scheduling is Scheduling.DRAINING)

    @cached_property
    def gateways(self) -> Mapping[str, Member]:
        """Return the members that take requests in."""
        return _part("members", "gateways", self.members)

    @cached_property
    def upgrading(self) -> Mapping[str, Member]:
        """Return the members that were asked to run another version of their agent."""
        return _part("members", "upgrading", self.members)

    @cached_property
    def unready(self) -> Mapping[str, Member]:
        """Return the members that are not ready, and those that are but must not be: fenced ones."""
        return _part("members", "unready", self.members)

    @cached_property
    def members_by_wireguard_key(self) -> Mapping[str, list[Member]]:
        """Return who has each public key of the overlay; it should be one."""
        found: dict[str, list[Member]] = defaultdict(list)
        for member in self.members.values():
            if member.wireguard_key:
                found[member.wireguard_key].append(member)
        return found

    @cached_property
    def live_gateways(self) -> list[Member]:
        """Return the gateways that are ready."""
        return [member for member in self.gateways.values() if member.state is MemberState.READY]

    @cached_property
    def revoked_members(self) -> Mapping[str, Revocation]:
        """Return why members were removed, by their ids."""
        return {found.member_id: found for found in self.revocations.values()}

    def deployment_named(self, project: str, name: str) -> Deployment | None:
        """Return the deployment called `project/name`, if there is one."""
        return self._deployments_by_path.get((project, name))

    @cached_property
    def _deployments_by_path(self) -> Mapping[tuple[str, str], Deployment]:
        return {(found.project, found.name): found for found in self.deployments.values()}
