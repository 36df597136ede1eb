"""A host and a member cluster, each a whole control plane, over a real session."""

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
from federation_rig import Common, Site, Undivided, cluster_of, federation, until

from fallow.control.ids import new_id
from fallow.decide.deploy import deleted
from fallow.decide.plan import Step
from fallow.decide.removal import Cause, removal
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment
from fallow.model.members import MemberState
from fallow.model.secrets import SealedSecret
from fallow.model.tokens import TokenRequest
from fallow.model.updates import UpdateConfig

QUICK = UpdateConfig(parallelism=0, monitor_seconds=0.0)


async def ready(host: Site, web: Deployment, count: int, seconds: float = 10.0) -> Any:
    """Wait until the host has stored that so many replicas are ready on its one cluster, and none is left over."""
    cluster = cluster_of(host)

    def found() -> Any:
        report = host.reported(web, cluster.id)
        good = report is not None and report.ready == report.remaining == count
        return report if good and report.revision >= host.share(web, cluster.id).order else None

    return await until(found, seconds)


async def test_an_order_runs_on_the_member_and_is_reported(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web = await host.deploy("web", 5)
        cluster = cluster_of(host)
        assert cluster.labels == {"region": "west"}
        await host.tell(web, cluster.id, 3)
        report = await ready(host, web, 3)
        taken = member.named("web")
        assert (taken.id, taken.share, taken.spec.replicas) == (web.id, 3, 5)
        assert len(member.replicas()) == 3
        assert (report.replicas, report.placed, report.running, report.updated) == (3, 3, 3, 3)
        assert {found.id for found in report.endpoints} == {found.id for found in member.replicas()}
        assert (report.state, report.leaving) == ("serving", ())
        view = await until(lambda: (found := member.plane.hosts.view()) and found.connected and found.labels and found)
        assert (view.url, view.shares, view.labels) == (host.url, 1, {"region": "west"})


async def test_a_share_shrinks_to_nothing_and_is_forgotten_only_when_the_host_says_so(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web, cluster = await host.deploy("web", 4), cluster_of(host)
        await host.tell(web, cluster.id, 4)
        await ready(host, web, 4)
        await host.tell(web, cluster.id, 1)
        await ready(host, web, 1)
        await host.tell(web, cluster.id, 0)
        await ready(host, web, 0)
        assert member.named("web").share == 0
        share = host.share(web, cluster.id)
        assert share is not None
        await host.plane.applier.commit(Step(deletes=(share,)))
        await until(lambda: not member.snapshot.deployments)


async def test_a_new_generation_rolls_in_the_member_by_its_own_steps(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web, cluster = await host.deploy("web", 2, update=QUICK), cluster_of(host)
        await host.tell(web, cluster.id, 2)
        await ready(host, web, 2)
        first = {found.id for found in member.replicas()}
        web = await host.deploy("web", 2, update=QUICK, container=ContainerSpec(image="shop:2"))
        assert web.generation == 2
        report = await until(
            lambda: (r := host.reported(web, cluster.id)) and r.generation == 2 and r.updated == 2 and r
        )
        assert member.named("web").generation == 2
        await until(lambda: first.isdisjoint(found.id for found in member.replicas()))
        assert report.ready >= 2
        # What the member counts as its own is no new generation for it: scaling restarts nothing.
        kept = {found.id for found in member.replicas()}
        await host.tell(web, cluster.id, 3)
        await ready(host, web, 3)
        assert kept <= {found.id for found in member.replicas()}
        assert member.named("web").generation == 2


async def test_a_path_that_is_taken_is_refused_and_taken_in_once_it_is_free(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        own = await member.deploy("web", 1)
        web, cluster = await host.deploy("web", 2), cluster_of(host)
        await host.tell(web, cluster.id, 2)
        report = await until(lambda: (r := host.reported(web, cluster.id)) and r.state == "refused" and r)
        assert "shop/web of its own" in report.reason
        assert report.revision >= host.share(web, cluster.id).order
        assert member.named("web").id == own.id
        step = deleted(member.named("web"), 1.0, new_id).step
        assert step is not None
        await member.plane.applier.commit(step)
        await ready(host, web, 2)
        assert member.named("web").id == web.id


async def test_both_sides_go_on_after_either_was_restarted(tmp_path: Path) -> None:
    async with federation(tmp_path, store="") as (host, member):
        web, cluster = await host.deploy("web", 3), cluster_of(host)
        other = await member.deploy("local", 1)
        await host.tell(web, cluster.id, 2)
        await ready(host, web, 2)
        before = {found.id for found in member.replicas()}
        await host.stop()
        await until(lambda: not member.plane.hosts.view().connected)
        assert {found.id for found in member.replicas()} == before
        await host.start()
        await host.tell(web, cluster.id, 3)
        await ready(host, web, 3, 20)
        assert before < {found.id for found in member.replicas()}
        before = {found.id for found in member.replicas()}
        await member.restart()
        await host.tell(web, cluster.id, 2)
        await ready(host, web, 2, 20)
        assert before > {found.id for found in member.replicas()}
        assert member.named("local").id == other.id
        assert not cluster_of(host).fence


def copy_files(site: Site, other: Site) -> None:
    """Give a site all that another one, which is stopped, keeps in files."""
    for source in site.folder.rglob("*"):
        if source.is_file():
            target = other.folder / source.relative_to(site.folder)
            target.parent.mkdir(exist_ok=True, mode=0o700)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode & 0o777)


async def test_two_control_planes_with_one_key_are_fenced(tmp_path: Path) -> None:
    async with federation(tmp_path, store="") as (host, member):
        cluster = cluster_of(host)
        await member.stop()
        copy = Site(tmp_path / "copy")
        copy_files(member, copy)
        await member.start()
        await until(lambda: member.plane.hosts.view().connected, 40)
        await copy.start()
        try:
            await until(lambda: cluster_of(host).fence, 40)
            assert "two control planes use the key" in cluster_of(host).fence
            await until(lambda: cluster.id not in host.plane.hub.connected(), 40)
            await until(lambda: "fenced" in member.plane.hosts.view().problem, 40)
        finally:
            await copy.stop()


async def test_whoever_leads_next_has_what_proves_the_cluster(tmp_path: Path) -> None:
    async with federation(tmp_path, store="") as (host, member):
        web, cluster = await host.deploy("web", 1), cluster_of(host)
        await host.tell(web, cluster.id, 1)
        await ready(host, web, 1)
        for number in range(3):  # as on another machine: the folder has nothing of it
            await member.stop()
            for file in (member.folder / "host").iterdir():
                assert file.stat().st_mode & 0o777 == 0o600
                file.unlink()
            await member.start()
            await until(lambda: member.plane.hosts.view().connected, 20)
            await until(lambda: len(cluster_of(host).runs) == number + 2)  # noqa: B023
        assert not cluster_of(host).fence


async def test_the_process_that_leads_holds_the_session(tmp_path: Path) -> None:
    """Two processes of the member's control plane: when the one that leads goes, the other one is the member."""
    common, settings = Common(), {"cluster_key": tmp_path / "cluster.key"}
    host = Site(tmp_path / "host", "memory:", kind=Undivided)
    one = Site(tmp_path / "one", common=common, settings=settings)
    two = Site(tmp_path / "two", common=common, settings=settings)
    await host.start()
    await one.start()
    shutil.copytree(tmp_path / "one/ca", tmp_path / "two/ca")
    await two.start()
    try:
        await two.join(host)  # whichever process is asked
        await until(lambda: cluster_of(host).state is MemberState.READY)
        web, cluster = await host.deploy("web", 1), cluster_of(host)
        for replicas, (leads, other) in enumerate([(one, two), (two, one), (one, two)], 3):
            assert leads.plane.leadership.leads
            await until(lambda: leads.plane.hosts.view().connected and other.plane.hosts.view().connected)  # noqa: B023
            await host.tell(web, cluster.id, replicas)
            await until(lambda: (found := other.snapshot.deployments) and found[web.id].share == replicas)  # noqa: B023
            await leads.stop()
            await until(lambda: other.plane.leadership.leads, 20)  # noqa: B023
            await leads.start()
        await until(lambda: len(cluster_of(host).runs) == 4)
        assert not cluster_of(host).fence
    finally:
        for site in (one, two, host):
            await site.close()


async def test_logs_are_read_at_any_process_of_the_host(tmp_path: Path) -> None:
    """Two processes of the host's control plane, of which one holds the session with the member."""
    common, settings = Common(), {"cluster_key": tmp_path / "cluster.key"}
    one = Site(tmp_path / "one", common=common, settings=settings, kind=Undivided)
    two = Site(tmp_path / "two", common=common, settings=settings, kind=Undivided)
    member = Site(tmp_path / "member", "memory:", numbers=1000)
    await one.start()
    shutil.copytree(tmp_path / "one/ca", tmp_path / "two/ca")
    await two.start()
    await member.start()
    try:
        await member.add_nodes(1)
        await one.add_nodes(1)
        await member.join(one)
        await until(lambda: cluster_of(one).state is MemberState.READY)
        web, cluster = await one.deploy("web", 1), cluster_of(one)
        await one.tell(web, cluster.id, 1)
        await ready(one, web, 1)
        (own,) = await until(lambda: [found for found in one.replicas() if found.node_id])
        (replica,) = member.replicas()
        one.nodes[0].say(own.id, "serves here")
        member.nodes[0].say(replica.id, "serves")
        operator = await one.plane.tokens.create(TokenRequest(role="operator"), "test")
        headers = {"Authorization": f"Bearer {operator.secret}"}
        held = [site.plane.hub.link(cluster.id) is not None for site in (one, two)]
        assert sorted(held) == [False, True]
        async with httpx.AsyncClient(verify=False, headers=headers, timeout=20) as client:
            for site in (one, two):
                await until(lambda: {cluster.id, own.node_id} <= site.plane.hub.connected())  # noqa: B023
                lines = await client.get(f"{site.url}/v1/deployments/shop/web/logs")
                told = {f"{cluster.name}/{replica.id} | serves", f"{own.id} | serves here"}
                assert sorted(lines.text.splitlines()) == sorted(told)
                assert (await client.get(f"{site.url}/v1/replicas/{replica.id}/logs")).text == "serves\n"
    finally:
        for site in (member, one, two):
            await site.close()


async def test_a_renewed_certificate_is_stored(tmp_path: Path) -> None:
    host, member = Site(tmp_path / "host", settings={"certificate_seconds": 4.0}), Site(tmp_path / "member")
    await host.start()
    await member.start()
    try:
        await member.join(host)
        await until(lambda: cluster_of(host).state is MemberState.READY)
        first = sealed(member)
        expires = cluster_of(host).certificate_expires_at
        await until(lambda: cluster_of(host).certificate_expires_at > expires, 20)
        await until(lambda: sealed(member) != first)
        key = member.plane.hosts._stored_key()
        assert key is not None
        assert key.identity is not None
        assert key.identity.certificate_pem == (tmp_path / "member/host/certificate.pem").read_text() or key.saved_at
    finally:
        await member.close()
        await host.close()


def sealed(site: Site) -> bytes:
    found = site.plane.cache.get("secrets", "host")
    assert isinstance(found, SealedSecret)
    return found.sealed


async def test_a_removed_member_deletes_what_it_ran_and_joins_again(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web, cluster = await host.deploy("web", 2), cluster_of(host)
        await member.deploy("local", 1)
        await host.tell(web, cluster.id, 2)
        await ready(host, web, 2)
        cause = Cause(actor="api:test", reason="ClusterRemoved", because="by test")
        share = host.share(web, cluster.id)
        assert share is not None
        await host.plane.applier.commit(removal(host.snapshot, cluster_of(host), 1.0, cause, new_id))
        await until(lambda: member.plane.hosts.view().refused)
        await until(lambda: [found.name for found in member.snapshot.deployments.values()] == ["local"])
        await until(lambda: not list((member.folder / "host").iterdir()))
        view = await member.join(host)
        assert not view.refused
        await until(lambda: member.plane.hosts.view().connected)


async def test_leaving_keeps_or_removes_what_ran_for_the_host(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web, idle, cluster = await host.deploy("web", 5), await host.deploy("idle", 5), cluster_of(host)
        await host.tell(web, cluster.id, 2)
        await host.tell(idle, cluster.id, 0)
        await ready(host, web, 2)
        await until(lambda: member.snapshot.deployment_named("shop", "idle"))
        running = {found.id for found in member.replicas()}
        await member.plane.hosts.leave(False, "test")
        own = member.named("web")
        assert (own.origin, own.share, own.spec.replicas) == (None, None, 2)
        await until(lambda: member.snapshot.deployment_named("shop", "idle") is None)
        await until(lambda: not list((member.folder / "host").iterdir()))
        assert {found.id for found in member.replicas()} == running
        assert not member.plane.cache.records("hosts")
        assert member.plane.cache.get("secrets", "host") is None


async def test_a_fence_stops_what_may_run_elsewhere_until_the_host_is_back(tmp_path: Path) -> None:
    async with federation(tmp_path, store="") as (host, member):
        fenced = await host.deploy("one", 1, clusters=ClusterPolicy(fence_seconds=1.5))
        plain, cluster = await host.deploy("web", 1), cluster_of(host)
        await host.tell(fenced, cluster.id, 1)
        await host.tell(plain, cluster.id, 1)
        await ready(host, fenced, 1)
        await ready(host, plain, 1)
        began = time.time()  # longer than the fence: an idle session is no silence
        await until(lambda: member.snapshot.hosts["host"].heard_at > began + 2)
        assert member.named("one").share == 1
        await host.stop()
        await until(lambda: member.named("one").share == 0, 10)
        await until(lambda: not member.replicas("one"))
        assert (member.named("web").share, "ShareFenced" in member.events()) == (1, True)
        await host.start()
        await until(lambda: member.named("one").share == 1, 20)
        await ready(host, fenced, 1, 20)


async def test_a_total_deployed_at_the_host_runs_on_the_member_by_itself(tmp_path: Path) -> None:
    async with federation(tmp_path, divides=True) as (host, member):
        web = await host.deploy("web", 4)
        await ready(host, web, 4, 20)
        assert len(member.replicas()) == 4
        room = host.snapshot.rooms[cluster_of(host).id]
        (answer,) = room.answers.values()
        assert (room.summary.nodes, room.summary.cpus) == (2, 64.0)
        await until(lambda: host.snapshot.rooms[cluster_of(host).id].answers[answer.key].more == 60, 20)
        await until(lambda: host.snapshot.rooms["here"].answers[answer.key].more == 0)
        step = deleted(host.named("web"), 1.0, new_id).step
        assert step is not None
        await host.plane.applier.commit(step)
        await until(lambda: not host.snapshot.deployments and not member.snapshot.deployments, 30)
