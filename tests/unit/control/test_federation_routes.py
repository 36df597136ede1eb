"""Gateways of a host and of its member, over a real session, while replicas move from one to the other and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from federation_rig import Site, cluster_of, federation, until
from records import member
from test_hub import Line

from fallow.decide.plan import Step
from fallow.model.deployments import Deployment, RouteSpec
from fallow.model.members import Lease, Role
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.updates import UpdateConfig
from fallow.model.wire import SetProxy, ToMember
from fallow.store.contract import Conflict

ROUTE = RouteSpec(host="shop.test", port=80)
QUICK = UpdateConfig(parallelism=0, monitor_seconds=0.0)


class Gateway(Line):
    """A session of a gateway that does at once what it is told; `held` are endpoints it has requests with."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(f"g-{name}")
        self.site = site
        self.states: list[ProxyState] = []
        self.held: set[str] = set()

    def send(self, frame: ToMember) -> None:
        if isinstance(frame, SetProxy):
            self.states.append(frame.state)
            self.report()

    def report(self) -> None:
        """Say what is applied, and what still finishes its requests."""
        state = self.states[-1]
        draining = tuple(sorted(self.held - set(self.endpoints())))
        self.site.plane.hub.proxied(self.member_id, ProxyReport(applied_revision=state.revision, draining=draining))

    def endpoints(self) -> list[str]:
        return [endpoint.id for backend in self.states[-1].backends for endpoint in backend.endpoints]


@contextlib.asynccontextmanager
async def gateway(site: Site, name: str) -> AsyncIterator[Gateway]:
    line = Gateway(site, name)
    record = member(f"gw{name}", id=line.member_id, role=Role.GATEWAY, revision=0, lease=Lease(address="127.0.0.1"))
    await site.plane.applier.commit(Step(puts=(record,)))
    site.plane.hub.open(line)

    async def live() -> None:
        while True:
            site.plane.hub.heard(line.member_id)
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(live())
    try:
        yield line
    finally:
        beating.cancel()


async def run_here(host: Site, web: Deployment, replicas: int) -> None:
    """Let the host's own nodes run so many."""
    while True:
        current = host.named(web.name)
        with contextlib.suppress(Conflict):
            await host.plane.applier.commit(Step(puts=(msgspec.structs.replace(current, share=replicas),)))
            return


async def test_no_gateway_is_ever_without_endpoints_while_replicas_move(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, guest), gateway(host, "host") as here, gateway(guest, "guest") as there:
        await host.add_nodes(2)
        web, cluster = await host.deploy("web", 2, routes=(ROUTE,), update=QUICK), cluster_of(host)
        await run_here(host, web, 2)
        prefix = f"{cluster.id}."
        await until(lambda: there.states and len(there.endpoints()) == 2)
        assert all(id_.startswith("here.") for id_ in there.endpoints()), "it runs nothing of it, and serves it"
        for line in (here, there):
            del line.states[:-1]
        for _ in range(2):
            await host.tell(web, cluster.id, 2)
            await until(lambda: _ready(host, web, cluster.id) == 2)
            await run_here(host, web, 0)
            await until(lambda: [id_.startswith(prefix) for id_ in here.endpoints()] == [True, True])
            await until(lambda: not host.replicas())
            await run_here(host, web, 2)
            await until(lambda: sum(not id_.startswith(prefix) for id_ in here.endpoints()) == 2)
            await host.tell(web, cluster.id, 0)  # at once: the member may not know of the others yet
            await until(lambda: not guest.replicas())
            await until(lambda: [id_.startswith("here.") for id_ in there.endpoints()] == [True, True])
        for line in (here, there):
            assert all(backend.endpoints for state in line.states for backend in state.backends)
            assert all(state.http for state in line.states)


async def test_a_replica_of_a_member_runs_until_the_last_request_elsewhere_has_ended(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"drain_seconds": 20.0}
    async with federation(tmp_path, settings=settings) as (host, guest), gateway(host, "host") as here:
        web, cluster = await host.deploy("web", 2, routes=(ROUTE,), update=QUICK), cluster_of(host)
        await run_here(host, web, 0)
        await host.tell(web, cluster.id, 2)
        await until(lambda: here.states and len(here.endpoints()) == 2)
        here.held = set(here.endpoints())
        await host.tell(web, cluster.id, 1)
        await until(lambda: len(here.endpoints()) == 1)
        (left,) = here.held - set(here.endpoints())
        await until(lambda: host.reported(web, cluster.id).leaving)
        other = await host.deploy("other", 2)  # everything goes round a few times until that runs
        await host.tell(other, cluster.id, 2)
        await until(lambda: _ready(host, other, cluster.id) == 2)
        assert len(guest.replicas()) == 2, "a gateway of the host still has a request with it"
        here.held.discard(left)
        here.report()
        await until(lambda: len(guest.replicas()) == 1, 8.0)


def _ready(host: Site, web: Deployment, cluster_id: str) -> int:
    report = host.reported(web, cluster_id)
    return report.ready if report is not None else 0
