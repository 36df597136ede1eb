"""Members: whatever joins with a token and keeps a session - nodes, gateways, servers, clusters."""

import enum
from typing import Annotated

import msgspec

from fallow.model.labels import Labels, Variable
from fallow.model.meta import Name, Record
from fallow.model.pools import NetworkMode, PortRange
from fallow.model.taints import Taints

# What gateways report so that addresses can be shown as a person has to write them.
HTTP_PORT_VARIABLE = "http.port"

Text = Annotated[str, msgspec.Meta(max_length=1024)]
ShortText = Annotated[str, msgspec.Meta(max_length=256)]


class Role(enum.StrEnum):
    """What a member does."""

    NODE = "node"
    GATEWAY = "gateway"
    SERVER = "server"
    CLUSTER = "cluster"


class MemberState(enum.StrEnum):
    """How a member is, as its last sign of life tells; see `lifecycle.MEMBER_TRANSITIONS`."""

    JOINING = "joining"  # has an identity, has not yet opened a session
    READY = "ready"
    SUSPECT = "suspect"  # silent for a while: no new work, no routing
    DEAD = "dead"  # silent for longer: its replicas are replaced


class Scheduling(enum.StrEnum):
    """What an operator wants of a member."""

    ACTIVE = "active"
    CORDONED = "cordoned"  # keeps what it has, gets nothing new
    DRAINING = "draining"  # gets nothing new, and what it has is moved


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine says of itself. Capacity is believed, since a node can only lie about its own; labels are not."""

    hostname: ShortText = ""
    os: ShortText = ""
    kernel: ShortText = ""
    architecture: ShortText = ""  # as OCI images name it: amd64, arm64
    engine: ShortText = ""  # "podman 4.3.1", "haproxy 2.6.12"
    agent_version: ShortText = ""
    cpus: Annotated[float, msgspec.Meta(ge=0, le=65536)] = 0.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    disk_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Where a member is reached, decided by the control plane."""

    address: str
    host_ports: PortRange = PortRange()
    agent_port: int = 0  # 0: none was given
    pool: str = ""  # empty: the address is where its request came from
    mode: NetworkMode = NetworkMode.DIRECT
    prefix_length: int = 0  # of the pool's network; 0: the address stands alone


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """How long a cluster may be silent, in seconds, until nothing new goes there, and until what it ran is replaced."""

    suspect_after_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)]
    dead_after_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)]

    def __str__(self) -> str:
        """Write it for people."""
        return f"suspect after {self.suspect_after_seconds:g}s, dead after {self.dead_after_seconds:g}s"


class AgentRun(msgspec.Struct, frozen=True, kw_only=True):
    """One start of an agent with a member's key, and where its session came from; `instance` is never used again."""

    instance: str
    boot_id: str = ""
    address: str = ""
    agent_version: str = ""
    at: float = 0.0  # of its first session


class AgentWish(msgspec.Struct, frozen=True, kw_only=True):
    """The version an operator wants a member's agent to have, and why it did not get there."""

    upgrade_id: str
    version: str
    sha256: str  # of its package
    since: float
    failed: str = ""


class Member(Record, frozen=True, kw_only=True):
    """One member of a cluster: desired side, identity, reported side, observed side."""

    name: Name
    role: Role
    # desired: by token or operator
    labels: Labels = {}
    scheduling: Scheduling = Scheduling.ACTIVE
    taints: Taints = ()  # of clusters
    thresholds: Thresholds | None = None  # of clusters; None: those of all of them
    # identity
    key_sha256: str
    token_id: str
    certificate_expires_at: float
    lease: Lease
    # reported by the member, bounded, never trusted for placement beyond its own capacity
    function: Text = ""
    facts: Facts = Facts()
    variables: tuple[Variable, ...] = ()
    temporary_address: str = ""  # where it believed to be reached when it joined; shown, never dialled
    temporary_port: int = 0
    reported_at: float = 0.0  # when facts and variables last changed
    # observed by the control plane
    requested_at: float = 0.0
    observed_address: str = ""  # where its request to join came from
    state: MemberState = MemberState.JOINING
    state_since: float = 0.0
    state_reason: str = ""
    died_at: float = 0.0  # when it was last declared dead, of clusters
    died_at_revision: int = 0  # the store's then
    opened_at_revision: int = 0  # the store's when its newest session was about to open, of clusters
    spoken_at_revision: int = 0  # and when all that it had to say on it was stored
    unreached_by: tuple[str, ...] = ()  # names of our gateways that reach none of its endpoints, of clusters
    partly_reached_by: tuple[str, ...] = ()  # and of those that reach some and not others
    runs: tuple[AgentRun, ...] = ()  # oldest first; the last one has the session
    fence: str = ""  # why nobody with its key is let in, until an operator says so
    purge_at: float = 0.0  # when it is removed, being dead for so long; 0: not foreseen
    # its network
    wireguard_key: str = ""  # public, as it says, and nobody else's; empty: it makes no overlay
    session_address: str = ""  # where its session comes from, as the control plane sees it
    network_problem: str = ""  # what keeps it from having its lease's address, in its own words; empty: nothing
    # desired: of its agent
    agent: AgentWish | None = None

    @property
    def agent_version(self) -> str:
        """Return which agent it runs, as its newest session told."""
        return self.runs[-1].agent_version if self.runs else self.facts.agent_version


