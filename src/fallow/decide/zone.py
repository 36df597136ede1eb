"""What a name server answers: a zone, never changed once made, and the lookup in it.

Records are made when they are asked for, so a new zone costs no more than what has changed in it. Questions are tuples
of labels, never text: a label may hold any byte, a dot too, and one that does simply equals no name of ours.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from fallow.decide.reverse import Labels, Reverse
from fallow.model.names import DnsRecord, HostName, ServiceName

HOST_TTL = 5
SERVICE_TTL = 1
ZONE_TTL = 60
NEGATIVE_TTL = 1  # so long others may remember that a name is not there (RFC 2308)
REFRESH, RETRY, EXPIRE = 60, 10, 86400  # for secondaries, which there are not: zones are not transferred
_SERIALS = 2**32

_PROTOCOLS = {"_tcp": "tcp", "_udp": "udp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What there is to say to a question; `authority` holds the SOA that tells for how long "no" may be remembered."""

    rcode: Literal["NOERROR", "NXDOMAIN", "REFUSED"]
    answers: tuple[DnsRecord, ...] = ()
    authority: tuple[DnsRecord, ...] = ()
    additional: tuple[DnsRecord, ...] = ()


REFUSED = Found(rcode="REFUSED")


@dataclass(frozen=True, kw_only=True)
class Zone:
    """All names below `domain` as they were at store revision `revision`, and the reverse zones of their addresses.

    `hosts` by role and name, `services` by project and name, `servers` the addresses of gateways that serve names.
    """

    domain: str
    revision: int = 0
    hosts: Mapping[tuple[str, str], HostName] = field(default_factory=dict)
    services: Mapping[tuple[str, str], ServiceName] = field(default_factory=dict)
    reverse: Reverse
    servers: tuple[str, ...] = ()

    def find(self, name: Labels, wanted: str) -> Found:
        """Return the answer to a question: labels in lower case, and a type as zone files write it (`A`, `ANY`)."""
        name = tuple(label.replace(".", "\\.") for label in name)
        below = self._below(name)
        if below is not None:
            return self._found(self.domain, self._forward(below), wanted)
        apex = self.reverse.apex(name)
        return REFUSED if apex is None else self._found(apex, self._backward(name, apex), wanted)

    def records(self) -> Iterable[DnsRecord]:
        """Yield every record of the domain and its reverse zones."""
        yield from self._apex(self.domain)
        yield from self._name_server()
        for role, name in sorted(self.hosts):
            yield from self._forward((name, role)) or ()
        for project, name in sorted(self.services):
            yield from self._forward((name, project, "svc")) or ()
            for endpoint in self.services[project, name].endpoints:
                yield from self._forward((endpoint.replica, name, project, "svc")) or ()
        for address, owners in sorted(self.reverse.owners.items()):
            yield from _pointers(ipaddress.ip_address(address).reverse_pointer, owners)

    def _below(self, name: Labels) -> Labels | None:
        """Return what stands before the domain; None when the name is not in it."""
        length = len(self._domain_labels)
        return name[:-length] if name[-length:] == self._domain_labels else None

    @cached_property
    def _domain_labels(self) -> Labels:
        return tuple(self.domain.split("."))

    def _found(self, apex: str, records: Sequence[DnsRecord] | None, wanted: str) -> Found:
        """Choose from the records of a name: None when there is no such name, nothing when it only leads to others."""
        if records is None:
            return Found(rcode="NXDOMAIN", authority=(self._soa(apex, NEGATIVE_TTL),))
        if wanted == "ANY" and records:
            # A whole name's records would be a gift to whoever forges senders (RFC 8482).
            return Found(rcode="NOERROR", answers=(DnsRecord(records[0].name, "HINFO", ZONE_TTL, '"RFC8482" ""'),))
        answers = tuple(record for record in records if record.type == wanted)
        if not answers:
            return Found(rcode="NOERROR", authority=(self._soa(apex, NEGATIVE_TTL),))
        return Found(rcode="NOERROR", answers=answers, additional=self._additional(answers))

    def _additional(self, answers: Sequence[DnsRecord]) -> tuple[DnsRecord, ...]:
        """Return the addresses of what SRV and NS records lead to."""
        targets = [record.value.rpartition(" ")[2] for record in answers if record.type in ("SRV", "NS")]
        found: list[DnsRecord] = []
        for target in dict.fromkeys(targets):
            below = self._below(tuple(target.split("."))) or ()
            found += [record for record in self._forward(below) or () if record.type in ("A", "AAAA")]
        return tuple(found)

    def _forward(self, below: Labels) -> Sequence[DnsRecord] | None:
        """Return the records of a name of the domain; none when names only begin there, None when there is no such."""
        match below:
            case ():
                return self._apex(self.domain)
            case ("ns",):
                return self._name_server()
            case ("node",) | ("gateway",):
                return ()
            case (name, ("node" | "gateway") as role):
                host = self.hosts.get((role, name))
                return None if host is None else (_address(f"{name}.{role}.{self.domain}", HOST_TTL, host.address),)
            case (*rest, "svc"):
                return self._services(tuple(rest))
        return None

    def _services(self, below: Labels) -> Sequence[DnsRecord] | None:
        match below:
            case ():
                return ()
            case (project,):
                return () if project in self._projects else None
            case (*rest, name, project) if (service := self.services.get((project, name))) is not None:
                return self._of_service(tuple(rest), service)
        return None

    def _of_service(self, rest: Labels, service: ServiceName) -> Sequence[DnsRecord] | None:
        base = f"{service.name}.{service.project}.svc.{self.domain}"
        match rest:
            case ():
                addresses = dict.fromkeys(endpoint.address for endpoint in service.endpoints)
                found = [_address(base, SERVICE_TTL, address) for address in addresses]
                return found + _locations(base, base, service, "")
            case (protocol,) if protocol in _PROTOCOLS:
                suffix = f"/{_PROTOCOLS[protocol]}"
                return () if any(port.endswith(suffix) for port in _ports(service)) else None
            case (replica,):
                named = (endpoint for endpoint in service.endpoints if endpoint.replica == replica)
                return [_address(f"{replica}.{base}", SERVICE_TTL, each.address) for each in named] or None
            case (port, protocol) if protocol in _PROTOCOLS and port.startswith("_"):
                key = f"{port[1:]}/{_PROTOCOLS[protocol]}"
                return _locations(f"{port}.{protocol}.{base}", base, service, key) if key in _ports(service) else None
        return None

    def _apex(self, apex: str) -> Sequence[DnsRecord]:
        return (self._soa(apex, ZONE_TTL), DnsRecord(apex, "NS", ZONE_TTL, f"ns.{self.domain}"))

    def _soa(self, apex: str, ttl: int) -> DnsRecord:
        numbers = f"{self.revision % _SERIALS} {REFRESH} {RETRY} {EXPIRE} {NEGATIVE_TTL}"
        return DnsRecord(apex, "SOA", ttl, f"ns.{self.domain} hostmaster.{self.domain} {numbers}")

    def _name_server(self) -> Sequence[DnsRecord]:
        return [_address(f"ns.{self.domain}", HOST_TTL, address) for address in self.servers]

    def _backward(self, name: Labels, apex: str) -> Sequence[DnsRecord] | None:
        own = ".".join(name)
        owners = self.reverse.names(name)
        top = self._apex(apex) if own == apex else ()
        return (*top, *_pointers(own, owners or ())) if top or owners is not None else None

    @cached_property
    def _projects(self) -> frozenset[str]:
        return frozenset(project for project, _ in self.services)


def _address(name: str, ttl: int, address: str) -> DnsRecord:
    return DnsRecord(name, "AAAA" if ":" in address else "A", ttl, address)


def _pointers(name: str, owners: Iterable[str]) -> list[DnsRecord]:
    return [DnsRecord(name, "PTR", HOST_TTL, owner) for owner in owners]


def _ports(service: ServiceName) -> set[str]:
    """Return what its containers listen on, by what is wanted now and by what endpoints were made of."""
    return {*service.ports, *(port for endpoint in service.endpoints for port in endpoint.host_ports)}


def _locations(name: str, base: str, service: ServiceName, only: str) -> list[DnsRecord]:
    """Return SRV records for the host ports of all endpoints, of one container port or (empty) of all."""
    return [
        DnsRecord(name, "SRV", SERVICE_TTL, f"0 100 {host_port} {endpoint.replica}.{base}")
        for endpoint in service.endpoints
        for port, host_port in sorted(endpoint.host_ports.items())
        if not only or port == only
    ]
