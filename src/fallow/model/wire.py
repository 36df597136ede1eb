"""The session between a member and its control plane: every frame, and the only encoder and decoder.

Frames of clusters, images and servers are in files of their own (`cluster_frames`, `image_frames`, `server_frames`);
the unions are here.

A frame is a 4-byte big-endian length and that many bytes of msgpack. The member opens the connection and sends Hello;
the control plane answers Welcome or Reject. Everything after is idempotent: a frame may arrive twice.
"""

from typing import Annotated, TypeVar

import msgspec

from fallow.model.cluster_frames import (
    AskRoom,
    LogRead,
    RemotesApplied,
    RoomReported,
    SetRemotes,
    SetShares,
    SharesReported,
    SharesStored,
    Withdrawn,
)
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Observation
from fallow.model.frames import Frame
from fallow.model.image_frames import (
    BlobsChanged,
    ImageProgressed,
    ImagesReported,
    ImageTasksReported,
    ImageTasksStored,
    PullAsked,
    PullGranted,
    SetImageTasks,
)
from fallow.model.labels import Labels, Variable
from fallow.model.members import Facts, Identity, Lease
from fallow.model.names import NamesChange, NamesReport
from fallow.model.network import NetworkPeer, NetworkReport, NetworkState, WireguardKey
from fallow.model.peers import ControlAddress
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenAsked, VmTokenGranted
from fallow.model.servers import ServerReport

# A member's agent and its control plane may be one version apart. What a newer one adds has defaults that older ones
# leave it at, and frames that an older one does not know are not sent to it.
PROTOCOL_VERSION = 4
OLDEST_PROTOCOL = 1
UPGRADE_PROTOCOL = 2  # from which on agents can be told to upgrade
IMAGES_PROTOCOL = 3  # from which on agents take image orders, and ask before they pull
SERVERS_PROTOCOL = 4  # from which on there are servers
MAX_FRAME_BYTES = 8 * 1024 * 1024
MOST_ROUTES = 500  # whose errors a heartbeat of a cluster counts

RouteKey = Annotated[str, msgspec.Meta(max_length=256)]
Errors = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One replica a node should run (`run`) or stop (not `run`)."""

    replica_id: str
    deployment: str  # project/name, for labels and people
    generation: int
    run: bool
    container: ContainerSpec
    host_ports: dict[str, int] = {}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of what a machine uses; of a cluster, how often its gateways have answered with a server's error.

    `errors_5xx` is by `project/deployment:port`, of what the host deploys and where there was an error; left out by who
    has no gateways, or is too old to count.
    """

    cpus: Annotated[float, msgspec.Meta(ge=0, le=65536)] = 0.0  # bounded: JSON has neither NaN nor infinity
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    disk_free_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    containers: int = 0
    errors_5xx: Annotated[dict[RouteKey, Errors], msgspec.Meta(max_length=MOST_ROUTES)] | msgspec.UnsetType = (
        msgspec.UNSET
    )


# member -> control plane


class UpgradeReported(Frame, frozen=True, kw_only=True, tag="upgrade-failed"):
    """The agent did not become `version`, and why; it goes on as it was."""

    version: Annotated[str, msgspec.Meta(max_length=64)]
    upgrade_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    error: Annotated[str, msgspec.Meta(max_length=1024)]


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """First frame of a member."""

    protocol: int
    agent_version: str
    boot_id: str
    oldest_protocol: int = 0  # that it can speak as well; 0: only `protocol`
    instance: Annotated[str, msgspec.Meta(max_length=64)] = ""  # made at each start of the agent
    upgrade_failed: UpgradeReported | None = None  # the last one it went back from
    facts: Facts
    variables: tuple[Variable, ...] = ()
    observations: tuple[Observation, ...] = ()  # of everything the agent knows
    wireguard_key: WireguardKey = ""  # public; who sends one understands SetNetwork and ChangePeers
    relays_logs: bool = False  # a cluster that understands OpenLog and LogRead


class Heartbeat(Frame, frozen=True, kw_only=True, tag="beat"):
    """A sign of life."""

    usage: Usage = Usage()


