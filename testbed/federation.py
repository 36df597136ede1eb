"""Several Fallows on one fabric: a host, and member clusters, each with a machine for its control plane."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.cluster import Cluster


@dataclass
class Federation:
    """A host and the clusters that are its members, by name."""

    host: Cluster
    members: dict[str, Cluster] = field(default_factory=dict)

    def add(self, sizes: Mapping[str, int]) -> None:
        """Start further control planes, each with so many nodes of its own; they have not joined the host yet."""
        for name in sizes:
            self.members[name] = self.cluster(name)
        nodes = {name: [f"{name}-{number + 1}" for number in range(size)] for name, size in sizes.items()}
        for name, names in nodes.items():  # machines boot while control planes start
            self.members[name].power_on(*names)
        for name, names in nodes.items():
            cluster = self.members[name]
            cluster.start_server()
            self.started(cluster)
            join_nodes(cluster, *names)
        for name, names in nodes.items():
            self.members[name].wait_ready(*names)

    def cluster(self, name: str) -> Cluster:
        """Return a cluster of which nothing runs yet."""
        return Cluster(self.host.fabric, insecure_registries=self.host.insecure_registries, name=name)

    def started(self, cluster: Cluster) -> None:
        """Do what a cluster needs before it has nodes: nothing, for its host tells it of registries."""

    def join(self, name: str, *labels: str, seconds: float = 20) -> None:
        """Let a cluster join the host, and wait until it is ready there."""
        options = [word for label in labels for word in ("--label", label)]
        token = self.host.fallow("cluster", "token", "create", "--name", name, "--quiet", *options).strip()
        self.members[name].fallow("cluster", "join", self.host.url, token)
        self.host.wait(lambda: self.state_of(name) == "ready", seconds, f"cluster {name} ready")

    def clusters(self) -> dict[str, dict[str, Any]]:
        """Return clusters by name, as the host sees them."""
        known = self.host.ask(lambda client: client.clusters.all())["items"]
        return {found["member"]["name"]: found for found in known}

    def state_of(self, name: str) -> str:
        """Return how the host sees a cluster; empty: it does not know it."""
        found = self.clusters().get(name)
        return str(found["member"]["state"]) if found is not None else ""

    def ready(self, deployment: str) -> dict[str, int]:
        """Return how many replicas of a deployment (project/name) are ready in each cluster, as the host sees it."""
        return {share["cluster"]: share["ready"] for share in self.division(deployment)["shares"]}

    def division(self, deployment: str) -> dict[str, Any]:
        """Return a deployment's (project/name) division as the host tells it."""
        project, _, name = deployment.partition("/")
        return dict(self.host.ask(lambda client: client.clusters.division(project, name)))

    def kill(self, name: str) -> None:
        """Cut the power of a cluster: its control plane, and every machine it has."""
        cluster = self.members[name]
        cluster.kill_server()
        for node in cluster.nodes.values():
            node.power_cut()

    def close(self) -> None:
        """Stop everything, members first; the fabric is closed by whoever made it."""
        for cluster in self.members.values():
            cluster.close()
        self.host.close()


def join_nodes(cluster: Cluster, *names: str) -> None:
    """Let machines that are switched on join a cluster as nodes of their own name, without waiting for that."""
    for name in names:
        cluster.nodes[name].wait_ready()
        cluster.join(name, "--name", name, token=cluster.token("node"))
