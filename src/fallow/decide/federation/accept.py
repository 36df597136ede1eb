"""How a member takes in what its host orders: each order becomes a deployment of its own, with an origin and a share.

From there on the member's loops do what they always do. Orders say all there is to know each time, so they may come
twice or late: what is stored already is written no more.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from fallow.decide.deploy import deleted
from fallow.decide.generations import Author, renewed, template_of
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.cluster_frames import SetShares
from fallow.model.deployments import Deployment, DeploymentSpec, Origin, Template
from fallow.model.images import ResolvedImage
from fallow.model.meta import Record
from fallow.model.references import qualified
from fallow.model.shares import ShareOrder

ACTOR = "host"


@dataclass(kw_only=True)
class Orders:
    """What the host has ordered on one session. `complete`: all of it is here, so that what is missing is to go."""

    orders: dict[str, ShareOrder] = field(default_factory=dict)
    complete: bool = False
    _coming: dict[str, ShareOrder] | None = None

    def take(self, frame: SetShares) -> None:
        """Take in a frame. An order that is older than the one that is known is ignored; a full set replaces all."""
        if frame.full:
            known = self._coming if self._coming is not None else {}
            self._coming = known | {order.deployment_id: order for order in frame.orders}
            if not frame.more:
                self.orders, self._coming, self.complete = self._coming, None, True
            return
        for order in frame.orders:
            before = self.orders.get(order.deployment_id)
            if before is None or before.revision <= order.revision:
                self.orders[order.deployment_id] = order
        for id_ in frame.removed:
            self.orders.pop(id_, None)


def accept(
    snapshot: Snapshot,
    orders: Mapping[str, ShareOrder],
    now: float,
    new_id: Callable[[], str],
    heard_at: float | None = None,
    only: Collection[str] | None = None,
) -> Plan:
    """Return what makes the deployments of the host those of `orders`, which are all there are.

    With `only` these deployments, by their ids, are looked at and no others.

    `heard_at` is when what the host has answered was sent (None: just now): what is fenced comes back only when the
    host is heard. What cannot be taken in is left out; `refusal` says why. Only deployments with an origin are ever
    changed or deleted. One that is new has to differ in its path from all others, so such steps come last.
    """
    author = Author(now, new_id, ACTOR)
    changed: list[Step] = []
    made: list[Step] = []
    looked_at = [found for id_ in only if (found := orders.get(id_))] if only is not None else orders.values()
    for order in looked_at:
        current = snapshot.deployments.get(order.deployment_id)
        if refusal(snapshot, order):
            continue
        if current is None:
            made.append(_made(order, author))
        elif not _still_fenced(current, now if heard_at is None else heard_at, now):
            changed.extend(_changed(snapshot, current, order, author))
    changed += [
        _removed(deployment, now, new_id)
        for deployment in _deployments(snapshot, only)
        if deployment.origin is not None and deployment.id not in orders and not deployment.deleting
    ]
    return Plan(steps=[*changed, *made])


def _deployments(snapshot: Snapshot, only: Collection[str] | None) -> Iterable[Deployment]:
    if only is None:
        return snapshot.deployments.values()
    return [found for id_ in only if (found := snapshot.deployments.get(id_)) is not None]


def refusal(snapshot: Snapshot, order: ShareOrder) -> str:
    """Return why an order is not taken in; empty when it can be."""
    path = f"{order.project}/{order.name}"
    named = snapshot.deployment_named(order.project, order.name)
    if named is not None and named.id != order.deployment_id:
        if named.origin is not None:
            return f"the host's earlier deployment {path} has not ended here yet"
        return f"this cluster has a deployment {path} of its own; delete it here, or name the host's another way"
    current = snapshot.deployments.get(order.deployment_id)
    if current is None:
        return ""
    if current.origin is None or current.path != path:
        return f"this cluster has a deployment of its own with the id {current.id}: {current.path}"
    return f"{path} is still being deleted here" if current.deleting else ""


def creates(step: Step) -> bool:
    """Say whether a step makes a deployment, whose path has to differ from all others."""
    return any(isinstance(record, Deployment) and record.revision == 0 for record in step.puts)


def follows(deployment: Deployment, order: ShareOrder) -> bool:
    """Say whether a deployment is as an order wants it."""
    origin = deployment.origin
    return (
        origin is not None
        and not origin.fenced
        and not deployment.deleting
        and origin.generation == order.generation
        and (deployment.share, deployment.keep) == (order.replicas, order.keep)
        and deployment.spec == _spec(deployment, order)
    )


def _spec(deployment: Deployment, order: ShareOrder) -> DeploymentSpec:
    """Return what the spec should be. What an order's generation was made of counts once: it may be rolled back."""
    origin = deployment.origin
    if origin is None or origin.generation != order.generation:
        return order.spec
    return msgspec.structs.replace(order.spec, container=deployment.spec.container, placement=deployment.spec.placement)


