"""Short ways to make records for tests of decisions."""

from collections.abc import Iterable
from itertools import count
from typing import Any

from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Replica, ReplicaState, Template
from fallow.model.kinds import KIND_OF
from fallow.model.members import Facts, Lease, Member, MemberState, Role
from fallow.model.meta import Record
from fallow.model.peers import ControlAddress, Peer
from fallow.model.pools import NetworkMode
from fallow.model.shares import RemoteEndpoint, Share, ShareReport, share_id
from fallow.store.indexes import carry, move_all

NOW = 1_000_000.0


def ids() -> Any:
    """Return a maker of ids that sort by the order they were made in."""
    numbers = count(1)
    return lambda: f"x{next(numbers):05d}"


def member(name: str, **changes: Any) -> Member:
    values: dict[str, Any] = {
        "id": f"n-{name}", "name": name, "created_at": NOW, "updated_at": NOW, "revision": 1, "role": Role.NODE,
        "key_sha256": "0" * 64, "token_id": "t", "certificate_expires_at": NOW + 86400,
        "lease": Lease(address="10.0.0.1"), "state": MemberState.READY, "state_since": NOW,
        "facts": Facts(cpus=4.0, memory_bytes=8 * 2**30, architecture="amd64"),
    }  # fmt: skip
    return Member(**(values | changes))


def wireguard_key(number: int) -> str:
    return f"{number:042d}A="


def overlaid(name: str, number: int, pool: str = "blue", **changes: Any) -> Member:
    lease = Lease(address=f"10.86.0.{number}", pool=pool, mode=NetworkMode.WIREGUARD, prefix_length=16, agent_port=8455)
    values: dict[str, Any] = {
        "lease": lease,
        "wireguard_key": wireguard_key(number),
        "session_address": f"192.0.2.{number}",
    }
    return member(name, **(values | changes))


def peer(id_: str, **changes: Any) -> Peer:
    address = ControlAddress(url=f"https://{id_}:7443", session_host=id_, session_port=7444)
    return Peer(**{"id": id_, "created_at": NOW, "updated_at": NOW, "address": address} | changes)


def deployment(name: str = "web", replicas: int = 1, **changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "id": f"d-{name}", "name": name, "project": "shop", "created_at": NOW, "updated_at": NOW, "revision": 1,
        "spec": DeploymentSpec(replicas=replicas, container=ContainerSpec(image="shop:1")),
    }  # fmt: skip
    return Deployment(**(values | changes))


def template(of: Deployment, generation: int | None = None) -> Template:
    number = generation or of.generation
    return Template(
        id=f"{of.id}.{number}", created_at=NOW, updated_at=NOW, revision=1, deployment_id=of.id, generation=number,
        container=of.spec.container, placement=of.spec.placement,
    )  # fmt: skip


def replica(of: Deployment, slot: int = 0, state: ReplicaState = ReplicaState.RUNNING, **changes: Any) -> Replica:
    values: dict[str, Any] = {
        "id": f"{of.name}-{slot}", "created_at": NOW, "updated_at": NOW, "revision": 1, "deployment_id": of.id,
        "project": of.project, "deployment": of.name, "slot": slot, "generation": of.generation, "state": state,
        "template_id": f"{of.id}.{of.generation}", "state_since": NOW,
        "node_id": "" if state is ReplicaState.PENDING else "n-a",
        "healthy_since": NOW if state is ReplicaState.RUNNING else 0.0,
    }  # fmt: skip
    return Replica(**(values | changes))


def snapshot(*records: Record, revision: int = 10) -> Snapshot:
    kinds: dict[str, dict[str, Any]] = {}
    for record in records:
        kinds.setdefault(KIND_OF[type(record)].replace("-", "_"), {})[record.id] = record
    return Snapshot(revision=revision, **kinds)


def applied(before: Snapshot, plan: Plan) -> Snapshot:
    """Return the snapshot after all of the plan's steps."""
    records: dict[tuple[type[Record], str], Record] = {}
    for kind in ("members", "deployments", "templates", "replicas", "join_tokens", "api_tokens"):
        for record in getattr(before, kind).values():
            records[type(record), record.id] = record
    for step in plan.steps:
        for record in step.deletes:
            records.pop((type(record), record.id), None)
        for record in step.puts:
            records[type(record), record.id] = record
    return snapshot(*kept(records.values()), revision=before.revision + 1)


def kept(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if type(record).__name__ != "Event"]


def puts(plan: Plan, kind: type[Record]) -> list[Any]:
    """Return the records of one kind that a plan writes."""
    return [record for step in plan.steps for record in step.puts if isinstance(record, kind)]


def cluster(name: str, region: str = "", **changes: Any) -> Member:
    values: dict[str, Any] = {"id": f"c-{name}", "role": Role.CLUSTER, "labels": {"region": region} if region else {}}
    return member(name, **(values | changes))


def share(of: Deployment, cluster_id: str, *endpoints: RemoteEndpoint, replicas: int = 1, **said: Any) -> Share:
    """Return what a cluster is told to run of a deployment, and says of it."""
    report = ShareReport(deployment_id=of.id, endpoints=endpoints, **said)
    return Share(
        id=share_id(of.id, cluster_id), created_at=NOW, updated_at=NOW, revision=1, deployment_id=of.id,
        cluster_id=cluster_id, replicas=replicas, reported=report,
    )  # fmt: skip


def remote_endpoint(id_: str, address: str = "10.1.0.1", port: int = 20000, **changes: Any) -> RemoteEndpoint:
    return RemoteEndpoint(**({"id": id_, "address": address, "ports": {"80/tcp": port}} | changes))


def following(
    before: Snapshot, puts: Iterable[Record], gone: Iterable[Record] = (), revision: int | None = None
) -> Snapshot:
    """Return the snapshot after some writes, with its indexes carried over as a cache does it."""
    fields: dict[str, dict[str, Any]] = {}
    touched: dict[str, set[str]] = {}
    for record, there in [(record, True) for record in puts] + [(record, False) for record in gone]:
        field = KIND_OF[type(record)].replace("-", "_")
        found = fields.setdefault(field, dict(getattr(before, field)))
        touched.setdefault(field, set()).add(record.id)
        if there:
            found[record.id] = record
        else:
            found.pop(record.id, None)
    same = {name: getattr(before, name) for name in before.__dataclass_fields__ if name not in fields}
    after = Snapshot(**{**same, **fields, "revision": before.revision + 1 if revision is None else revision})
    carry(before, after, touched)
    for field, changed in touched.items():
        move_all(before, after, field, changed)
    return after
