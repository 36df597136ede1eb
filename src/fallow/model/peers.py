"""Control-plane processes that share one store: each is a peer of the others, and one of them leads."""

from typing import Annotated

import msgspec

from fallow.model.labels import LabelValue
from fallow.model.meta import Record

# The role a peer's certificate names, beside those of members.
PEER_ROLE = "control"
LEADER_ID = "loops"


class ControlAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one control-plane process is reached: its API, and the listener for sessions.

    `session_host` is empty where members should use the host they joined at.
    """

    url: Annotated[str, msgspec.Meta(max_length=1024)]
    session_host: Annotated[str, msgspec.Meta(max_length=256)] = ""
    session_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Peer(Record, frozen=True, kw_only=True):
    """One control-plane process; its record is there for as long as it lives."""

    address: ControlAddress
    version: str = ""
    hostname: str = ""
    region: LabelValue = ""
    zone: LabelValue = ""


class Leader(Record, frozen=True, kw_only=True):
    """Which peer runs the control loops. Whatever they commit is guarded by this record's revision."""

    peer_id: str


class Roster(Record, frozen=True, kw_only=True):
    """Written anew with every record that has to differ from all others of its kind, in a name, a port or a key.

    Two peers that decide so from the same picture cannot both commit. `id` is the kind.
    """


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """A peer as the API shows it."""

    id: str
    url: str
    session_host: str
    session_port: int
    hostname: str
    region: str
    zone: str
    version: str
    started_at: float
    leads: bool
    answers: bool  # it is the one that answered this very request
