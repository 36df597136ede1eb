"""Asking the control plane's name server, as any program's resolver would."""

import dns.message
import dns.query
import dns.rdatatype

from fallow.model.names import DEFAULT_DOMAIN

TIMEOUT_SECONDS = 2.0


class Names:
    """The name server at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    @property
    def place(self) -> str:
        """Return where it listens, as HOST:PORT."""
        return f"{self._host}:{self._port}"

    def full(self, name: str) -> str:
        """Return a name with the cluster's domain behind it."""
        return f"{name}.{DEFAULT_DOMAIN}"

    def addresses(self, name: str) -> list[str]:
        """Return the IPv4 addresses of a name below the cluster's domain, sorted; none when there is no such name."""
        question = dns.message.make_query(self.full(name), dns.rdatatype.A)
        answer = dns.query.udp(question, self._host, TIMEOUT_SECONDS, self._port)
        return sorted(record.address for found in answer.answer for record in found)
