"""DNS names: which there are, where they are served, and what is answered to a question."""

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import get
from litestar.params import QueryParameter
from litestar.types import Guard

from fallow.api.problems import problems
from fallow.api.services import Needs, Services
from fallow.decide.names import dns_port
from fallow.decide.zone import Found, Zone
from fallow.model.members import Member
from fallow.model.names import DnsAnswer, DnsRecordList, DnsServer, DnsStatus, NamesReport
from fallow.model.tokens import ApiRole

OWN = "control plane"

Name = Annotated[str, QueryParameter(min_length=1, max_length=255)]
Type = Annotated[str, QueryParameter(pattern=r"^[A-Za-z0-9]{0,16}$(?!\n)")]
Project = Annotated[str, QueryParameter(max_length=40)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of DNS names."""
    viewer = [guards[ApiRole.VIEWER]]
    return (
        get("/v1/dns", guards=viewer, responses=problems())(dns_status),
        get("/v1/dns/records", guards=viewer, responses=problems())(list_records),
        get("/v1/dns/query", guards=viewer, responses=problems())(query_name),
    )


async def dns_status(services: Needs) -> DnsStatus:
    """Say which domain is served, how many names are in it, how new they are, and where they are served."""
    names, zone = services.names, _zone(services)
    own = names.report()
    servers = [DnsServer(name=OWN, address="", report=own, current=True)] if own.listens else []
    gateways = services.cache.snapshot().gateways.values()
    servers += [
        _gateway(services, found, zone) for found in sorted(gateways, key=lambda found: found.name) if dns_port(found)
    ]
    return DnsStatus(
        domain=zone.domain,
        revision=zone.revision,
        age_seconds=round(names.age_seconds, 3),
        hosts=len(zone.hosts),
        services=len(zone.services),
        endpoints=sum(len(found.endpoints) for found in zone.services.values()),
        servers=tuple(servers),
        ask=_how_to_ask(zone, servers),
    )


async def list_records(services: Needs, project: Project = "") -> DnsRecordList:
    """List every record that is served, or those of one project's services."""
    zone = _zone(services)
    end = f".{project}.svc.{zone.domain}"
    found = (record for record in zone.records() if not project or record.name.endswith(end))
    return DnsRecordList(revision=services.cache.revision, items=tuple(found))


async def query_name(services: Needs, name: Name, type: Type = "") -> DnsAnswer:  # noqa: A002 - the field's word
    """Answer a question as the name server would; `name` may be an address, whose names are asked for then."""
    wanted = type.upper() or "A"
    try:
        name = ipaddress.ip_address(name).reverse_pointer
        wanted = type.upper() or "PTR"
    except ValueError:
        name = name.lower().removesuffix(".")
    zone = _zone(services)
    found = zone.find(tuple(name.split(".")), wanted)
    return DnsAnswer(
        name=name,
        type=wanted,
        rcode=found.rcode,
        answers=found.answers,
        authority=found.authority,
        additional=found.additional,
        meaning=_meaning(found, wanted, zone),
    )


def _zone(services: Services) -> Zone:
    return services.names.zone or services.names.empty


def _gateway(services: Services, gateway: Member, zone: Zone) -> DnsServer:
    report = services.hub.names_report(gateway.id) or NamesReport()
    return DnsServer(
        name=gateway.name,
        address=gateway.lease.address,
        report=report,
        current=report.revision == zone.revision,
        last_heard_seconds=round(services.hub.silences().get(gateway.id, -1.0), 1),
    )


def _how_to_ask(zone: Zone, servers: Sequence[DnsServer]) -> str:
    """Return a command that asks the first server there is."""
    example = next((f"{name}.{role}" for role, name in sorted(zone.hosts)), "NAME.node")
    for server in servers:
        for place in server.report.listens:
            host, _, port = place.rpartition(":")
            host = host.strip("[]")
            if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
                host = server.address or "127.0.0.1"
            return f"dig @{host} -p {port} {example}.{zone.domain}"
    return ""


def _meaning(found: Found, wanted: str, zone: Zone) -> str:
    if found.rcode == "REFUSED":
        return f"only names below {zone.domain} and of members' addresses are answered here"
    if found.rcode == "NXDOMAIN":
        return "there is no such name"
    return "" if found.answers else f"the name exists, but has no {wanted} record now"
