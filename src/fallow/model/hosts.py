"""The host of a member cluster, as the member knows it."""

from typing import Annotated

import msgspec

from fallow.model.labels import Labels
from fallow.model.members import Identity
from fallow.model.meta import Record
from fallow.model.peers import ControlAddress

HOST_ID = "host"  # of the host's record, and of the secret beside it
SEALED_ABOUT = "key and certificate at a host"  # what is sealed there
REGION_LABEL = "region"  # of clusters, and of members
ZONE_LABEL = "zone"


class Host(Record, frozen=True, kw_only=True):
    """Whose member this cluster is; there is one such record, or none. The key and certificate lie sealed beside it."""

    url: str
    member_id: str
    name: str  # what the host calls this cluster
    labels: Labels = {}  # that the host has given it
    joined_at: float = 0.0
    refused: str = ""  # why the host will not have us any more
    # observed by the process that leads; times by our own clock
    control: tuple[ControlAddress, ...] = ()  # its processes, as it told them last
    connected: bool = False
    since: float = 0.0  # connected or not
    heard_at: float = 0.0  # what we sent then, the host has answered; written seldom, for those that are fenced
    leads: tuple[str, ...] = ()  # whoever led there when it was heard, the newest last
    problem: str = ""  # why there is no session


class HostKey(msgspec.Struct, frozen=True, kw_only=True):
    """What proves us to a host; stored only sealed. Without an identity the host has not answered yet."""

    key_pem: str
    ca_sha256: str  # of the host's CA, as the token told it
    identity: Identity | None = None
    saved_at: float = 0.0  # when the certificate was given, by our clock

    def __repr__(self) -> str:
        """Keep the key out of logs and tracebacks."""
        return f"HostKey({self.ca_sha256[:16]})"


class HostRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become a member of a host."""

    url: Annotated[str, msgspec.Meta(max_length=1024)]
    token: Annotated[str, msgspec.Meta(max_length=256)]
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""  # empty: the token's, or made from this machine's

    def __repr__(self) -> str:
        """Keep the token out of logs and tracebacks."""
        return f"HostRequest({self.url}, {self.name})"


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """Whose member this cluster is, and whether they speak."""

    url: str
    name: str
    connected: bool
    since: float  # connected or not
    joined_at: float
    labels: dict[str, str] = {}
    shares: int = 0
    refused: str = ""
    problem: str = ""
