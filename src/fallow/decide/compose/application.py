"""A whole Compose file: its top-level keys, and the deployments it describes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fallow.decide.compose.clusters import read_clusters
from fallow.decide.compose.document import MappingNode, read_document
from fallow.decide.compose.envfiles import EnvFiles
from fallow.decide.compose.extension import EXTENSION
from fallow.decide.compose.fields import Field, dispatch
from fallow.decide.compose.problems import ComposeError, Problems, Refusal, shown
from fallow.decide.compose.routes import check_addresses
from fallow.decide.compose.service import read_service
from fallow.decide.compose.variables import Interpolator, interpolate
from fallow.model.clusters import ClusterPolicy
from fallow.model.deployments import DeploymentSpec
from fallow.model.meta import is_name

DEFAULT_PROJECT = "default"
MAX_SERVICES = 500
MAX_REPLICAS = 100_000  # of all services together

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """What a Compose file asks for: deployments by name, in the order of the file, and what it says in vain."""

    project: str
    deployments: tuple[tuple[str, DeploymentSpec], ...]
    warnings: tuple[str, ...] = ()


def parse_compose(
    text: str,
    *,
    project: str = "",
    variables: Mapping[str, str] = _NOTHING,
    env_files: Mapping[str, str] = _NOTHING,
) -> Application:
    """Read a Compose file.

    `project` wins over the file's `name`; without either it is "default". `variables` are those of the author's
    environment, `env_files` the contents of environment files by the path written in the file. Raises ComposeError
    with every fault that was found.
    """
    problems = Problems()
    try:
        root = read_document(text, problems)
        draft = _File(variables, EnvFiles(env_files, variables))
        dispatch(_interpolated(root, variables, problems), _TOP, draft)
        if not draft.seen_services:
            problems.error("services", 0, "is missing: the file names nothing to run")
        name = _project(project, draft, problems)
    except Refusal as refusal:
        problems.refuse(refusal)
        raise ComposeError(tuple(problems.errors)) from None
    problems.finish()
    return Application(project=name, deployments=tuple(draft.deployments), warnings=tuple(problems.warnings))


class _File:
    """The file while it is read."""

    def __init__(self, variables: Mapping[str, str], env_files: EnvFiles) -> None:
        self.variables = variables
        self.env_files = env_files
        self.name: Field | None = None
        self.seen_services = False
        self.clusters = ClusterPolicy()  # of services that say nothing of their own
        self.deployments: list[tuple[str, DeploymentSpec]] = []


def _interpolated(root: MappingNode, variables: Mapping[str, str], problems: Problems) -> Field:
    """Return the file with variables replaced where they are used; what holds for all services comes first."""
    interpolator = Interpolator(variables)
    entries = {
        key: interpolate(node, key, interpolator, problems) if key in ("name", "services", "x-fallow") else node
        for key, node in sorted(root.entries.items(), key=lambda entry: entry[0] != "x-fallow")
    }
    return Field("", MappingNode(entries, root.line), problems)


def _project(asked: str, draft: _File, problems: Problems) -> str:
    """Return the project's name. Raises Refusal when it cannot be one."""
    if asked:
        if not is_name(asked):
            problems.error("project", 0, _not_a_name(asked))
        return asked
    if draft.name is None or draft.name.is_null:
        return DEFAULT_PROJECT
    name = draft.name.text()
    if not is_name(name):
        draft.name.error(_not_a_name(name))
    return name


def _not_a_name(text: str) -> str:
    """Say that a text is no name, and what to write instead."""
    proposed = re.sub(r"[^a-z0-9]+", "-", text[:200].lower()).lstrip("-0123456789")[:40].rstrip("-")
    instead = f"; write {proposed!r}" if is_name(proposed) else ""
    return f"{shown(text)} must be at most 40 letters a-z, digits and '-', and begin with a letter{instead}"


def _name(field: Field, draft: _File) -> None:
    draft.name = field


def _services(field: Field, draft: _File) -> None:
    """Read every service; those with faults are left out, since their faults end the reading anyway."""
    draft.seen_services = True
    services = field.entries()
    if not services:
        raise field.refusal("names nothing to run")
    if len(services) > MAX_SERVICES:
        raise field.refusal(f"names {len(services)} services; one file may have {MAX_SERVICES}")
    claims = []
    for name, service in services:
        if not is_name(name):
            service.error(f"the name {_not_a_name(name)}")
        try:
            spec = read_service(service, draft.variables, draft.env_files, draft.clusters)
        except Refusal as refusal:
            field.problems.refuse(refusal)
            continue
        draft.deployments.append((name, spec))
        claims.append((service, spec.routes))
    asked = sum(spec.replicas for _, spec in draft.deployments)
    if asked > MAX_REPLICAS:
        field.error(f"ask for {asked} replicas together; one file may have {MAX_REPLICAS}")
    check_addresses(claims, field.problems)


def _ignored(text: str) -> Callable[[Field, _File], None]:
    def warn(field: Field, _draft: _File) -> None:
        if not field.is_empty:
            field.warn(f"is ignored: {text}")

    return warn


def _refused(text: str) -> Callable[[Field, _File], None]:
    def refuse(field: Field, _draft: _File) -> None:
        if not field.is_empty:
            raise field.refusal(f"is not supported: {text}")

    return refuse


def _extension(field: Field, draft: _File) -> None:
    """Read `x-fallow` of the file: only how services are divided over clusters can be said for all of them."""
    if not field.is_mapping:
        raise field.refusal("must be a mapping with `clusters`; the rest belongs into a service")
    dispatch(field, {**dict.fromkeys(EXTENSION, _misplaced), "clusters": _clusters}, draft)


def _clusters(field: Field, draft: _File) -> None:
    draft.clusters = read_clusters(field)


def _misplaced(field: Field, _draft: _File) -> None:
    raise field.refusal("belongs into a service")


_TOP: dict[str, Callable[[Field, _File], None]] = {
    "name": _name,
    "services": _services,
    "version": _ignored("every version is read alike"),
    "networks": _ignored("replicas are reached through routes and published ports"),
    "volumes": _ignored("replicas keep no data"),
    "secrets": _ignored("no service can use them"),
    "configs": _ignored("no service can use them"),
    "include": _refused("write the services into one file"),
    "models": _refused("name the model's address in `environment`"),
    "x-fallow": _extension,
}
