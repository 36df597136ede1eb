"""What a scrape tells of the cluster: counts by state, read from the snapshot at that moment; no names of workloads."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fallow.api.services import Services
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import ReplicaState
from fallow.model.members import MemberState, Role
from fallow.model.vms import VmState


class ClusterCollector(Collector):
    """Counts members, replicas and sessions at scrape time."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: what is counted is known only once the store is open."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge; states without a member or replica are there as 0."""
        snapshot = self._services.cache.snapshot()
        members = GaugeMetricFamily("fallow_members", "Members by role and state", labels=["role", "state"])
        by_state = Counter((member.role, member.state) for member in snapshot.members.values())
        for role in (Role.NODE, Role.GATEWAY, Role.SERVER, Role.CLUSTER):
            for state in MemberState:
                members.add_metric([role, state], by_state[role, state])
        yield members
        replicas = GaugeMetricFamily("fallow_replicas", "Replicas by state", labels=["state"])
        by_life = Counter(replica.state for replica in snapshot.replicas.values())
        for life in ReplicaState:
            replicas.add_metric([life], by_life[life])
        yield replicas
        healthy = sum(replica.healthy for replica in snapshot.replicas.values())
        yield _gauge("fallow_replicas_healthy", "Running replicas whose probes succeed", healthy)
        yield _gauge("fallow_deployments", "Deployments", len(snapshot.deployments))
        yield _gauge("fallow_store_revision", "Newest revision seen of the store", snapshot.revision)
        yield _gauge("fallow_sessions", "Members with an open session", len(self._services.hub.links()))
        yield _gauge("fallow_api_streams", "Open watches and log streams", self._services.limits.streams)
        yield from self._servers(snapshot)

    def _servers(self, snapshot: Snapshot) -> Iterator[Metric]:
        """Yield what servers lend, of those that were heard of late: one that is silent has no value."""
        heard = self._services.hub.servers()
        cpus = GaugeMetricFamily("fallow_server_cpus", "Processors of servers by use", labels=["server", "use"])
        memory = GaugeMetricFamily("fallow_server_memory_bytes", "Memory of servers by use", labels=["server", "use"])
        throttled = GaugeMetricFamily(
            "fallow_server_throttled", "Share of the time that what is lent waits for its limit", labels=["server"]
        )
        for id_, server in snapshot.servers.items():
            found = heard.get(id_)
            if found is None or not found.fresh:
                continue
            for use in ("primary", "system", "lent", "limit", "predicted", "offer"):
                cpus.add_metric([server.name, use], getattr(found.report, f"{use}_cpus"))
                memory.add_metric([server.name, use], getattr(found.report, f"{use}_memory_bytes"))
            cpus.add_metric([server.name, "capacity"], found.report.cpus)
            memory.add_metric([server.name, "capacity"], found.report.memory_bytes)
            throttled.add_metric([server.name], found.report.throttled)
        yield from (cpus, memory, throttled)
        states = GaugeMetricFamily("fallow_vms", "Virtual machines by state", labels=["state"])
        by_state = Counter(vm.state for vm in snapshot.vms.values())
        for state in VmState:
            states.add_metric([state], by_state[state])
        yield states


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
