"""A cluster with real containers is lost under load: how long until all are ready again, and which requests fail.

A host with a gateway (HAProxy) and three member clusters of the real command, each with machines in namespaces of their
own, each of these with an engine of its own; thresholds as they are by default. In each round the cluster that has most
replicas loses its power, control plane and machines at once, without a word to anybody, while its address is asked at
an even pace, open loop. Told is how long it takes from its last sign of life until all replicas are ready again in the
others, how long after the kill the last request failed, and how many failed after the host knew of it. Then the lost
cluster comes back, and runs nothing until another one is lost. `failover.py` is the same with many more hollow nodes;
what it says of peers holds here, too.

    python benchmarks/loss.py [--rounds 20] [--replicas 30] [--nodes 2] [--rate 100]      needs root, Podman, HAProxy,
                                                                                          docker-registry and busybox
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from asking import OpenLoop
from failover import PEERS
from figures import options_of, spread, write
from machine import describe

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests" / "e2e")]

from joined import Joined, federation  # noqa: E402

CLUSTERS = ("west", "east", "north")
PATIENCE_SECONDS = 60.0
STEADY_SECONDS = 5.0


class Equal(Joined):
    """Three clusters, each as good as the others."""

    clusters_policy = "divide: weighted, where: region"


def ready(joined: Joined) -> dict[str, int]:
    """Return how many replicas are ready in each cluster, as the host sees it."""
    return {share["cluster"]: share["ready"] for share in joined.division()["shares"] if share["ready"]}


def lose(joined: Joined, load: OpenLoop, replicas: int) -> dict[str, Any]:
    """Kill the cluster that has most, let it come back, and return what happened meanwhile."""
    had = ready(joined)
    name = max(sorted(had), key=lambda each: had[each])
    killed_at = time.time()
    joined.kill(name)
    joined.host.wait(lambda: joined.state_of(name) == "dead", PATIENCE_SECONDS, f"{name} dead")
    member = joined.clusters()[name]["member"]
    joined.host.wait(lambda: sum(ready(joined).values()) == replicas, PATIENCE_SECONDS, "all ready again")
    ready_at = time.time()
    time.sleep(STEADY_SECONDS)
    failed_at = [one.at for one in load.asked if one.why and killed_at - STEADY_SECONDS <= one.at]
    come_back(joined, name)
    last_seen_at = float(member["last_seen_at"])
    return {
        "lost": name,
        "replicas_lost": had[name],
        "dead_after_seconds": round(float(member["state_since"]) - last_seen_at, 2),
        "ready_again_after_seconds": round(ready_at - last_seen_at, 2),
        "requests": load.told(killed_at, ready_at),
        "last_failed_after_kill_seconds": round(max(failed_at) - killed_at, 2) if failed_at else None,
        "failed_after_dead": sum(at > float(member["state_since"]) for at in failed_at),
    }


def come_back(joined: Joined, name: str) -> None:
    """Switch a lost cluster on again, and wait until it is ready and has given up what others run now."""
    cluster = joined.members[name]
    for node in cluster.nodes.values():
        node.power_on()
    cluster.start_server()
    for node_name in cluster.nodes:
        cluster.join(node_name)
    joined.wait_state(PATIENCE_SECONDS, **{name: "ready"})
    cluster.wait_ready(*cluster.nodes)
    joined.settled()
    joined.host.wait(lambda: joined.containers(name) == 0, PATIENCE_SECONDS, f"{name} has nothing left")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    machine = describe()  # before we load it ourselves
    rounds = []
    with federation(dict.fromkeys(CLUSTERS, options.nodes), Equal) as joined:
        joined.deploy(options.replicas)
        joined.settled()
        with OpenLoop(joined.host.http_port, "web.test", options.rate) as load:
            time.sleep(STEADY_SECONDS)
            while len(rounds) < options.rounds:
                rounds.append(lose(joined, load, options.replicas))
                sys.stderr.write(f"{rounds[-1]}\n")
    again = [found["ready_again_after_seconds"] for found in rounds]
    return {
        "benchmark": "loss",
        "machine": machine,
        "clusters": len(CLUSTERS),
        "nodes_each": options.nodes,
        "replicas": options.replicas,
        "requests_per_second": options.rate,
        "rounds": rounds,
        "ready_again_after_seconds": spread(again),
        "requests_failed": sum(found["requests"]["failed"] for found in rounds),
        "requests_sent": sum(found["requests"]["sent"] for found in rounds),
        "failed_after_dead": sum(found["failed_after_dead"] for found in rounds),
        "peers": PEERS,
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="clusters to lose")
    parser.add_argument("--replicas", type=int, default=30)
    parser.add_argument("--nodes", type=int, default=2, help="of each cluster")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    options = parser.parse_args()
    write(measure(options), options)


if __name__ == "__main__":
    main()
