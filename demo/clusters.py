"""The second act: two further clusters join, take everything over, one is drained, and one is lost."""

import time
from dataclasses import dataclass

from demo.load import Load
from demo.screen import Screen
from testbed.cluster import Cluster
from testbed.federation import Federation

NODES_EACH = 2
CLUSTERS = ("west", "east")
SETTLE_SECONDS = 2.0


@dataclass
class ClusterFigures:
    """What the second act measured; times in seconds."""

    moved_after: float = 0.0
    drained_after: float = 0.0
    killed_at: float = 0.0
    suspected_at: float = 0.0
    full_strength_again: float = 0.0


class Clusters:
    """Member clusters beside the one that plays the first act, which becomes their host."""

    def __init__(self, host: Cluster, screen: Screen) -> None:
        self.host = host
        self.screen = screen
        self.federation = Federation(host)
        self.figures = ClusterFigures()

    def join(self) -> None:
        """Start two clusters with machines of their own, and let them join."""
        self.federation.add(dict.fromkeys(CLUSTERS, NODES_EACH))
        for name in CLUSTERS:
            self.federation.join(name, f"region={name}")
        self.screen.say(self.host.fallow("cluster", "list"))

    def take_over(self) -> None:
        """Empty the first cluster as a whole: the two new ones run everything from now on."""
        self.screen.say(self.host.fallow("plan", "drain", "here"))
        self.figures.moved_after = self._drain("here")

    def drain(self) -> None:
        """Empty one of the new clusters; all moves on to the other one."""
        self.figures.drained_after = self._drain("west")
        for name in ("west", "here"):
            self.host.fallow("cluster", "uncordon", name)

    def grow(self) -> None:
        """Ask for more: what runs stays where it is, and the emptied clusters are used again."""
        self.host.fallow("deployment", "scale", "shop/web=12", "shop/api=6", "--wait", "--timeout", "60s")
        self._wait_full()
        self.screen.say(self.host.fallow("deployment", "division", "shop/web"))

    def lose(self) -> None:
        """Cut the power of the cluster that has most: control plane and machines, without a word to anybody."""
        self.figures.killed_at = time.time()
        self.federation.kill("east")
        self.host.wait(lambda: self.federation.state_of("east") != "ready", 30, "the lost cluster suspected")
        self.figures.suspected_at = self.federation.clusters()["east"]["member"]["state_since"]
        self.host.wait(lambda: self.federation.state_of("east") == "dead", 30, "the lost cluster declared dead")
        self._wait_full()
        self.figures.full_strength_again = time.time() - self.figures.killed_at
        self.screen.say(self.host.fallow("cluster", "list"))

    def in_flight_failures(self, load: Load, phase: str) -> int:
        """Return the failures that a loss may cost: begun before the dead cluster was suspected."""
        return sum(found.phase == phase and found.at <= self.figures.suspected_at for found in load.failures)

    def close(self) -> None:
        """Stop the new clusters; the host is closed by whoever made it."""
        for cluster in self.federation.members.values():
            cluster.close()

    def _drain(self, name: str) -> float:
        began = time.time()
        told = self.host.fallow("cluster", "drain", name, "--timeout", "90s")
        took = time.time() - began
        self.screen.say(told.strip().splitlines()[-1])
        self._wait_full()
        return took

    def _wait_full(self) -> None:
        def full() -> bool:
            found = [item["counts"] for item in self.host.deployments().values()]
            return all(counts["healthy"] == counts["wanted"] and counts["leaving"] == 0 for counts in found)

        self.host.wait(full, 90, "full strength")