class Observed(Frame, frozen=True, kw_only=True, tag="observed"):
    """Replicas that changed. Repeated until acknowledged."""

    batch: int
    observations: Annotated[tuple[Observation, ...], msgspec.Meta(max_length=10_000)]


class ProxyReported(Frame, frozen=True, kw_only=True, tag="proxy"):
    """What a gateway does now."""

    report: ProxyReport


class NamesReported(Frame, frozen=True, kw_only=True, tag="names"):
    """What a gateway's name server does now. Only sent to a control plane that has sent names itself."""

    report: NamesReport


class NetworkReported(Frame, frozen=True, kw_only=True, tag="network"):
    """What a member's network is now; sent when it has changed."""

    report: NetworkReport


class LogChunk(Frame, frozen=True, kw_only=True, tag="log"):
    """Lines of a log; `end` closes the stream, with `error` when it broke."""

    stream_id: str
    lines: tuple[str, ...] = ()
    end: bool = False
    error: str = ""


class RenewAsked(Frame, frozen=True, kw_only=True, tag="renew"):
    """Ask for a new certificate for the same key."""

    csr_pem: Annotated[str, msgspec.Meta(max_length=8192)]


# one control plane -> the one that leads


class MemberNews(msgspec.Struct, frozen=True, array_like=True):
    """What a control plane hears of one member whose session it holds."""

    member_id: str
    silence_seconds: Annotated[float, msgspec.Meta(ge=0)]
    usage: Usage | None = None
    report: ProxyReport | None = None
    names: NamesReport | None = None
    remotes: int = 0  # a cluster: up to which revision its gateways do what SetRemotes asked
    server: ServerReport | None = None
    server_age_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # of that report


class Digest(Frame, frozen=True, kw_only=True, tag="digest"):
    """All members whose sessions the sender holds; and of those that ended lately how long each has been silent."""

    members: tuple[MemberNews, ...]
    ended: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}  # by member id


# control plane -> member


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """The session is open."""

    member_id: str
    name: str
    heartbeat_seconds: float
    control: tuple[ControlAddress, ...] = ()  # other processes, which would do as well as this one
    lease: Lease
    source_address: str = ""  # where the session comes from, as seen here; empty: it is not known
    protocol: int = 0  # that this session speaks; 0: less than IMAGES_PROTOCOL, from which on it is said
    labels: Labels = {}  # that a cluster has been given; others are not told theirs
    lead: Annotated[str, msgspec.Meta(max_length=128)] = ""  # whose orders a cluster gets; empty: nobody leads just now


class Reject(Frame, frozen=True, kw_only=True, tag="reject"):
    """The session is refused; `final` means that asking again will not help (removed, revoked).

    `clean`: the member was removed; it should stop and remove what it runs for us, and forget who it was.
    """

    reason: str
    final: bool = False
    clean: bool = False


class Assign(Frame, frozen=True, kw_only=True, tag="assign"):
    """What a node should run. `full` replaces everything; otherwise `assignments` change and `removed` leave.

    A full one also says the newest serial that is stored of each replica (`serials`): an agent whose clock was set back
    while it was away would otherwise go on below it, and not be heard.
    """

    revision: int
    full: bool
    assignments: tuple[Assignment, ...] = ()
    removed: tuple[str, ...] = ()
    serials: dict[str, int] = {}


class SetProxy(Frame, frozen=True, kw_only=True, tag="set-proxy"):
    """What a gateway should do."""

    state: ProxyState


class SetNames(Frame, frozen=True, kw_only=True, tag="set-names"):
    """Names a gateway should serve. Only sent to those that said they do, for others do not know this frame."""

    change: NamesChange


class SetNetwork(Frame, frozen=True, kw_only=True, tag="set-network"):
    """What a member's network should be; replaces everything it was told."""

    state: NetworkState


class ChangePeers(Frame, frozen=True, kw_only=True, tag="change-peers"):
    """What has changed in a member's overlay: peers that are new or different, and the keys of those that left.

    Everybody in a pool is told the same, so a member may find itself in it.
    """

    changed: tuple[NetworkPeer, ...] = ()
    removed: tuple[WireguardKey, ...] = ()
    name_servers: tuple[str, ...] | None = None  # all of them; None: as they were


