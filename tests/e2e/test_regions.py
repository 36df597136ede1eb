"""A cluster over three regions, of which one is cut off: what goes on in both parts, and what comes of it."""

from collections.abc import Collection, Iterator

import pytest
from regional import REGIONS, Regional, regional

from demo.load import Load

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Regional]:
    with regional() as found:
        yield found


def test_everything_tells_where_it_is(cluster: Regional) -> None:
    places = {region: (region, f"{region}-a") for region in REGIONS}
    peers = cluster.call("peer", "list", "--json")["items"]
    assert {peer["region"]: (peer["region"], peer["zone"]) for peer in peers} == places
    stores = cluster.call("control", "status", "--json")["store_members"]
    assert {store["region"]: (store["region"], store["zone"]) for store in stores} == places
    assert all(store["answers"] for store in stores)
    members = cluster.members()
    for region in REGIONS:
        of_region = [found for name, found in members.items() if name.startswith(region)]
        assert {found["role"] for found in of_region} >= {"gateway", "node"}
        for found in of_region:
            assert (found["labels"]["region"], found["labels"]["zone"]) == places[region]
    (pool,) = [found for found in cluster.call("server-pool", "list", "--json")["items"] if found["name"] == "lenders"]
    assert sorted(pool["servers"]) == ["east-srv", "west-srv"]
    for command in (("peer", "list"), ("server", "list"), ("control", "status")):
        assert "east/east-a" in cluster.fallow(*command)


def test_a_region_that_does_not_lead_is_cut_off(cluster: Regional) -> None:
    leads = cluster.leading()
    _cut_off(cluster, "east" if leads != "east" else "west", asked=leads)


def test_the_region_that_leads_is_cut_off(cluster: Regional) -> None:
    """A new leader gives members the time that their agents need to come over to it."""
    leads = cluster.leading()
    _cut_off(cluster, leads, asked=next(region for region in REGIONS if region != leads))


def _cut_off(cluster: Regional, cut: str, asked: str) -> None:
    """Cut a region off and let it return, while people call another one and requests go to the gateways of all."""
    cluster.turn_to(asked)
    cluster.wait_lending()
    cluster.deploy(cluster.web(3))
    cluster.wait_where(**dict.fromkeys(REGIONS, 1))
    before, held = _known(cluster), cluster.really()[cut]
    with cluster.load_outside(cut) as loads:
        cluster.wait(lambda: all(load.sent.total() > 20 for load in loads), 15, "requests under way")
        cluster.fabric.cut(cut)
        refused = cluster.write_inside(cut)
        cluster.wait(lambda: _writes(cluster), 30, "a write in another region")
        cluster.wait(lambda: cluster.leading() not in ("", cut), 30, "a region that is there leads")
        cluster.wait(lambda: _serves_without(cluster, cut, 3), 60, "what is cut off is replaced elsewhere")
        for load in loads:
            load.phase = "noticed"
        cluster.fallow("deployment", "scale", "test/web=5", "--wait", "--timeout", "40s")
        assert _serves_without(cluster, cut, 5)
        cluster.wait(lambda: _all_by(cluster.answers_inside(cut, 50), held), 20, "the gateway that is cut off serves")
        assert refused.wait(60) != 0
        stores = cluster.call("control", "status", "--json")["store_members"]
        assert [store["region"] for store in stores if not store["answers"]] == [cut]
        cluster.fabric.restore(cut)
        cluster.wait_ready(*(name for name in cluster.members() if name.startswith(cut)), seconds=40)
        cluster.wait(lambda: not cluster.really()[cut], 30, "what was replaced has stopped")
        _requests(cluster, loads, 50)
    assert [failure for load in loads for failure in load.failures if failure.phase == "noticed"] == []
    assert len(_known(cluster) - before) == 1 + 2  # the one that was replaced, and those that were added
    _same_everywhere(cluster)
    cluster.wait_lending()
    cluster.fallow("deployment", "scale", "test/web=6", "--wait", "--timeout", "40s")
    assert len(cluster.really()[cut]) == 1
    cluster.fallow("deployment", "delete", "test/web", "--wait")


def _writes(cluster: Regional) -> bool:
    return cluster.call("token", "create", "--role", "node", "--json", check=False) is not None


def _known(cluster: Regional) -> set[str]:
    return {str(found["id"]) for found in cluster.replicas()}


def _serves_without(cluster: Regional, cut: str, count: int) -> bool:
    where = cluster.where()
    return not {cut, "-"} & where.keys() and sum(where.values()) == count


def _all_by(answers: Collection[str], replicas: Collection[str]) -> bool:
    return len(answers) > 0 and set(answers) <= set(replicas)


def _requests(cluster: Regional, loads: Collection[Load], count: int) -> None:
    """Wait until so many more requests were sent at every gateway."""
    sent = [load.sent.total() + count for load in loads]
    cluster.wait(
        lambda: all(load.sent.total() >= most for load, most in zip(loads, sent, strict=True)), 15, "more requests"
    )


def _same_everywhere(cluster: Regional) -> None:
    """See that each replica runs once, and that the processes of all regions say the same."""
    wanted = sorted(str(found["id"]) for found in cluster.running("test/web"))
    assert sorted(name for names in cluster.really().values() for name in names) == wanted
    for region in REGIONS:
        with cluster.client_at(cluster.url_in(region)) as client:
            found = client.replicas("test", "web").items
            assert sorted(one.id for one in found if one.state == "running") == wanted
