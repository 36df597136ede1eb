"""What it costs a control plane that many servers report every second: its share of one core, part by part.

Every server has virtual machines of its own with replicas on them. Measured in processor time of one process, without
the network's: taking a report in (from the bytes of its frame to where loops find it), relaying all of them to another
process and hearing them there (twice a second), and the loops of the process that leads, each as often as it looks.
`change_ms` is once, for a new policy of all servers: finding out what each is told, and saying it.

    python benchmarks/harvest/reports.py [--servers 500] [--vms 2] [--replicas 8]
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import options_of, write
from machine import describe

from fallow.control.evictions import evictions_controller
from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.lent_hours import LOOK_SECONDS, lent_hours_controller
from fallow.control.servers import Servers
from fallow.control.settings import Settings
from fallow.control.vm_tokens import VmTokens
from fallow.control.vms import vms_controller
from fallow.decide.plan import Step
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import Replica, ReplicaState, Template
from fallow.model.members import AgentRun, Facts, Lease, Member, MemberState, Role
from fallow.model.meta import Record
from fallow.model.server_frames import ServerReported, SetLending
from fallow.model.server_pools import LendingPolicy, ServerPool, VmPlan
from fallow.model.servers import PrimaryUse, ServerReport
from fallow.model.vms import SERVER_LABEL, VM_LABEL, Vm, VmState, VmUse
from fallow.model.wire import ToMember, decode_digest, decode_from_member, encode_frame
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.open import open_store

GIB = 2**30
NOW = 1_800_000_000.0


class Line:
    """A session that counts what it is told."""

    agent_version, protocol, key_sha256, instance = "", 4, "", "i"

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.told = 0

    def send(self, frame: ToMember) -> None:
        """Count, and encode as a session does."""
        encode_frame(frame)
        self.told += isinstance(frame, SetLending)

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        """Do nothing."""


def member(id_: str, role: Role, cpus: float, labels: dict[str, str] | None = None) -> Member:
    """Return one that is ready."""
    return Member(
        id=id_, name=id_, created_at=NOW, updated_at=NOW, role=role, key_sha256=id_, token_id="t",
        labels=labels or {}, certificate_expires_at=NOW, lease=Lease(address="10.0.0.1"), state=MemberState.READY,
        facts=Facts(cpus=cpus, memory_bytes=64 * GIB), runs=(AgentRun(instance="i"),),
    )  # fmt: skip


def fleet(servers: int, vms: int, replicas: int) -> list[Record]:
    """Return servers, their virtual machines and nodes, and what runs there."""
    container = ContainerSpec(image="shop:1", resources=Resources(cpus=0.1, memory_bytes=GIB // 16))
    found: list[Record] = [
        Template(id="d-1.1", created_at=NOW, updated_at=NOW, deployment_id="d-1", generation=1, container=container)
    ]
    for server in range(servers):
        found.append(member(f"s-{server}", Role.SERVER, 32.0))
        for number in range(vms):
            name = f"vm-{server}-{number}"
            found.append(member(f"n-{name}", Role.NODE, 10.0, {SERVER_LABEL: f"s-{server}", VM_LABEL: name}))
            found.append(
                Vm(
                    id=name,
                    name=name,
                    created_at=NOW,
                    updated_at=NOW,
                    server_id=f"s-{server}",
                    cpus=10.0,
                    memory_bytes=8 * GIB,
                    disk_bytes=GIB,
                    image="default",
                    automatic=True,
                    node_id=f"n-{name}",
                    token_id=name,
                    state=VmState.RUNNING,
                )
            )
            found.extend(
                Replica(
                    id=f"r-{server}-{number}-{slot}",
                    created_at=NOW,
                    updated_at=NOW,
                    deployment_id="d-1",
                    project="shop",
                    deployment="web",
                    slot=slot,
                    generation=1,
                    template_id="d-1.1",
                    node_id=f"n-{name}",
                    state=ReplicaState.RUNNING,
                )
                for slot in range(replicas)
            )
    return found


def report(server: int, vms: int, second: int) -> ServerReport:
    """Return what a server says in some second."""
    uses = tuple(
        VmUse(vm_id=f"vm-{server}-{number}", state=VmState.RUNNING, cpus=second % 7 / 2, memory_bytes=GIB)
        for number in range(vms)
    )
    primary = PrimaryUse(name="systemd:postgresql.service", found=True, cpus=second % 5)
    return ServerReport(
        cpus=32.0, memory_bytes=64 * GIB, primary_cpus=second % 5, lent_cpus=second % 7, limit_cpus=12.0,
        offer_cpus=10.0, offer_memory_bytes=16 * GIB, lends=True, primaries=(primary,), vms=uses, run="r",
        lent_core_seconds=float(second), predictor="learned",
        predictor_why="was within 2 % of the best on the days before",
    )  # fmt: skip


def cost(what: Callable[[int], object], rounds: int = 10) -> float:
    """Return the processor seconds of one round."""
    what(0)
    began = time.process_time()
    for number in range(1, rounds + 1):
        what(number)
    return (time.process_time() - began) / rounds


async def measure(servers: int, vms: int, replicas: int) -> dict[str, Any]:
    """Return the share of a core that each part takes."""
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    applier = Applier(store, cache)
    plan = VmPlan(count=vms, cpus=10.0, memory_bytes=8 * GIB)
    pool = ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(vms=plan))
    for record in (*fleet(servers, vms, replicas), pool):
        await applier.commit(Step(puts=(record,)))
    at = 0.0
    hub, far = Hub(lambda: NOW + at, lambda: at), Hub(lambda: NOW + at, lambda: at)
    tokens = VmTokens(cache, applier, Settings(), "", lambda: NOW, lambda: at)
    parts = Servers(cache, applier, hub, tokens, lambda: NOW)
    links = [Line(f"s-{server}") for server in range(servers)]
    for link in links:
        hub.open(link)
        parts.greet(link)

    async def said(second: int) -> None:
        for server, link in enumerate(links):
            frame = decode_from_member(bodies[second % len(bodies)][server])
            assert isinstance(frame, ServerReported)
            await parts.heard(link, frame)

    bodies = [
        [encode_frame(ServerReported(report=report(server, vms, second)))[4:] for server in range(servers)]
        for second in range(5)
    ]
    began = time.process_time()
    for second in range(20):
        at += 1.0
        await said(second)
    took_in = (time.process_time() - began) / 20

    def relay(second: int) -> None:
        nonlocal at
        at += 0.5
        for server in range(servers if second % 2 else 0):
            hub.server_reported(f"s-{server}", report(server, vms, second))
        far.absorb("p1", decode_digest(encode_frame(hub.digest("p2"))[4:]))

    noted = cost(lambda second: [hub.server_reported(f"s-{n}", report(n, vms, second)) for n in range(servers)])
    relayed = cost(relay, 20) - noted / 2
    await said(0)
    loops = (
        (vms_controller(hub, new_id, lambda: at), 1.0),
        (evictions_controller(hub, new_id), 1.0),
        (lent_hours_controller(hub, cache, lambda: at), LOOK_SECONDS),
    )
    for _ in range(3):  # until nothing is left to do
        plan_of = loops[0][0].decide(cache.snapshot(), NOW + at)
        await applier.apply(plan_of)
    assert not loops[0][0].decide(cache.snapshot(), NOW + at).steps
    shares = {
        f"loop_{loop.name}": cost(lambda _, loop=loop: loop.decide(cache.snapshot(), NOW + at)) / every  # type: ignore[misc]
        for loop, every in loops
    }
    telling = asyncio.create_task(parts.run())
    await asyncio.sleep(0)
    changed = ServerPool(
        id="default", created_at=NOW, updated_at=NOW, revision=cache.records("server-pools")["default"].revision,
        policy=LendingPolicy(cpu_threshold=0.5, vms=plan),
    )  # fmt: skip
    began = time.process_time()
    await applier.commit(Step(puts=(changed,)))
    while sum(link.told for link in links) < 2 * servers:  # noqa: ASYNC110 - they tell of nothing
        await asyncio.sleep(0)
    change_ms = 1000 * (time.process_time() - began)
    telling.cancel()
    await cache.stop()
    await store.close()
    shares |= {"reports_taken_in": took_in, "reports_relayed": 2 * relayed}
    return {
        "servers": servers,
        "vms": servers * vms,
        "replicas": servers * vms * replicas,
        "report_bytes": len(bodies[0][0]),
        "percent_of_a_core": {name: round(100 * share, 2) for name, share in sorted(shares.items())},
        "percent_of_a_core_in_all": round(100 * sum(shares.values()), 2),
        "change_ms": round(change_ms, 1),
    }


def main() -> None:
    """Measure and write."""
    parser = options_of(__doc__)
    parser.add_argument("--servers", type=int, nargs="+", default=[500])
    parser.add_argument("--vms", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=8, help="in each virtual machine")
    options = parser.parse_args()
    runs = [asyncio.run(measure(servers, options.vms, options.replicas)) for servers in options.servers]
    write({"machine": describe(), "runs": runs}, options)


if __name__ == "__main__":
    main()