def _made(order: ShareOrder, author: Author) -> Step:
    deployment = Deployment(
        id=order.deployment_id,
        created_at=author.now,
        updated_at=author.now,
        project=order.project,
        name=order.name,
        spec=order.spec,
        share=order.replicas,
        keep=order.keep,
        origin=Origin(revision=order.revision, generation=order.generation, taken_as=1),
    )
    told = author.tells(deployment, "ShareTaken", f"is run for the host: {_portion(deployment)}")
    return Step(puts=(deployment, _pinned(template_of(deployment, author), order), told))


def _changed(snapshot: Snapshot, current: Deployment, order: ShareOrder, author: Author) -> Iterable[Step]:
    """Return what makes a deployment follow an order."""
    if current.origin is None:
        return
    if follows(current, order):
        template = snapshot.templates.get(f"{current.id}.{current.origin.taken_as}")
        if template is not None and (pinned := _pinned(template, order)) is not template:
            yield Step(puts=(msgspec.structs.replace(pinned, updated_at=author.now),))
        return
    spec, origin = _spec(current, order), current.origin
    after = msgspec.structs.replace(current, spec=spec, updated_at=author.now)
    made: tuple[Record, ...] = ()
    if origin.generation != order.generation and _is_another(current, order):
        after, template = renewed(current, spec, author)
        alike = _alike(snapshot, current, spec)
        after = msgspec.structs.replace(after, alike=alike)
        made = (_pinned(msgspec.structs.replace(template, alike=alike), order),)
    taken_as = after.generation if origin.generation != order.generation else origin.taken_as
    after = msgspec.structs.replace(
        after,
        share=order.replicas,
        keep=order.keep,
        origin=Origin(revision=order.revision, generation=order.generation, taken_as=taken_as),
    )
    told: tuple[Record, ...] = ()
    if made or current.share != after.share:
        told = (author.tells(after, "ShareChanged", f"as the host orders: {_portion(after)}"),)
    yield Step(puts=(after, *made, *told))


def _still_fenced(current: Deployment, heard_at: float, now: float) -> bool:
    origin = current.origin
    return origin is not None and origin.fenced and now - heard_at >= current.spec.clusters.fence_seconds


def _is_another(current: Deployment, order: ShareOrder) -> bool:
    """Say whether replicas have to be renewed: they are made of something else, or the host renews what is the same."""
    same = (order.spec.container, order.spec.placement) == (current.spec.container, current.spec.placement)
    return not same or (current.origin is not None and order.generation > current.origin.generation)


def _alike(snapshot: Snapshot, current: Deployment, spec: DeploymentSpec) -> tuple[int, ...]:
    """Return older generations made of the very same, when the host goes back to one: they need no renewal."""
    if (spec.container, spec.placement) == (current.spec.container, current.spec.placement):
        return ()  # a renewal of what is there
    kept = (snapshot.templates.get(f"{current.id}.{generation}") for generation in range(1, current.generation))
    return tuple(
        found.generation
        for found in kept
        if found is not None and (found.container, found.placement) == (spec.container, spec.placement)
    )


def _pinned(template: Template, order: ShareOrder) -> Template:
    """Return a template with what the host says its image stands for, unless that is known here already."""
    if order.digest is None or template.image is not None:
        return template
    reference = qualified(template.container.image)
    return msgspec.structs.replace(
        template, image=ResolvedImage(reference=reference, digest=order.digest, platforms=())
    )


def _removed(deployment: Deployment, now: float, new_id: Callable[[], str]) -> Step:
    step = deleted(deployment, now, new_id, ACTOR).step
    assert step is not None
    return step


def _portion(deployment: Deployment) -> str:
    image = deployment.spec.container.image
    return f"{deployment.share} of {deployment.spec.replicas} replicas of {image}"
