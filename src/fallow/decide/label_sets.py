"""Label sets: whom they pick, what uses them, and why one may not be changed or deleted."""

from collections.abc import Iterator, Mapping

from fallow.decide.matching import picks, sets_named, trouble_of
from fallow.decide.selectors import SET, format_selector
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard, sight_of
from fallow.model.deployments import DeploymentSpec, PlacementPolicy
from fallow.model.labels import LabelSet, LabelSetView, Requirement, Selector
from fallow.model.members import Member

MAX_SETS = 1000


def label_set_view(snapshot: Snapshot, found: LabelSet, heard: Heard) -> LabelSetView:
    """Return a label set with the members it picks now, of any role, and with what uses it."""
    return LabelSetView(
        name=found.id,
        selector=format_selector(found.selector),
        description=found.description,
        revision=found.revision,
        created_at=found.created_at,
        created_by=found.created_by,
        members=tuple(each.name for each in chosen(snapshot, found.selector, heard)),
        used_by=users_of(snapshot, found.id),
    )


def chosen(snapshot: Snapshot, selector: Selector, heard: Heard) -> list[Member]:
    """Return the members that a selector picks by all that is known of them, by name."""
    found = [
        member
        for member in snapshot.members.values()
        if not selector.requirements or picks(selector, sight_of(member, heard.get(member.id)), snapshot.label_sets)
    ]
    return sorted(found, key=lambda member: member.name)


def users_of(snapshot: Snapshot, name: str) -> tuple[str, ...]:
    """Return what names the label set itself: deployments first, then other label sets and server pools."""
    deployments = (
        f"deployment {found.path}" for found in snapshot.deployments.values() if name in _named_by(found.spec)
    )
    sets = (f"label set @{found.id}" for found in snapshot.label_sets.values() if name in sets_named(found.selector))
    pools = (
        f"server pool {found.id}" for found in snapshot.server_pools.values() if name in sets_named(found.selector)
    )
    return (*sorted(deployments), *sorted(sets), *sorted(pools))


def spec_trouble(spec: DeploymentSpec, sets: Mapping[str, LabelSet]) -> str:
    """Return why a deployment cannot use the label sets it names for nodes and clusters; empty when it can."""
    of_clusters = (trouble_of(each, sets, trusted=True) for each in _of_clusters(spec))
    return placement_trouble(spec.placement, sets) or next(filter(None, of_clusters), "")


def placement_trouble(policy: PlacementPolicy, sets: Mapping[str, LabelSet]) -> str:
    """Return why the label sets that a placement names cannot be used; empty when they can."""
    found = trouble_of(policy.selector, sets, trusted=True)
    others = (trouble_of(each, sets) for each in _seeing(policy))
    return found or next(filter(None, others), "")


def change_trouble(snapshot: Snapshot, changed: LabelSet) -> str:
    """Return what would break if a label set became `changed`; empty when nothing would."""
    after = {**snapshot.label_sets, changed.id: changed}
    if len(after) > MAX_SETS and changed.id not in snapshot.label_sets:
        return f"there are {MAX_SETS} label sets already, and there may be no more"
    for name in (changed.id, *(each for each in after if each != changed.id)):
        asked = Selector(requirements=(Requirement(key=SET + name, operator="exists"),))
        trouble = trouble_of(asked, after)
        if trouble and (name == changed.id or not trouble_of(asked, snapshot.label_sets)):
            return trouble
    for deployment in snapshot.deployments.values():
        trouble = spec_trouble(deployment.spec, after)
        if trouble and not spec_trouble(deployment.spec, snapshot.label_sets):
            return f"{trouble}, and the deployment {deployment.path} is placed by it"
    for pool in snapshot.server_pools.values():
        trouble = trouble_of(pool.selector, after, trusted=True)
        if trouble and not trouble_of(pool.selector, snapshot.label_sets, trusted=True):
            return f"{trouble}, and the server pool {pool.id} picks servers by it"
    return ""


def _named_by(spec: DeploymentSpec) -> Iterator[str]:
    for selector in (spec.placement.selector, *_seeing(spec.placement), *_of_clusters(spec)):
        yield from sets_named(selector)


def _of_clusters(spec: DeploymentSpec) -> tuple[Selector, ...]:
    return (spec.clusters.where, *spec.clusters.fallback)


def _seeing(policy: PlacementPolicy) -> tuple[Selector, ...]:
    return (policy.resources, *(wish.selector for wish in policy.prefer))
