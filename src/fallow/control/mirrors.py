"""Mirrors that we run: a deployment each, and the registry that says whose mirror it is, changed together."""

from collections.abc import Callable

import msgspec

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.image_requests import check_target
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.registries import MAX_REGISTRIES, canonical, has_mirror
from fallow.control.resolving import Resolver
from fallow.control.rosters import guarded
from fallow.decide.compose import Application
from fallow.decide.deploy import changes, deleted
from fallow.decide.events import event
from fallow.decide.label_sets import placement_trouble
from fallow.decide.mirrors import mirror_placement, mirror_spec, mirror_view
from fallow.decide.plan import Step
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import DeploymentSpec
from fallow.model.mirrors import MIRRORS, MirrorRequest, MirrorView
from fallow.model.registries import KnownRegistry
from fallow.store.applier import Applier
from fallow.store.cache import Cache


class Mirrors:
    """Keeps mirrors. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, applier: Applier, resolver: Resolver, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._resolver = resolver
        self._clock = clock

    def views(self) -> tuple[MirrorView, ...]:
        """Return all mirrors, by name."""
        snapshot = self._cache.snapshot()
        found = (mirror_view(snapshot, each) for each in snapshot.registries.values() if each.mirrored_by)
        return tuple(sorted(found, key=lambda view: view.name))

    def view(self, name: str) -> MirrorView:
        """Return one mirror. Raises Refused (404)."""
        snapshot = self._cache.snapshot()
        return mirror_view(snapshot, _mirrored(snapshot, name))

    async def create(self, request: MirrorRequest, actor: str) -> MirrorView:
        """Run a mirror, or change the one of this name: its image or where it may run. Raises Refused and StoreError.

        The mirror gets no login, not the registry's either: whoever reaches a mirror could read with it.
        """
        await self._resolver.check(request.image, MIRRORS)

        def decide() -> tuple[Step, None]:
            snapshot, now = self._cache.snapshot(), self._clock()
            registry = self._registry(snapshot, request, actor, now)
            spec = _spec(snapshot, request, insecure=registry.insecure)
            application = Application(project=MIRRORS, deployments=((request.name, spec),))
            done = changes(snapshot, application, now, new_id, actor=actor)
            text = f"{registry.id} is mirrored by {request.name}"
            told = event(new_id(), now, actor, "registry", registry.id, registry.id, "RegistryMirrored", text)
            step = Step(puts=(registry, told, *(done.step.puts if done.step is not None else ())))
            return guarded(self._cache, step, "deployments", now), None

        await commit_again(self._applier, decide)
        return self.view(request.name)

    async def delete(self, name: str, actor: str) -> None:
        """Run a mirror no more; its registry is asked itself from now on. Raises Refused (404) and StoreError."""

        def decide() -> tuple[Step, None]:
            snapshot, now = self._cache.snapshot(), self._clock()
            registry = msgspec.structs.replace(_mirrored(snapshot, name), mirrored_by="", updated_at=now)
            deployment = snapshot.deployment_named(MIRRORS, name)
            gone = deleted(deployment, now, new_id, actor).step if deployment is not None else None
            text = f"{registry.id} is not mirrored by {name} any more"
            told = event(new_id(), now, actor, "registry", registry.id, registry.id, "RegistryChanged", text)
            return Step(puts=(registry, told, *(gone.puts if gone is not None else ()))), None

        await commit_again(self._applier, decide)

    def _registry(self, snapshot: Snapshot, request: MirrorRequest, actor: str, now: float) -> KnownRegistry:
        """Return the registry as it is once it has the mirror. Raises Refused."""
        host = canonical(request.registry)
        other = next((each for each in snapshot.registries.values() if each.mirrored_by == request.name), None)
        if other is not None and other.id != host:
            raise _taken(request.name, f"it is a mirror of {other.id}")
        if other is None and snapshot.deployment_named(MIRRORS, request.name) is not None:
            raise _taken(request.name, f"there is a deployment {MIRRORS}/{request.name}, maybe still being deleted")
        before = snapshot.registries.get(host)
        if before is None and len(snapshot.registries) >= MAX_REGISTRIES:
            raise refuse(409, "too-many", "Too many registries", f"there are {MAX_REGISTRIES} already")
        if before is None:
            return KnownRegistry(
                id=host, created_at=now, updated_at=now, mirrored_by=request.name, created_by=actor
            )  # fmt: skip
        if before.ca_pem or before.proxy:
            text = f"{host} has certificates of its own or a proxy, which a mirror is not given"
            raise refuse(409, "no-mirror", "No mirror of it", text, "nodes get its images from each other")
        if before.mirror or before.mirrored_by not in ("", request.name):
            raise has_mirror(host, before.mirrored_by) if before.mirrored_by else _named(before)
        return msgspec.structs.replace(before, mirrored_by=request.name, updated_at=now)


def _spec(snapshot: Snapshot, request: MirrorRequest, *, insecure: bool) -> DeploymentSpec:
    """Return what the mirror's deployment is to be. Raises Refused."""
    target = request.target
    if target.percent != 100:
        raise refuse(400, "bad-request", "Not a share", "a mirror runs on one node", "name it, or give a selector")
    check_target(snapshot, target)
    names = [node.name for node in snapshot.nodes.values() if node.name in target.names or node.id in target.names]
    placement = mirror_placement(sorted(names), parse_selector(target.selector))
    if trouble := placement_trouble(placement, snapshot.label_sets):
        raise refuse(422, "label-set", "Not a usable label set", trouble, "fallow label-set list")
    return mirror_spec(canonical(request.registry), request.image, placement, insecure=insecure)


def _mirrored(snapshot: Snapshot, name: str) -> KnownRegistry:
    """Return the registry that a mirror is of. Raises Refused (404)."""
    for registry in snapshot.registries.values():
        if name and registry.mirrored_by == name:
            return registry
    raise not_found(f"mirror {name[:80]!r}", "fallow registry mirror list shows all")


def _taken(name: str, why: str) -> Refused:
    return refuse(409, "name-taken", "The name is taken", f"{name}: {why}", "choose another name")


def _named(registry: KnownRegistry) -> Refused:
    return refuse(
        409, "has-mirror", "It has a mirror", f"nodes ask {registry.mirror} for images of {registry.id}",
        f"fallow registry add {registry.id}, without --mirror, forgets that",
    )  # fmt: skip
