"""One service of the file, from its keys to a DeploymentSpec."""

from collections.abc import Callable, Mapping

import msgspec

from fallow.decide.compose.container import CONTAINER
from fallow.decide.compose.deploy import (
    finish_resources,
    finish_restart,
    read_cpu_limit,
    read_deploy,
    read_memory_limit,
    read_memory_reservation,
    read_pids_limit,
    read_replicas,
    read_restart,
)
from fallow.decide.compose.draft import Draft
from fallow.decide.compose.envfiles import EnvFiles
from fallow.decide.compose.environment import read_env_files, read_environment, read_labels
from fallow.decide.compose.extension import read_extension
from fallow.decide.compose.fields import Field, dispatch
from fallow.decide.compose.health import finish_health, read_healthcheck
from fallow.decide.compose.ports import read_expose, read_ports
from fallow.decide.compose.problems import Refusal
from fallow.decide.compose.routes import finish_routes
from fallow.decide.compose.unsupported import UNSUPPORTED
from fallow.decide.compose.updates import finish_updates
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec, PlacementPolicy
from fallow.model.labels import Selector

MAX_SPEC_BYTES = 256 * 1024  # what a replica is made of goes to its node in one frame with many others
MAX_REQUIREMENTS = 64

HANDLERS: dict[str, Callable[[Field, Draft], None]] = {
    **CONTAINER,
    **UNSUPPORTED,
    "environment": read_environment,
    "env_file": read_env_files,
    "labels": read_labels,
    "ports": read_ports,
    "expose": read_expose,
    "healthcheck": read_healthcheck,
    "restart": read_restart,
    "scale": read_replicas,
    "cpus": read_cpu_limit,
    "mem_limit": read_memory_limit,
    "mem_reservation": read_memory_reservation,
    "pids_limit": read_pids_limit,
    "deploy": read_deploy,
    "x-fallow": read_extension,
}


def read_service(
    service: Field, variables: Mapping[str, str], env_files: EnvFiles, clusters: ClusterPolicy
) -> DeploymentSpec:
    """Return what a service asks for; `clusters` is how it is divided unless it says otherwise.

    Raises Refusal, empty when its faults have been told already.
    """
    if not service.is_mapping:
        raise service.refusal("must be a mapping with at least `image`")
    before = service.problems.faults
    draft = Draft(service=service, variables=variables, env_files=env_files, clusters=clusters)
    dispatch(service, HANDLERS, draft)
    if "image" not in draft.container and not any(key == "image" for key, _ in service.entries()):
        what = "`build` is not supported" if draft.build else "there is nothing to run"
        service.error(f"needs `image`: {what}; push an image to a registry and name it")
    elif draft.build is not None:
        draft.build.warn("is ignored: the image is pulled, not built")
    if service.problems.faults > before:
        raise Refusal
    spec = _assemble(draft)
    if service.problems.faults > before:
        raise Refusal
    return _proven(service, spec)


def _assemble(draft: Draft) -> DeploymentSpec:
    """Put together what the keys said; the order matters, since routes and health may add container ports."""
    routes = finish_routes(draft)
    health = finish_health(draft, [route.port for route in routes])
    update, rollback = finish_updates(draft)
    return DeploymentSpec(
        replicas=1 if draft.replicas is None else draft.replicas,
        container=ContainerSpec(
            **draft.container,
            environment=draft.file_environment | draft.environment,
            ports=tuple(draft.ports.values()),
            health=health,
            resources=Resources(**finish_resources(draft)),
            restart=finish_restart(draft),
        ),
        placement=_placement(draft),
        routes=routes,
        update=update,
        rollback=rollback,
        clusters=draft.clusters,
    )


def _placement(draft: Draft) -> PlacementPolicy:
    """Return where replicas may go. Raises Refusal when that is asked in more terms than one can mean."""
    if len(draft.requirements) > MAX_REQUIREMENTS:
        raise draft.service.refusal(
            f"has {len(draft.requirements)} constraints; at most {MAX_REQUIREMENTS} are allowed"
        )
    return PlacementPolicy(**draft.placement, selector=Selector(requirements=tuple(draft.requirements)))


def _proven(service: Field, spec: DeploymentSpec) -> DeploymentSpec:
    """Return the spec once every bound of the model holds and it is small enough to be sent."""
    try:
        proven = msgspec.convert(msgspec.to_builtins(spec), DeploymentSpec)
    except msgspec.ValidationError as error:
        raise service.refusal(str(error)) from None
    size = len(msgspec.msgpack.encode(proven))
    if size > MAX_SPEC_BYTES:
        raise service.refusal(f"takes {size} bytes with its environment; at most {MAX_SPEC_BYTES} are allowed")
    return proven
