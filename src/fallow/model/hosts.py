"""The host of a member cluster, as the member knows it."""

from typing import Annotated

import msgspec

from fallow.model.labels import Labels
from fallow.model.meta import Record

HOST_ID = "host"
REGION_LABEL = "region"  # of clusters, and of gateways


class Host(Record, frozen=True, kw_only=True):
    """Whose member this cluster is; there is one such record, or none. The key and certificate lie sealed beside it."""

    url: str
    member_id: str
    name: str  # what the host calls this cluster
    labels: Labels = {}  # that the host has given it
    joined_at: float = 0.0
    refused: str = ""  # why the host will not have us any more


class HostRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become a member of a host."""

    url: Annotated[str, msgspec.Meta(max_length=1024)]
    token: Annotated[str, msgspec.Meta(max_length=256)]
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""  # empty: the token's, or made from this machine's


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
