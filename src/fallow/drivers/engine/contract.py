"""What a container engine must do for an agent. Back-ends pass `tests/contract/test_engine.py`.

Every container we make carries LABEL_REPLICA and LABEL_NODE; a back-end lists and touches only containers with its own
node's label. Times are UTC seconds since the epoch.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fallow.model.containers import ContainerSpec

LABEL_REPLICA = "io.fallow.replica"
LABEL_NODE = "io.fallow.node"
LABEL_DEPLOYMENT = "io.fallow.deployment"
LABEL_SPEC = "io.fallow.spec"  # hash of what the container was made from

ErrorKind = Literal[
    "unreachable",  # the engine
    "registry-unreachable",
    "not-found",
    "denied",
    "rate-limited",
    "no-space",
    "conflict",
    "in-use",  # an image, by a container, running or not
    "port-in-use",
    "bad-request",
    "wrong-platform",
    "wrong-content",  # not what its digest says
    "failed",
]


class EngineError(Exception):
    """The engine refused or could not be reached; `kind` sorts it, the text is the engine's own.

    `retry_after_seconds` is what a registry asked for, 0 when it did not say.
    """

    def __init__(self, kind: ErrorKind, text: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.kind: ErrorKind = kind
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """What the engine is and what its machine has."""

    name: str  # podman or docker
    version: str
    api_version: str
    architecture: str  # as OCI names it: amd64, arm64
    os: str
    kernel: str
    hostname: str
    cpus: float
    memory_bytes: int
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    storage_driver: str = ""
    cgroup_version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image in the engine's store."""

    id: str
    references: tuple[str, ...]
    architecture: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolving:
    """How a container finds addresses of names. It is no part of what a container is made from: what runs stays."""

    servers: tuple[str, ...] = ()  # asked in this order; none: as the engine has it
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # as in resolv.conf


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image in the engine's store, with everything there is to know before it is deleted.

    `references` are names with a tag and `digests` names with one, all in full; an image without either is dangling.
    `layers` are diff ids from the bottom up, and `layer_bytes` their unpacked sizes, empty where they are not known.
    `containers` counts those of anybody, running or not.
    """

    id: str
    references: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    architecture: str = ""
    size_bytes: int = 0
    layers: tuple[str, ...] = ()
    layer_bytes: tuple[int, ...] = ()
    containers: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerRequest:
    """A container to be made; of the image `image_id` where that is known, else of what the name stands for here."""

    replica_id: str
    deployment: str
    spec: ContainerSpec
    host_ports: dict[str, int] = field(default_factory=dict)  # "8080/tcp" -> 20001
    bind_address: str = ""  # empty: every address of the node
    resolving: Resolving = Resolving()
    spec_hash: str = ""
    image_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """One of our containers as the engine sees it. `applied_*` are the limits read back, 0 when none."""

    id: str
    replica_id: str
    deployment: str
    spec_hash: str
    status: Literal["created", "running", "paused", "exited"]
    address: str  # where this machine reaches its ports when they are not published; empty when unknown
    host_ports: dict[str, int]
    started_at: float = 0.0
    exit_code: int | None = None
    out_of_memory: bool = False
    applied_cpus: float = 0.0
    applied_memory_bytes: int = 0
    applied_pids: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineEvent:
    """One of our containers started, ended or vanished."""

    kind: Literal["started", "exited", "removed"]
    container_id: str
    replica_id: str
    exit_code: int | None = None
    at: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """For one registry, given with a pull and never stored on a node."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class PullProgress:
    """Bytes of a pull so far; `total_bytes` is 0 while unknown."""

    current_bytes: int
    total_bytes: int
    text: str = ""


Progress = Callable[[PullProgress], None]


class ImageStore(Protocol):
    """The images of a container engine: all there are, whoever pulled them. Every method raises EngineError.

    A name is always taken in full (`docker.io/library/nginx:latest`), or is an image's id (`sha256:...`).
    """

    async def image(self, reference: str) -> Image | None:
        """Return the image if the engine has it."""

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None = None,
        on_progress: Progress | None = None,
        insecure: bool = False,
    ) -> Image:
        """Pull an image, by tag or by digest, and return it; its architecture is checked against the machine's.

        `insecure`: the registry speaks plain HTTP. Podman then tells no bytes unless its own settings say so too, and
        Docker has to be told by its settings, but for registries at 127.0.0.1.

        Cancelling it makes the engine stop. There is no limit of time: an engine that waits for a silent registry waits
        for good, so whoever calls watches the bytes.
        """

    async def images(self) -> list[StoredImage]:
        """Return every image that somebody could name or delete, sorted by id."""

    async def tag(self, image_id: str, reference: str) -> None:
        """Let a name with a tag stand for an image; it is taken from the image it stood for before."""

    async def delete_image(self, name: str) -> None:
        """Take one name from its image, and delete the image with its last name; never forced, nothing else goes.

        No error when it is gone. An id is taken only of an image without a name, a name only when it is in full
        ("bad-request"); EngineError("in-use") when a container of anybody, running or not, was made from it.
        """

    async def load(self, archive: AsyncIterator[bytes]) -> tuple[str, ...]:
        """Load images from a tar file as `docker save` writes it, plain or gzip, and return their names or ids.

        A file that is cut off, or none, is EngineError("bad-request").
        """

    def image_events(self) -> AsyncIterator[str]:
        """Yield a word whenever an image came, went or got another name; raises EngineError when the stream breaks."""

    async def disk(self) -> tuple[int, int]:
        """Return size and free space, in bytes, of the disk that holds the images; 0 when it is not on this machine."""


class Engine(ImageStore, Protocol):
    """A container engine. Every method raises EngineError."""

    async def info(self) -> EngineInfo:
        """Return what the engine and its machine are."""

    async def create(self, request: ContainerRequest) -> Container:
        """Make the container, not yet started, and read back its limits.

        The same replica and spec hash twice gives the one container; another hash is EngineError("conflict").
        Capabilities are dropped but for `cap_add`; new privileges are forbidden.
        """

    async def start(self, container_id: str) -> Container:
        """Start it; no error when it runs already."""

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """Ask it to end, and kill it after the grace; no error when it has ended or is gone."""

    async def remove(self, container_id: str) -> None:
        """Remove an ended container; no error when it is gone."""

    async def inspect(self, container_id: str) -> Container | None:
        """Return one of our containers; None when it is gone or not ours."""

    async def list(self) -> list[Container]:
        """Return all of our containers on this node, running or not."""

    def events(self) -> AsyncIterator[EngineEvent]:
        """Yield events of our containers from now on; raises EngineError("unreachable") when the stream breaks."""

    def logs(self, container_id: str, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        """Yield log lines, standard output and error together, without line ends."""

    async def execute(self, container_id: str, command: tuple[str, ...], timeout_seconds: float) -> int:
        """Run a command inside and return its exit code; 124 on timeout."""

    async def close(self) -> None:
        """Release the connection."""
