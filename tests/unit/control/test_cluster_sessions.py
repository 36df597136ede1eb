"""A host and a member cluster, each a whole control plane, over a real session."""

from pathlib import Path

from federation_rig import cluster_of, federation, until


async def test_an_order_runs_on_the_member_and_is_reported(tmp_path: Path) -> None:
    async with federation(tmp_path) as (host, member):
        web = await host.deploy("web", 5)
        cluster = cluster_of(host)
        assert cluster.labels == {"region": "west"}
        await host.tell(web, cluster.id, 3)
        report = await until(lambda: (found := host.reported(web, cluster.id)) and found.ready == 3 and found)
        taken = member.named("web")
        assert (taken.id, taken.share, taken.spec.replicas) == (web.id, 3, 5)
        assert len(member.replicas()) == 3
        assert (report.replicas, report.placed, report.running, report.updated) == (3, 3, 3, 3)
        assert {found.id for found in report.endpoints} == {found.id for found in member.replicas()}
        assert report.revision >= host.share(web, cluster.id).order
