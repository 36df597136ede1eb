"""DNS names: what they are made of, as it crosses a session and lies on a gateway's disk, and what is told of it."""

import re
from typing import Annotated, Literal

import msgspec

from fallow.model.problems import Page

DEFAULT_DOMAIN = "fallow.internal"
# What gateways report that serve names, at which port; those that do not are never sent any.
DNS_PORT_VARIABLE = "dns.port"

# So that the longest name made below it still fits in the 253 characters of a DNS name.
MAX_DOMAIN = 100
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")

HostRole = Literal["node", "gateway"]
RecordType = Literal["A", "AAAA", "SRV", "PTR", "NS", "SOA", "HINFO"]


def domain_name(text: str) -> str:
    """Return a domain as it is compared, in lower case and without a dot at its end. Raises ValueError."""
    found = text.lower().removesuffix(".")
    if not _DOMAIN.match(found) or len(found) > MAX_DOMAIN or found.rpartition(".")[2] == "arpa":
        raise ValueError(f"{text!r} cannot be the domain of names: write a DNS name of at most {MAX_DOMAIN} characters")
    return found


class HostName(msgspec.Struct, frozen=True, array_like=True):
    """`NAME.node.DOMAIN` or `NAME.gateway.DOMAIN`, and its address."""

    role: HostRole
    name: str
    address: str


class ServiceEndpoint(msgspec.Struct, frozen=True, array_like=True):
    """One replica that is ready; `host_ports` as in a replica: "8080/tcp" -> 20001."""

    replica: str
    address: str
    host_ports: dict[str, int] = {}


class ServiceName(msgspec.Struct, frozen=True, array_like=True):
    """`NAME.PROJECT.svc.DOMAIN`, the ports its containers listen on ("8080/tcp"), and its ready endpoints by id."""

    project: str
    name: str
    ports: tuple[str, ...] = ()
    endpoints: tuple[ServiceEndpoint, ...] = ()


class NamesChange(msgspec.Struct, frozen=True, kw_only=True):
    """All names at `revision`, or what differs from those at revision `since`, when that is not 0."""

    domain: str
    revision: int
    since: int = 0
    hosts: tuple[HostName, ...] = ()
    services: tuple[ServiceName, ...] = ()
    gone_hosts: tuple[tuple[str, str], ...] = ()  # role, name
    gone_services: tuple[tuple[str, str], ...] = ()  # project, name
    reverse: tuple[str, ...] = ()  # apexes of reverse zones; always all of them
    servers: tuple[str, ...] = ()  # addresses of gateways that serve names; always all of them


class NamesReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one name server does; of a gateway, what it says of itself."""

    revision: int = 0  # of the names it serves; 0: it has none
    listens: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()  # HOST:PORT
    queries: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0  # since it started
    queries_per_second: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    rcodes: Annotated[dict[str, int], msgspec.Meta(max_length=32)] = {}  # NOERROR -> answers since it started
    message: Annotated[str, msgspec.Meta(max_length=500)] = ""  # what keeps it from serving, if anything does


class DnsRecord(msgspec.Struct, frozen=True):
    """One resource record; names are in lower case and without a dot at their end."""

    name: str
    type: RecordType
    ttl: int  # seconds
    value: str  # as zone files write it


class DnsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a name server answers to a question."""

    name: str
    type: str
    rcode: Literal["NOERROR", "NXDOMAIN", "REFUSED"]
    answers: tuple[DnsRecord, ...] = ()
    authority: tuple[DnsRecord, ...] = ()
    additional: tuple[DnsRecord, ...] = ()
    meaning: str = ""  # in words


class DnsServer(msgspec.Struct, frozen=True, kw_only=True):
    """One place where names are served."""

    name: str  # of the gateway; "control plane" for the process that answers
    address: str
    report: NamesReport
    current: bool  # it serves the newest names
    last_heard_seconds: float = 0.0  # how long ago it said so


class DnsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Names as a whole: their domain, how many, how new, and where they are served."""

    domain: str
    revision: int  # of the store, when names last changed
    age_seconds: float  # since they last changed
    hosts: int
    services: int
    endpoints: int
    servers: tuple[DnsServer, ...] = ()
    ask: str = ""  # a command that asks; empty: names are served nowhere


class DnsRecordList(Page, frozen=True, kw_only=True):
    """Records, by name."""

    items: tuple[DnsRecord, ...]
