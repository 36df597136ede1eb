"""Virtual machines in which a server lends what it does not use; each is a node once it has joined."""

import enum
from typing import Annotated, Literal

import msgspec

from fallow.model.hosts import REGION_LABEL, ZONE_LABEL
from fallow.model.meta import Name, Record
from fallow.model.pools import PortRange
from fallow.model.server_pools import Bytes, Cpus, Isolation

VmId = Annotated[str, msgspec.Meta(max_length=64)]
# Labels that a node in a virtual machine is given with its token, beside the region and zone of its server.
SERVER_LABEL = "fallow.server"
VM_LABEL = "fallow.vm"
SIZE_LABEL = "fallow.size"  # as 2cpu-4096MiB; it follows the size
INHERITED_LABELS = (REGION_LABEL, ZONE_LABEL)
# The control group above everything that a server lends. libvirt finds it whether systemd runs, whose slice it then is,
# or not: to a name without a dot it would add `.partition`.
LENT_GROUP = "fallow.slice"


class VmState(enum.StrEnum):
    """How a virtual machine is, as its server's agent finds it."""

    WAITING = "waiting"  # ordered; its server has not said anything of it yet
    PREPARING = "preparing"  # its disk is being made
    STARTING = "starting"  # it boots, and its node has had no session yet
    RUNNING = "running"  # it has joined as a node, and had a session
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # the problem says why; it is tried again, later and later


class VmWish(enum.StrEnum):
    """What should become of a virtual machine."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"  # with its disk


class Vm(Record, frozen=True, kw_only=True):
    """One virtual machine on a server, or the control group that stands for one (`isolation`).

    Its node is the member that joined with the token `token_id`, which is made for it alone; what a node says of
    where it runs does not count.
    """

    name: Name
    server_id: str
    isolation: Isolation = "vm"
    # desired
    cpus: float
    memory_bytes: int
    disk_bytes: int
    image: str
    wanted: VmWish = VmWish.RUNNING
    automatic: bool = False  # made by the policy, which may also resize and remove it
    fixed: bool = False  # its size was given by hand: the policy leaves it so
    draining: bool = False  # its node gets nothing, and what it has moves
    node_drained: bool = False  # its node was set to drain for the sake of all this, not by an operator
    # identity
    token_id: str = ""  # of the newest token made for it
    node_id: str = ""  # of the member that joined with it
    # observed
    state: VmState = VmState.WAITING
    state_since: float = 0.0
    problem: str = ""


class VmOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's agent should do with one virtual machine."""

    vm_id: str
    name: str
    isolation: Isolation = "vm"
    cpus: float
    memory_bytes: int
    disk_bytes: int
    image: str
    wanted: VmWish
    joined: bool = False  # its node has had a session: it needs no token, and its disk is not made anew
    # by what is placed in it; None: the control plane does not say, and it is taken for all that the machine has
    asked_cpus: float | None = None
    rank: int = 0  # the best class that it holds: 0 nothing, 1 spot, 2 harvest; the lowest goes first in an emergency
    ports: tuple[PortRange, ...] = ()  # of the server, that have to lead to it because its node is reached there


class VmUse(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual machine as its server's agent sees it now."""

    vm_id: VmId
    state: VmState
    cpus: Cpus = 0.0  # that it uses
    cpus_limit: Cpus = 0.0  # that it may use now
    memory_bytes: Bytes = 0
    memory_limit_bytes: Bytes = 0  # that it may have now; a balloon takes the rest
    throttled: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # share of the time it had to wait
    problem: Annotated[str, msgspec.Meta(max_length=1024)] = ""  # also: a limit that reads back as another


class VmRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual machine made by hand. 0: as the server's policy says."""

    server: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]  # name or id
    name: Annotated[str, msgspec.Meta(max_length=40)] = ""  # empty: made from the server's name
    cpus: Cpus = 0
    memory_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    image: Annotated[str, msgspec.Meta(max_length=256)] = ""


class VmChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH on a virtual machine may change; None leaves it as it is."""

    cpus: Annotated[float, msgspec.Meta(gt=0, le=65536)] | None = None
    memory_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**60)] | None = None
    wanted: Literal["running", "stopped"] | None = None
    draining: bool | None = None


class VmView(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine as the API shows it."""

    id: str
    name: str
    server: str  # its name
    isolation: Isolation
    cpus: float
    memory_bytes: int
    disk_bytes: int
    image: str
    wanted: VmWish
    automatic: bool
    fixed: bool = False
    draining: bool
    state: VmState
    state_since: float
    problem: str = ""
    node: str = ""  # its name
    replicas: int = 0
    use: VmUse | None = None  # None: its server has not told of late
    created_at: float = 0.0
    revision: int = 0