class Revocation(Record, frozen=True, kw_only=True):
    """A key that is not accepted any more, because its member was removed. Its id is the key's SHA-256."""

    member_id: str
    name: str
    role: Role
    reason: str  # for people
    keep_containers: bool = False  # the machine is not asked to remove them


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine says to become a member; it sends it as a `registrations.SignedBundle`."""

    token: Annotated[str, msgspec.Meta(max_length=256)]
    csr_pem: Annotated[str, msgspec.Meta(max_length=8192)]
    role: Role
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""  # empty: made from the hostname
    function: Text = ""
    facts: Facts = Facts()
    variables: Annotated[tuple[Variable, ...], msgspec.Meta(max_length=64)] = ()
    address: Annotated[str, msgspec.Meta(max_length=64)] = ""  # the lease address it wishes for
    temporary_address: Annotated[str, msgspec.Meta(max_length=64)] = ""  # where it believes to be reached now
    temporary_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    sent_at: Annotated[float, msgspec.Meta(ge=0, le=2**40)]  # by its own clock, UTC seconds


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a new certificate for a key that is already known; needs no token."""

    member_id: Annotated[str, msgspec.Meta(max_length=64)]
    csr_pem: Annotated[str, msgspec.Meta(max_length=8192)]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a join or a renewal: who you are, what proves it, and where to open the session."""

    member_id: str
    name: str
    role: Role
    certificate_pem: str
    ca_pem: str
    session_host: str  # empty: the host that answered
    session_port: int
    lease: Lease
    issued_at: float = 0.0  # by the control plane's clock; 0: it did not say


class MemberChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may change; `labels` sets the named labels, None removes one."""

    labels: Annotated[dict[str, str | None], msgspec.Meta(max_length=64)] = {}
    scheduling: Scheduling | None = None
    taints: Taints | msgspec.UnsetType = msgspec.UNSET  # all of them; left out unless said, as below
    thresholds: Thresholds | msgspec.UnsetType | None = msgspec.UNSET  # None: those of all clusters again
    # Let a fenced member in again. Left out unless it is said: older control planes refuse what they do not know.
    unfence: bool | msgspec.UnsetType = msgspec.UNSET


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the API shows it: the record without its key, and what it does now."""

    id: str
    name: str
    role: Role
    revision: int
    created_at: float
    labels: dict[str, str]
    scheduling: Scheduling
    address: str
    requested_at: float = 0.0
    observed_address: str = ""
    temporary_address: str = ""
    temporary_port: int = 0
    reported_at: float = 0.0
    state: MemberState
    state_since: float
    state_reason: str
    function: str
    facts: Facts
    variables: tuple[Variable, ...]
    connected: bool
    last_seen_at: float  # 0: never
    network_problem: str = ""  # what keeps it from having its lease's address; empty: nothing
    replicas: int = 0
    reserved_cpus: float = 0.0
    reserved_memory_bytes: int = 0
    used_cpus: float = 0.0
    used_memory_bytes: int = 0
    lease: Lease | None = None
    measured: tuple[Variable, ...] = ()  # by its agent, under reserved names
    agent_version: str = ""
    agent_wish: AgentWish | None = None
    fence: str = ""
    purge_at: float = 0.0
    taints: Taints = ()
    thresholds: Thresholds | None = None
