"""Joins: machines that become members of one control plane, with real TLS, certificates and leases.

First every machine joins (one connection: the CA, then the signed bundle, until it has its certificate), then every one
opens its session. The machines run on the same two processors and cost about as much as the control plane: the figure
that does not depend on them is the control plane's processor time for one join. Several numbers of machines that join
at the same time are measured, each on a control plane of its own: many at once is how a fleet comes back after a power
cut.

Peer: Kubernetes with hollow nodes on two cores of this kind, without certificates or addresses: 178 nodes/s.

    python benchmarks/joins.py [--machines 2000] [--at-once 16 64 256] [--store URL | --etcd]
"""

import argparse
import asyncio
import sys
from typing import Any

from figures import options_of, write
from machine import describe
from stores import add_store_options, store_of
from whole import whole

PEER = {"name": "Kubernetes with hollow nodes, two cores of this kind", "nodes_per_second": 178}


async def one(machines: int, at_once: int, store: str) -> dict[str, Any]:
    """Return the figures for so many machines, on a control plane of their own."""
    async with whole(store) as plane:
        for count in (machines // 2, machines - machines // 2):
            await plane.add(count)
        token = await plane.api.join_token(machines)
        joined = await plane.join(token, at_once, ("join",))
        opened = await plane.join(token, at_once, ("open",))
        members = (await plane.api.call("GET", "/v1/members?role=node"))["items"]
        names = {member["name"] for member in members}
        assert len(names) == len(members) == joined["agents"], "one machine is not there, or there twice"
        return {
            "machines": machines,
            "at_once": at_once,
            "failed": joined["failed"] + opened["failed"],
            "first_failures": joined["first_failures"] + opened["first_failures"],
            "joins_per_second": joined["joins_per_second"],
            "join_median_ms": joined["join_median_ms"],
            "control_plane_cpu_ms_a_join": joined["control_plane_cpu_ms_each"],
            "sessions_per_second": opened["joins_per_second"],
            "control_plane_cpu_ms_a_session": opened["control_plane_cpu_ms_each"],
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    rounds = []
    for at_once in options.at_once:
        rounds.append(await one(options.machines, at_once, options.store))
        sys.stderr.write(f"{rounds[-1]}\n")
    return {
        "benchmark": "joins",
        "machine": describe(),
        "rounds": rounds,
        "peer": PEER,
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    add_store_options(parser)
    parser.add_argument("--machines", type=int, default=2000)
    parser.add_argument("--at-once", type=int, nargs="+", default=[16, 64, 256])
    options = parser.parse_args()
    with store_of(options) as store:
        write(asyncio.run(measure(options)) | {"store": store}, options)


if __name__ == "__main__":
    main()
