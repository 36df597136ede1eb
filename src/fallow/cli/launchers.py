"""What the commands that run processes are asked to do; `main.py` supplies the callables that do it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fallow.model.control import Level
from fallow.model.doctor import Finding
from fallow.model.labels import Variable
from fallow.model.names import DEFAULT_DOMAIN
from fallow.model.servers import Primary
from fallow.model.watermarks import Watermarks

DNS_LISTEN = "127.0.0.1:8453"
DNS_OFF = "off"

LogFormat = Literal["auto", "json", "console"]
Accelerator = Literal["auto", "kvm", "tcg"]
VmImageBase = Literal["debian", "host"]
VM_IMAGE_PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """How a process tells what it does; `auto` is for people on a terminal and JSON elsewhere."""

    level: Level = "info"
    format: LogFormat = "auto"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """One control plane. Addresses are `host:port`; `data` is the folder for its state and its CA."""

    data: Path
    listen: str = "0.0.0.0:7443"
    session_listen: str = "0.0.0.0:7444"
    store: str | None = None  # None: SQLite in `data`
    cluster_key: Path | None = None  # None: `cluster.key` in `data`
    names: tuple[str, ...] = ()  # further names and addresses its certificate carries
    advertise: str = ""  # host[:port] members dial for their session; empty: the host they joined at
    log: LogOptions = LogOptions()
    heartbeat_seconds: float = 1.0
    suspect_seconds: float = 3.0
    dead_seconds: float = 8.0
    cluster_suspect_seconds: float = 5.0
    cluster_dead_seconds: float = 10.0
    public_url: str = ""  # what people and machines are told to call; empty: made from `listen`
    keep_audit_seconds: float = 400 * 86400.0
    keep_image_tasks_seconds: float = 30 * 86400.0
    purge_seconds: float = 86400.0
    install: bool = False  # set up a system service instead of running here
    dns_listen: tuple[str, ...] = ()  # where names are served; empty: at DNS_LISTEN unless that is taken
    domain: str = DEFAULT_DOMAIN
    write_context: bool = True  # store a context with an admin token for this user
    region: str = ""
    zone: str = ""


@dataclass(frozen=True, kw_only=True)
class MemberOptions:
    """What a node and a gateway have in common; without `url` and `token` the identity kept in `data` is used."""

    url: str = ""
    token: str = field(default="", repr=False)
    name: str = ""
    variables: tuple[Variable, ...] = ()
    function: str = ""
    address: str = ""  # the lease address it wishes for
    timeout_seconds: float | None = None  # how long to wait for approval; None: until somebody decides
    data: Path
    install: bool = False  # set up a system service instead of running here
    log: LogOptions = LogOptions()


@dataclass(frozen=True, kw_only=True)
class JoinOptions(MemberOptions):
    """One node; `engine` is the URL of a Docker Engine API, None to look for one."""

    engine: str | None = None
    watermarks: Watermarks | None = field(default_factory=Watermarks)  # of the images' disk
    image_rate: int = 0  # bytes of images a second that it gives to other nodes; 0: no bound
    cgroup: str = ""  # the control group that containers are to be in; empty: as the engine has it


@dataclass(frozen=True, kw_only=True)
class GatewayOptions(MemberOptions):
    """One gateway, which runs `haproxy`."""

    http_port: int = 80
    haproxy: str = "haproxy"
    dns_listen: tuple[str, ...] = ()  # where names are served; empty: nowhere


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """How a server makes virtual machines."""

    libvirt: str = "qemu:///system"
    bridge: str = ""  # that they are attached to; empty: libvirt's network of the name `network`
    network: str = "default"
    accelerator: Accelerator = "auto"
    engine: str | None = None  # of nodes in control groups; None: each looks for one
    folder: Path = Path("/var/lib/fallow-vms")  # of their disks and images; QEMU may enter it as another user


@dataclass(frozen=True, kw_only=True)
class LendOptions(MemberOptions):
    """One server that lends what its primary applications leave idle."""

    primaries: tuple[Primary, ...] = ()  # none: all that is not lent
    machines: MachineOptions = MachineOptions()
    within: str = ""  # the control group that this server is, from the root; empty: it is the whole machine
    drain_on_stop: bool = False  # let what is lent move away before the agent stops


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """A control plane, a node and a gateway together on this machine."""

    data: Path
    listen: str = "0.0.0.0:7443"
    session_listen: str = "0.0.0.0:7444"
    http_port: int = 8080
    engine: str | None = None
    haproxy: str = "haproxy"
    dns_listen: tuple[str, ...] = ()  # as of a server
    domain: str = DEFAULT_DOMAIN
    log: LogOptions = LogOptions()


@dataclass(frozen=True, kw_only=True)
class BackupOptions:
    """Copy everything in the store of this URL to a file."""

    store: str
    file: Path


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """Fill the store of this URL from a file; `progress` is told how many writes are done, and of how many."""

    file: Path
    store: str
    replace: bool
    progress: Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class MigrateOptions:
    """Fill the store `target` with what the store `source` holds, both URLs."""

    source: str
    target: str
    replace: bool
    progress: Callable[[int, int], None]


StoreTask = BackupOptions | RestoreOptions | MigrateOptions


@dataclass(frozen=True, kw_only=True)
class StoreCopied:
    """How many records were copied, and the revision of the store they come from."""

    records: int
    revision: int


@dataclass(frozen=True, kw_only=True)
class BuildVmImage:
    """Build an image in `folder`, or as the folder `output`; `tell` hears what is being done."""

    folder: Path
    name: str
    base: VmImageBase
    output: Path | None
    tell: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class AddVmImage:
    """Add somebody else's disk to the images in `folder`, with Fallow beside it for each of `pythons`, as `3.11`."""

    folder: Path
    name: str
    file: Path
    pythons: Sequence[str]
    tell: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ListVmImages:
    """List the images in `folder`."""

    folder: Path


VmImageTask = BuildVmImage | AddVmImage | ListVmImages


@dataclass(frozen=True, kw_only=True)
class VmImageView:
    """An image of virtual machines on this machine; `agent` is the version of Fallow in it or beside it, or empty."""

    name: str
    base: str
    agent: str
    created_at: float  # UTC seconds
    size_bytes: int
    folder: str


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What of this machine is to be checked: an engine and an HAProxy as the agents take them, the folder for state."""

    data: Path
    engine: str | None = None
    haproxy: str = "haproxy"
    ports: tuple[int, ...] = (7443, 7444, 80, 8080)


def _no_lending(_: LendOptions) -> int:
    raise NotImplementedError("this command line cannot run servers")


def _unchecked(_: DoctorOptions) -> Sequence[Finding]:
    return ()


def _no_images(_: VmImageTask) -> Sequence[VmImageView]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Launchers:
    """All but `store`, `doctor` and `vm_image` run until they are told to stop and return the process's exit code.

    They may raise `cli.failures.Failure` and every `ClientError`; both are shown without a traceback.
    """

    server: Callable[[ServerOptions], int]
    join: Callable[[JoinOptions], int]
    gateway: Callable[[GatewayOptions], int]
    up: Callable[[UpOptions], int]
    store: Callable[[StoreTask], StoreCopied]
    lend: Callable[[LendOptions], int] = _no_lending
    doctor: Callable[[DoctorOptions], Sequence[Finding]] = _unchecked  # returns at once with what it found
    vm_image: Callable[[VmImageTask], Sequence[VmImageView]] = _no_images  # returns what it was about
