"""What an operator may set about a control plane."""

from dataclasses import dataclass
from pathlib import Path

from fallow.model.members import Thresholds
from fallow.model.names import DEFAULT_DOMAIN, domain_name
from fallow.model.pools import PortRange

DEFAULT_HOST_PORTS = PortRange(first=20000, last=29999)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One control plane's settings; the same for its whole life. Times are in seconds.

    `session_host`: where members open their sessions; empty: the host that answered them. `public_url`: what people
    and machines are told to call, such as `https://10.0.0.5:8443`. A node gets `host_ports_per_node` ports of
    `host_ports`, none of them shared with another node of the same address. `domain`: below it members and services
    have DNS names. `cluster_key`: the file with the key that seals secrets; None: in the data folder.
    """

    name: str = "default"
    session_host: str = ""
    session_port: int = 8444
    public_url: str = ""
    heartbeat_seconds: float = 1.0
    suspect_after_seconds: float = 3.0
    dead_after_seconds: float = 8.0
    cluster_suspect_seconds: float = 5.0
    cluster_dead_seconds: float = 10.0
    certificate_seconds: float = 86400.0
    join_token_seconds: float = 1800.0
    host_ports: PortRange = DEFAULT_HOST_PORTS
    host_ports_per_node: int = 1000
    drain_seconds: float = 30.0
    domain: str = DEFAULT_DOMAIN
    purge_after_seconds: float = 86400.0  # of being dead; 0: never
    keep_events: int = 10_000  # the newest
    keep_audit_seconds: float = 400 * 86400.0
    cluster_key: Path | None = None
    keep_image_tasks_seconds: float = 30 * 86400.0  # of jobs that have ended
    pulls_per_registry: int = 64  # of all image jobs at once
    region: str = ""  # where this process stands, as others are told
    zone: str = ""

    @property
    def cluster_thresholds(self) -> Thresholds:
        """Return those of clusters that have none of their own."""
        return Thresholds(
            suspect_after_seconds=self.cluster_suspect_seconds, dead_after_seconds=self.cluster_dead_seconds
        )

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other. Raises ValueError."""
        if not 0 < self.heartbeat_seconds < self.suspect_after_seconds < self.dead_after_seconds:
            raise ValueError("heartbeat, suspect and dead times must be positive, and each longer than the one before")
        if not self.heartbeat_seconds < self.cluster_suspect_seconds < self.cluster_dead_seconds:
            raise ValueError("a cluster is suspect after more than a heartbeat, and dead later than suspect")
        if (
            min(self.certificate_seconds, self.join_token_seconds) <= 0
            or min(self.drain_seconds, self.purge_after_seconds) < 0
        ):
            raise ValueError(
                "certificate and join token times must be positive, the drain and purge times not negative"
            )
        if self.keep_events < 1 or self.keep_audit_seconds <= 0:
            raise ValueError("at least one event, and the audit record for some time, must be kept")
        if self.keep_image_tasks_seconds <= 0 or self.pulls_per_registry < 1:
            raise ValueError("image jobs must be kept for some time, and pull at least one image at once")
        if not 1 <= self.session_port <= 65535:
            raise ValueError(f"members cannot open sessions at port {self.session_port}")
        if domain_name(self.domain) != self.domain:
            raise ValueError(
                f"the domain of names is written in lower case and without a dot at its end: {self.domain}"
            )
        first, last = self.host_ports.first, self.host_ports.last
        if not (1 <= first <= last <= 65535 and 1 <= self.host_ports_per_node <= last - first + 1):
            raise ValueError(f"host ports {first}-{last} do not hold {self.host_ports_per_node} ports for one node")
