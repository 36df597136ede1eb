"""From the command to a ready node: `fallow join` beside a real Podman, until the control plane calls it ready.

Each run is a machine that was never seen before: its token is there, nothing of Fallow runs on it. Once with an address
of a direct pool, once with one of an overlay. Peers, as they published it: 44 s (Lokomotive), 70 to 80 s (EC2 launch to
registration by Karpenter's users). Needs root, Podman and WireGuard; numbers are seconds.

    python benchmarks/join_ready.py [--runs 9] [--json FILE]
"""

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from figures import options_of, write
from machine import describe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testbed import parts
from testbed.cluster import Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port

NODE = "n1"


def measured(cluster: Cluster, pool: str, runs: int) -> dict[str, Any]:
    """Let the machine join, and forget it again, `runs` times; return the medians and the slowest."""
    answered, ready = [], []
    for number in range(runs):
        name = f"{pool}-{number}"
        token = cluster.token("node", "--pool", pool)
        began = time.time()
        cluster.join(NODE, "--name", name, token=token)
        cluster.wait_ready(name)
        member = cluster.members()[name]
        answered.append(member["created_at"] - began)
        ready.append(member["state_since"] - began)
        cluster.fallow("node", "remove", name, "--force")
        cluster.agents[NODE].wait(20)
        shutil.rmtree(cluster.nodes[NODE].folder / "agent")
    return {
        "runs": runs,
        "to_identity_median": round(statistics.median(answered), 2),
        "to_ready_median": round(statistics.median(ready), 2),
        "to_ready_slowest": round(max(ready), 2),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both kinds of pool on one machine and one control plane."""
    with Fabric() as fabric:
        cluster = Cluster(fabric, port=free_port(17443))
        try:
            cluster.start_server()
            cluster.fallow("pool", "create", "direct", "--cidr", str(fabric.subnet))
            cluster.fallow("pool", "create", "overlay", "--cidr", "10.86.0.0/16", "--mode", "wireguard")
            cluster.boot(NODE)
            figures = {pool: measured(cluster, pool, options.runs) for pool in ("direct", "overlay")}
        finally:
            cluster.close()
    return {"benchmark": "join_ready", "machine": describe(), **figures}


def main() -> None:
    """Read the options, measure, write."""
    parser = options_of(__doc__)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    for part in ("namespaces", "podman", "wireguard"):
        if (reason := parts.missing(part)) is not None:
            parser.error(reason)
    write(run(options), options)


if __name__ == "__main__":
    main()