class ObservedAck(Frame, frozen=True, kw_only=True, tag="ack"):
    """The observations of `batch` are stored."""

    batch: int


class OpenLog(Frame, frozen=True, kw_only=True, tag="open-log"):
    """Send a replica's log as LogChunk frames under `stream_id`.

    A cluster is asked for what it was ordered of `deployment_id`: for the log of this replica of it, or, when none is
    named, for those of all that it has now, each line behind its replica's id. Only one that relays logs is asked.
    """

    stream_id: str
    replica_id: str
    deployment_id: str = ""
    follow: bool = False
    tail: int = 100


class CloseLog(Frame, frozen=True, kw_only=True, tag="close-log"):
    """Nobody reads the stream any more."""

    stream_id: str


class ControlMoved(Frame, frozen=True, kw_only=True, tag="control"):
    """There are other processes of the control plane than before, beside this one; any of them may be dialled."""

    control: tuple[ControlAddress, ...]


class Renewed(Frame, frozen=True, kw_only=True, tag="renewed"):
    """A new certificate."""

    identity: Identity


class Upgrade(Frame, frozen=True, kw_only=True, tag="upgrade"):
    """Become the agent of another version: `package` is a wheel with this hash.

    An agent that gets no session within `trial_seconds` goes back to what it was.
    """

    upgrade_id: str
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9][0-9A-Za-z.+!_-]{0,63}$(?!\n)")]
    trial_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    sha256: str
    package: bytes


class Goodbye(Frame, frozen=True, kw_only=True, tag="goodbye"):
    """Either side closes on purpose; a member that leaves so is not at once suspect.

    `stale`: a cluster does not obey this control plane, for another with the same identity has spoken since.
    """

    reason: str = ""
    stale: bool = False


FromMember = (
    Hello
    | Heartbeat
    | Observed
    | ProxyReported
    | NamesReported
    | NetworkReported
    | LogChunk
    | RenewAsked
    | UpgradeReported
    | ImageTasksReported
    | ImageProgressed
    | ImagesReported
    | PullAsked
    | BlobsChanged
    | SharesReported
    | RoomReported
    | RemotesApplied
    | ServerReported
    | VmTokenAsked
    | ServerLeaving
    | Goodbye
)
ToMember = (
    Welcome
    | Reject
    | Assign
    | SetProxy
    | SetNames
    | SetNetwork
    | ChangePeers
    | ObservedAck
    | OpenLog
    | LogRead
    | CloseLog
    | ControlMoved
    | Renewed
    | Upgrade
    | SetImageTasks
    | ImageTasksStored
    | PullGranted
    | SetShares
    | SharesStored
    | AskRoom
    | SetRemotes
    | Withdrawn
    | SetLending
    | VmTokenGranted
    | Goodbye
)

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_from_member: msgspec.msgpack.Decoder[FromMember] = msgspec.msgpack.Decoder(FromMember)
_digest: msgspec.msgpack.Decoder[Digest] = msgspec.msgpack.Decoder(Digest)
_to_member: msgspec.msgpack.Decoder[ToMember] = msgspec.msgpack.Decoder(ToMember)


def encode_frame(frame: Frame) -> bytes:
    """Return the frame with its length before it.

    Raises ValueError when it is larger than MAX_FRAME_BYTES.
    """
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a {type(frame).__name__} frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def decode_from_member(body: bytes) -> FromMember:
    """Read a frame's body as a member sends it. Raises msgspec.DecodeError (ValidationError for a wrong shape)."""
    return _decoded(_from_member, body)


def decode_digest(body: bytes) -> Digest:
    """Read a frame's body as another control plane sends it. Raises msgspec.DecodeError."""
    return _decoded(_digest, body)


def decode_to_member(body: bytes) -> ToMember:
    """Read a frame's body as a control plane sends it. Raises msgspec.DecodeError."""
    return _decoded(_to_member, body)
