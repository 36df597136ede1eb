"""Mirrors that we run: what their deployments are made of, and where they answer now."""

from collections.abc import Sequence

from fallow.decide.endpoints import endpoints_by_state
from fallow.decide.matching import untrusted_keys
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import deployment_view
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec, Resources
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, Replica
from fallow.model.labels import Requirement, Selector
from fallow.model.members import MemberState
from fallow.model.mirrors import MIRROR_PORT, MIRRORS, MirrorView
from fallow.model.references import DEFAULT_REGISTRY
from fallow.model.registries import KnownRegistry

MEMORY_BYTES = 64 * 1024**2  # reserved, not a limit
GONE = "gone"

_PORT = PortSpec(container=MIRROR_PORT)
_UPSTREAMS = {DEFAULT_REGISTRY: "registry-1.docker.io"}


def mirror_spec(registry: str, image: str, placement: PlacementPolicy, *, insecure: bool) -> DeploymentSpec:
    """Return what a mirror of a registry is made of; `insecure`: it is asked by plain HTTP.

    The variables are those of the CNCF distribution registry, https://distribution.github.io/distribution/about/configuration/.
    """
    scheme = "http" if insecure else "https"
    environment = {
        "REGISTRY_PROXY_REMOTEURL": f"{scheme}://{_UPSTREAMS.get(registry, registry)}",
        "REGISTRY_HTTP_ADDR": f":{MIRROR_PORT}",
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",  # or what is no longer asked for would stay for ever
        "OTEL_TRACES_EXPORTER": "none",  # newer ones look for a collector otherwise
    }
    container = ContainerSpec(
        image=image,
        environment=environment,
        ports=(_PORT,),
        health=HealthCheck(kind="http", port=MIRROR_PORT, path="/v2/"),
        resources=Resources(memory_bytes=MEMORY_BYTES),
    )
    return DeploymentSpec(container=container, placement=placement)


def mirror_placement(names: Sequence[str], selector: Selector) -> PlacementPolicy:
    """Return where a mirror may run: on nodes by name, or where a selector holds.

    What only a node itself says filters too. A mirror can be no trap: all that it gives is held to its digest.
    """
    named = (Requirement(key="node:name", operator="in", values=tuple(names)),) if names else ()
    told = set(untrusted_keys(selector))
    return PlacementPolicy(
        selector=Selector(requirements=tuple(each for each in selector.requirements if each.key not in told)),
        resources=Selector(
            requirements=(*named, *(each for each in selector.requirements if each.key in told)),
        ),
    )


def mirror_of(snapshot: Snapshot, registry: KnownRegistry) -> str:
    """Return where the mirror of a registry answers (host:port); empty when there is none, or none that serves now."""
    serving = _serving(snapshot, registry.mirrored_by)
    return registry.mirror or (_address(serving) if serving is not None else "")


def mirror_view(snapshot: Snapshot, registry: KnownRegistry) -> MirrorView:
    """Return the mirror that we run of a registry."""
    name = registry.mirrored_by
    deployment = snapshot.deployment_named(MIRRORS, name)
    if deployment is None:
        return MirrorView(name=name, registry=registry.id, state=GONE)
    shown, serving = deployment_view(snapshot, deployment), _serving(snapshot, name)
    node = snapshot.members.get(serving.node_id) if serving is not None else None
    return MirrorView(
        name=name,
        registry=registry.id,
        image=deployment.spec.container.image,
        state=shown.state,
        reason=shown.reason,
        node=node.name if node is not None else "",
        address=_address(serving) if serving is not None else "",
    )


def _serving(snapshot: Snapshot, name: str) -> Replica | None:
    """Return the replica of a mirror that is to be asked, if there is one on a node that is well."""
    deployment = snapshot.deployment_named(MIRRORS, name) if name else None
    if deployment is None:
        return None
    ready = endpoints_by_state(snapshot, deployment.id)[MemberState.READY]
    return max((each for each in ready if _address(each)), key=lambda each: (each.generation, each.id), default=None)


def _address(replica: Replica) -> str:
    port = replica.host_ports.get(_PORT.key)
    host = f"[{replica.address}]" if ":" in replica.address else replica.address
    return f"{host}:{port}" if port else ""
