"""A service while its keys are being read, before it becomes a DeploymentSpec."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fallow.decide.compose.envfiles import EnvFiles
from fallow.decide.compose.fields import Field
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import PortSpec, RestartPolicy
from fallow.model.labels import Requirement


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A wish for the gateways to listen on `listen` and pass connections on to the container's `port`."""

    field: Field
    listen: int
    port: int


@dataclass(kw_only=True, slots=True)
class HealthWish:
    """`healthcheck` (a command, or `off`) or `x-fallow.health` (a probe); `timing` holds arguments of HealthCheck."""

    field: Field
    command: tuple[str, ...] = ()
    off: bool = False
    kind: Literal["http", "tcp", "none"] = "none"
    path: str = "/"
    port: int | None = None
    timing: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Draft:
    """What has been read of one service; `container` and `placement` hold arguments of their specs by name."""

    service: Field
    variables: Mapping[str, str]
    env_files: EnvFiles
    container: dict[str, Any] = dataclasses.field(default_factory=dict)
    placement: dict[str, Any] = dataclasses.field(default_factory=dict)
    requirements: list[Requirement] = dataclasses.field(default_factory=list)
    resources: dict[str, float] = dataclasses.field(default_factory=dict)
    replicas: int | None = None
    restart: RestartPolicy | None = None  # of the key `restart`
    restart_policy: RestartPolicy | None = None  # of `deploy.restart_policy`
    update: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of UpdateConfig, as the next two
    rollback: dict[str, Any] = dataclasses.field(default_factory=dict)
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)  # for both
    file_environment: dict[str, str] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    ports: dict[str, PortSpec] = dataclasses.field(default_factory=dict)  # by PortSpec.key
    published: list[Published] = dataclasses.field(default_factory=list)
    routes: list[Field] = dataclasses.field(default_factory=list)
    healthcheck: HealthWish | None = None
    probe: HealthWish | None = None  # x-fallow.health
    build: Field | None = None
    clusters: ClusterPolicy = dataclasses.field(default_factory=ClusterPolicy)

    def add_port(self, where: Field, port: PortSpec) -> None:
        """Add a container port; a second mention adds its host port. Raises Refusal for two different host ports."""
        known = self.ports.get(port.key)
        if known is not None and known.host and port.host and known.host != port.host:
            raise where.refusal(f"the port {port.key} has the host port {known.host} already")
        if known is None or port.host:
            self.ports[port.key] = port

    def tcp_ports(self) -> list[int]:
        """Return the container's TCP ports in the order of the file."""
        return [port.container for port in self.ports.values() if port.protocol == "tcp"]

    def only_port(self, where: Field) -> int:
        """Return the container's one TCP port. Raises Refusal when it has none or several."""
        found = self.tcp_ports()
        if len(found) == 1:
            return found[0]
        if not found:
            raise where.refusal("needs `port`: the service names no TCP port under `ports` or `expose`")
        raise where.refusal(f"needs `port`: the service has the ports {', '.join(map(str, found[:10]))}")

    def set_resource(self, where: Field, name: str, value: float) -> None:
        """Set an amount that Compose lets one write in two places. Raises Refusal when they differ."""
        if self.resources.setdefault(name, value) != value:
            raise where.refusal(f"says another amount than the service does elsewhere ({self.resources[name]:g})")

    def set_replicas(self, where: Field, replicas: int) -> None:
        """Set the number of replicas. Raises Refusal when `scale` and `deploy.replicas` differ."""
        if self.replicas is not None and self.replicas != replicas:
            raise where.refusal(f"says {replicas} where the service says {self.replicas} elsewhere")
        self.replicas = replicas
