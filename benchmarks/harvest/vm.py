"""From a server that joins to the node in its virtual machine, and how many containers that holds.

The machine is real: libvirt with QEMU, on KVM where it counts clock ticks and emulated elsewhere, with an image of this
machine's own programs. Replicas of a small web server are asked for, more than fit; what runs when no further one has
begun to for a while is what it holds, and what `fallow explain` then says is why. Needs root; times are seconds.

    python benchmarks/harvest/vm.py [--memory 1GiB] [--replicas 40] [--most 120] [--json FILE]
"""

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
# ruff: noqa: E402 - the folders above have to be found first
import yaml
from figures import options_of, write
from ground import whole
from machine import describe

from fallow.model.units import parse_bytes
from testbed import cgroups, images, parts, vms
from testbed.cluster import Cluster
from testbed.servers import LendingServer
from testbed.vms import VmGround

SERVER, VM = "srv1", "srv1-vm"
CPUS, REPLICA = 2.0, {"cpus": "0.01", "memory": "32M"}
BOOT_SECONDS, CALM_SECONDS = 180.0, 25.0
POLICY = ("--cpu-threshold", "95%", "--cpu-ceiling", "97%", "--vm-cpus", "1", "--predictor", "mean+3sd")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Boot one machine, fill it, and return what was measured."""
    with ExitStack() as stack:
        cluster, image = stack.enter_context(whole(SERVER, "shop:1", images.shop("1")))
        cluster.fallow("server-pool", "policy", "set", *POLICY, "--vm-memory", options.memory)
        ground = stack.enter_context(VmGround(cluster.fabric, accelerator="auto"))
        server = LendingServer(cluster, SERVER, CPUS, parse_bytes(options.memory) + 3 * 2**30)
        stack.callback(server.close)
        began = time.time()
        server.join(*ground.options, token=cluster.token("server"))
        cluster.wait(lambda: cluster.members().get(VM, {}).get("state") == "ready", BOOT_SECONDS, "the machine's node")
        ready = cluster.members()[VM]["state_since"] - began
        domain = ground.libvirt.virsh("list", "--name").split()[0]
        emulated = "<domain type='kvm'" not in ground.libvirt.virsh("dumpxml", domain)
        held = fill(cluster, image, options)
    size = {"vm_cpus": 1, "vm_memory": options.memory, "emulated": emulated}
    return {"benchmark": "harvest-vm", "machine": describe(), **size, "join_to_ready": round(ready, 1), **held}


def fill(cluster: Cluster, image: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ask for more replicas than fit, and return how many run at last, and after which time."""
    file = cluster.fabric.folder / "many.yaml"
    service = {"image": image, "deploy": {"replicas": options.replicas, "resources": {"reservations": REPLICA}}}
    file.write_text(yaml.safe_dump({"services": {"many": {**service, "x-fallow": {"class": "harvest"}}}}))
    cluster.fallow("deploy", str(file), "--project", "vm", "--no-wait")
    began = time.monotonic()
    begun: list[float] = []  # when there were so many for the first time
    while len(begun) < options.replicas and time.monotonic() - began < options.most:
        passed = time.monotonic() - began
        if begun and passed - begun[-1] > CALM_SECONDS:
            break
        states = [replica["state"] for replica in cluster.replicas()]
        begun += [passed] * (states.count("running") - len(begun))
        time.sleep(0.5)
    return {
        "containers_asked_for": options.replicas,
        "containers_running": len(begun),
        "first_container": round(begun[0], 1) if begun else None,
        "last_container": round(begun[-1], 1) if begun else None,
        "explained": cluster.fallow("explain", "vm/many").splitlines()[:6],
        "vm_memory_used": cluster.call("vm", "list", "--json")["items"][0]["use"]["memory_bytes"],
    }


def main() -> None:
    """Read the options, measure, write."""
    parser = options_of(__doc__)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--replicas", type=int, default=40)
    parser.add_argument("--most", type=float, default=120.0, help="seconds for the containers")
    options = parser.parse_args()
    reasons = (vms.missing(), cgroups.missing(), parts.missing("registry"))
    if (reason := next((found for found in reasons if found is not None), None)) is not None:
        parser.error(reason)
    write(run(options), options)


if __name__ == "__main__":
    main()
