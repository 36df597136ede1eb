"""What a container is made of, independent of any engine."""

import enum
from typing import Annotated, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Environment = Annotated[dict[str, str], msgspec.Meta(max_length=1024)]


class PortSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A port the container listens on; `host` asks for one fixed host port on whichever node it runs."""

    container: Port
    protocol: Literal["tcp", "udp"] = "tcp"
    host: Port | None = None

    @property
    def key(self) -> str:
        """Return the name assignments use for it: `8080/tcp`."""
        return f"{self.container}/{self.protocol}"


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How health is told: a command inside the container, an HTTP path, or a TCP connect; times in seconds."""

    kind: Literal["command", "http", "tcp", "none"] = "tcp"
    command: tuple[str, ...] = ()
    port: Port | None = None
    path: str = "/"
    interval_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0
    timeout_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 5.0
    retries: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    start_period_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0


class RestartCondition(enum.StrEnum):
    """When a container that ended is started again."""

    ALWAYS = "any"
    ON_FAILURE = "on-failure"
    NEVER = "none"


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Restarts wait `delay_seconds`, doubling up to `max_delay_seconds`; None attempts means without end."""

    condition: RestartCondition = RestartCondition.ALWAYS
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    max_delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60.0
    max_attempts: Annotated[int, msgspec.Meta(ge=0)] | None = None
    window_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0  # running this long resets the delay


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """`cpus` and `memory_bytes` are reserved for placement; limits are enforced and read back. Zero: none asked."""

    cpus: Annotated[float, msgspec.Meta(ge=0, le=65536)] = 0.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    cpu_limit: Annotated[float, msgspec.Meta(ge=0, le=65536)] = 0.0
    memory_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    pids_limit: Annotated[int, msgspec.Meta(ge=0, le=4_194_304)] = 0


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an agent needs to make the container, but for where its ports are published."""

    image: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Environment = {}
    ports: Annotated[tuple[PortSpec, ...], msgspec.Meta(max_length=64)] = ()
    health: HealthCheck = HealthCheck(kind="none")
    labels: dict[str, str] = {}
    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    read_only: bool = False
    init: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    stop_grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    stop_signal: str = ""
    resources: Resources = Resources()
    restart: RestartPolicy = RestartPolicy()
