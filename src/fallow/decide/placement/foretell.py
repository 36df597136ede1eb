"""What a deploy would do: the placement of wishes that nobody has stored yet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.place import place
from fallow.decide.placement.request import going
from fallow.decide.placement.result import Foretold, Placement
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Deployment, DeploymentSpec, Replica, ReplicaState, Template

_PREFIX = "foretold:"  # no stored id contains a colon


def foretell(
    snapshot: Snapshot,
    project: str,
    wishes: Sequence[tuple[str, DeploymentSpec]],
    now: float,
    heard: Heard | None = None,
    servers: HeardServers | None = None,
) -> Mapping[str, Foretold]:
    """Return, by deployment name, where its replicas would be once the wishes have come true.

    A deployment whose container and placement stay as they are keeps its replicas, and only the difference is placed.
    One that changes is placed as it will be when the update is through, in the room its old replicas leave; while it
    runs, a replica and its replacement need room side by side. Everything that is pending already goes first.
    """
    replicas = dict(snapshot.replicas)
    templates = dict(snapshot.templates)
    kept: dict[str, list[Replica]] = {}
    for index, (name, spec) in enumerate(wishes):
        before = snapshot.deployment_named(project, name)
        kept[name] = _kept(snapshot, before, spec)
        _forget_others(snapshot, before, kept[name], replicas)
        template = _template(name, index, spec, before, now)
        templates[template.id] = template
        for slot in range(spec.replicas - len(kept[name])):
            wish = _wish(project, name, slot, template)
            replicas[wish.id] = wish
    imagined = replace(snapshot, templates=templates, replicas=replicas)
    placement = place(imagined, now, heard, servers)
    nodes = {binding.replica_id: binding.node_id for binding in placement.bindings}
    wished = _ids_by_name(imagined)
    return {name: _foretold(imagined, placement, nodes, [*kept[name], *wished.get(name, ())]) for name, _ in wishes}


def _kept(snapshot: Snapshot, before: Deployment | None, spec: DeploymentSpec) -> list[Replica]:
    """Return the replicas that stay: none of a changed deployment, and no more than wanted."""
    if before is None or before.deleting:
        return []
    if (before.spec.container, before.spec.placement) != (spec.container, spec.placement):
        return []
    live = [
        replica
        for replica in snapshot.replicas_by_deployment.get(before.id, ())
        if not replica.ended and not going(replica) and before.wants(replica.generation)
    ]
    live.sort(
        key=lambda replica: (replica.state is ReplicaState.PENDING, not replica.healthy, replica.slot, replica.id)
    )
    return live[: spec.replicas]


def _forget_others(
    snapshot: Snapshot, before: Deployment | None, kept: Sequence[Replica], replicas: dict[str, Replica]
) -> None:
    """Take out the replicas that will have gone; those already leaving hold their room for a while yet."""
    staying = {replica.id for replica in kept}
    for replica in snapshot.replicas_by_deployment.get(before.id, ()) if before is not None else ():
        if replica.id not in staying and not going(replica):
            del replicas[replica.id]


def _template(name: str, index: int, spec: DeploymentSpec, before: Deployment | None, now: float) -> Template:
    return Template(
        id=f"{_PREFIX}{index:06}:{name}",
        created_at=now,
        updated_at=now,
        deployment_id=before.id if before is not None else f"{_PREFIX}{name}",
        generation=before.generation + 1 if before is not None else 1,
        container=spec.container,
        placement=spec.placement,
    )


def _wish(project: str, name: str, slot: int, template: Template) -> Replica:
    return Replica(
        id=f"{template.id}:{slot}",
        created_at=template.created_at,
        updated_at=template.created_at,
        deployment_id=template.deployment_id,
        project=project,
        deployment=name,
        slot=slot,
        generation=template.generation,
        template_id=template.id,
    )


def _ids_by_name(imagined: Snapshot) -> Mapping[str, list[Replica]]:
    found: dict[str, list[Replica]] = {}
    for replica in imagined.replicas.values():
        if replica.template_id.startswith(_PREFIX):
            found.setdefault(replica.deployment, []).append(replica)
    return found


def _foretold(
    imagined: Snapshot, placement: Placement, nodes: Mapping[str, str], replicas: Sequence[Replica]
) -> Foretold:
    where = Counter[str]()
    for replica in replicas:
        node = imagined.members.get(replica.node_id or nodes.get(replica.id, ""))
        if node is not None:
            where[node.name] += 1
    templates = {replica.template_id for replica in replicas}
    return Foretold(
        placements=dict(sorted(where.items())),
        unplaced=len(replicas) - where.total(),
        reasons=tuple(
            dict.fromkeys(found.reason.text for found in placement.rejections if found.template_id in templates)
        ),
    )
