"""`fallow cluster`, and how a deployment is divided."""

import json
from typing import Any

import msgspec
import pytest
from cli_fake_api import FakeApi, deployment, listing, member, replica
from conftest import Fallow

from fallow.cli import cluster_life
from fallow.model.clusters import ClusterView
from fallow.model.divisions import DivisionView, PastDivision
from fallow.model.members import MemberState, Role, Scheduling, Thresholds
from fallow.model.routes import RouteView
from fallow.model.shares import ShareView
from fallow.model.taints import Taint


def view(name: str = "west", scheduling: Scheduling = Scheduling.ACTIVE, **more: Any) -> ClusterView:
    state = more.pop("state", MemberState.READY)
    taints = more.pop("taints", ())
    found = member(name, role=Role.CLUSTER, scheduling=scheduling, state=state, taints=taints, agent_version="1.2.3")
    return ClusterView(member=found, **more)


def test_list_shows_clusters_by_name(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/clusters/west", view("west", full_for=("shop/web",)))
    api.on(
        "GET /v1/clusters",
        listing(
            view(
                "west",
                nodes=3,
                cpus=12.0,
                memory_bytes=1 << 34,
                wanted=6,
                ready=5,
                moving_in=1,
                free_cpus=0.5,
                free_memory_bytes=1 << 30,
                full_for=("shop/web",),
            ),
            view("here", here=True, state=MemberState.SUSPECT),
            view("old", Scheduling.DRAINING, left=4, ready=4),
            view("spent", Scheduling.DRAINING, taints=(Taint(key="a"),)),
        ),
    )
    ran = fallow("cluster", "list")
    assert ran.code == 0, ran
    head, here, old, spent, west = [line.split() for line in ran.out.splitlines()]
    assert head == [
        "NAME",
        "STATE",
        "READY",
        "WANTED",
        "MOVING",
        "NODES",
        "FREE",
        "CPUS",
        "FREE",
        "MEMORY",
        "VERSION",
        "LABELS",
        "SEEN",
    ]
    assert (here[:2], here[-1]) == (["here", "suspect"], "here")
    assert old[:7] == ["old", "ready,", "draining", "4", "0", "4", "out"]
    assert spent[:4] == ["spent", "ready,", "drained,", "tainted"]
    assert " ".join(west).startswith("west ready, full 5 6 1 in 3 0.5 of 12 1 GiB of 16 GiB 1.2.3 ")
    assert "full for    shop/web" in fallow("cluster", "show", "west").out


def test_show(api: FakeApi, fallow: Fallow) -> None:
    found = view("old", Scheduling.DRAINING, left=4, stuck=("shop/web: 4 have no place: no room",))
    api.on("GET /v1/clusters/old", found)
    ran = fallow("cluster", "show", "old")
    assert "cannot leave   shop/web: 4 have no place: no room" in ran.out
    assert json.loads(fallow("cluster", "show", "old", "--json").out) == json.loads(msgspec.json.encode(found))


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("label", "west", "region=west", "old-"), {"labels": {"region": "west", "old": None}, "scheduling": None}),
        (("cordon", "west"), {"labels": {}, "scheduling": "cordoned"}),
        (("uncordon", "west"), {"labels": {}, "scheduling": "active"}),
        (("drain", "west", "--no-wait"), {"labels": {}, "scheduling": "draining"}),
    ],
)
def test_changes(api: FakeApi, fallow: Fallow, words: tuple[str, ...], body: object) -> None:
    api.on("GET /v1/clusters/west", view())
    api.on("PATCH /v1/members/west", member("west", role=Role.CLUSTER))
    ran = fallow("cluster", *words)
    assert ran.code == 0, ran
    assert api.bodies("PATCH /v1/members/west") == [body]
    assert ran.out.startswith("west: ")


def test_a_node_is_not_taken_for_a_cluster(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/node-1", member("node-1"))
    assert fallow("cluster", "cordon", "node-1").code != 0
    assert api.bodies("PATCH /v1/members/node-1") == []


def test_taints_are_added_to_those_there_are(api: FakeApi, fallow: Fallow) -> None:
    before = (Taint(key="a"), Taint(key="b", effect="move"))
    api.on("GET /v1/clusters/west", view(taints=before))
    api.on("PATCH /v1/members/west", member("west", role=Role.CLUSTER, taints=(Taint(key="b"),)))
    ran = fallow("cluster", "taint", "west", "a-", "b", "c=x:move")
    assert ran.out == "west: b:no-new\n"
    (body,) = api.bodies("PATCH /v1/members/west")
    assert body["taints"] == [
        {"key": "b", "value": "", "effect": "no-new"},
        {"key": "c", "value": "x", "effect": "move"},
    ]
    assert fallow("cluster", "taint", "west", "a:never").code == 2


USUAL = Thresholds(suspect_after_seconds=5.0, dead_after_seconds=10.0)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--suspect-after", "8s", "--dead-after", "30s"), (8.0, 30.0)),
        (("--dead-after", "1m"), (5.0, 60.0)),
        (("--suspect-after", "1500ms"), (1.5, 10.0)),
        (("--default",), None),
    ],
)
def test_thresholds_are_set_and_what_is_not_said_stays(
    api: FakeApi, fallow: Fallow, words: tuple[str, ...], wanted: tuple[float, float] | None
) -> None:
    sent = None if wanted is None else Thresholds(suspect_after_seconds=wanted[0], dead_after_seconds=wanted[1])
    api.on("GET /v1/clusters/west", view(thresholds=USUAL))
    api.on("PATCH /v1/members/west", member("west", role=Role.CLUSTER, thresholds=sent))
    ran = fallow("cluster", "set", "west", *words)
    assert ran.out == f"west: {sent or 'as all clusters'}\n", ran
    (body,) = api.bodies("PATCH /v1/members/west")
    assert body["thresholds"] == (msgspec.to_builtins(sent) if sent else None)


@pytest.mark.parametrize("words", [(), ("--default", "--dead-after", "9s"), ("--dead-after", "soon")])
def test_thresholds_that_are_none_are_not_sent(api: FakeApi, fallow: Fallow, words: tuple[str, ...]) -> None:
    api.on("GET /v1/clusters/west", view(thresholds=USUAL))
    assert fallow("cluster", "set", "west", *words).code == 2
    assert api.bodies("PATCH /v1/members/west") == []


def test_the_cluster_that_is_here_has_no_thresholds(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/clusters/here", view("here", here=True))
    ran = fallow("cluster", "set", "here", "--dead-after", "1m")
    assert (ran.code, "always heard" in ran.err) == (2, True)
    assert "silence" not in fallow("cluster", "show", "here").out


def test_show_tells_thresholds_and_whose_they_are(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/clusters/west", view(thresholds=USUAL))
    told = " ".join(fallow("cluster", "show", "west").out.split())
    assert "silence suspect after 5s, dead after 10s, as all clusters" in told


def route(errors: int) -> RouteView:
    return RouteView(
        kind="http",
        address="http://x",
        project="shop",
        deployment="web",
        port=80,
        errors_5xx=errors,
        gateways=("g",),
        endpoints=1,
        requests=9,
    )


def test_drain_is_watched_until_nothing_is_left(api: FakeApi, fallow: Fallow) -> None:
    left = iter([4, 4, 1, 0])
    errors = iter([7, 7, 8, 8, 8])
    api.on("PATCH /v1/members/old", member("old", role=Role.CLUSTER))
    api.on("GET /v1/routes", lambda _: listing(route(next(errors))))
    draining = Scheduling.DRAINING

    def clusters(_: object) -> object:
        count = next(left)
        stuck = ("shop/web: 1 wait for replacements",) if count == 1 else ()
        return listing(view("old", draining, left=count, stuck=stuck), view("west", moving_in=count))

    api.on("GET /v1/clusters/old", view("old"))
    api.on("GET /v1/clusters/n-old", view("old", draining))
    api.on("GET /v1/clusters", clusters)
    ran = fallow("cluster", "drain", "old")
    assert ran.code == 0, ran
    assert ran.out == "old is empty: it can be shut down (1 requests failed)\n"
    told = [line.rpartition(", ")[0] for line in ran.err.splitlines() if line.startswith("draining")]
    assert list(dict.fromkeys(told)) == [
        "draining old: 4 left, 0 moved, 4 replacements not ready yet, 0 requests failed",
        "draining old: 4 left, 0 moved, 4 replacements not ready yet, 1 requests failed",
        "draining old: 1 left, 3 moved, 1 replacements not ready yet, 1 requests failed",
        "draining old: 0 left, 4 moved, 1 requests failed",
    ]
    assert "  shop/web: 1 wait for replacements" in ran.err


def test_a_drain_tells_programs_too_how_many_requests_failed_or_that_nobody_counts(
    api: FakeApi, fallow: Fallow
) -> None:
    api.on("PATCH /v1/members/old", member("old", role=Role.CLUSTER))
    for name in ("old", "n-old"):
        api.on(f"GET /v1/clusters/{name}", view("old", Scheduling.DRAINING))
    api.on("GET /v1/clusters", listing(view("old", Scheduling.DRAINING)))
    errors = iter([2, 5, 5])
    api.on("GET /v1/routes", lambda _: listing(route(next(errors))))
    told = json.loads(fallow("cluster", "drain", "old", "--json").out)
    assert (told["requests_failed"], told["member"]["name"]) == (3, "old")
    errors = iter([2, 5, 5])
    counted = lambda: msgspec.structs.replace(route(next(errors)), gateways=(), clusters=("west",))  # noqa: E731
    api.on("GET /v1/routes", lambda _: listing(counted()))
    assert json.loads(fallow("cluster", "drain", "old", "--json").out)["requests_failed"] == 3
    api.on("GET /v1/routes", listing(msgspec.structs.replace(route(9), gateways=())))
    assert json.loads(fallow("cluster", "drain", "old", "--json").out)["requests_failed"] is None
    ran = fallow("cluster", "drain", "old")
    assert ran.out == "old is empty: it can be shut down (failed requests not counted: no gateway tells of any)\n"
    assert "0 left, 0 moved, failed requests not counted: no gateway tells of any" in ran.err


def test_a_drain_that_is_called_off_or_takes_too_long_fails(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/old", member("old", role=Role.CLUSTER))
    api.on("GET /v1/routes", listing())
    for name in ("old", "n-old"):
        api.on(f"GET /v1/clusters/{name}", view("old"))
    api.on("GET /v1/clusters", listing(view("old", left=3)))
    assert "is not drained any more" in fallow("cluster", "drain", "old").err
    api.on("GET /v1/clusters", listing(view("old", Scheduling.DRAINING, left=3, stuck=("shop/web: no room",))))
    ran = fallow("cluster", "drain", "old", "--timeout", "10ms")
    assert ran.code == 1
    assert "shop/web: no room" in ran.err
    assert "uncordon" in ran.err


def test_a_drain_goes_on_when_it_is_not_watched_any_more(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/old", member("old", role=Role.CLUSTER))
    api.on("GET /v1/clusters/old", view("old"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_life, "_watched", interrupt)
        ran = fallow("cluster", "drain", "old")
    assert ran.code == 130
    assert "goes on draining; `fallow cluster uncordon old` calls it off" in ran.err


@pytest.mark.parametrize(("extra", "query"), [((), {}), (("--force",), {"force": "true"})])
def test_remove(api: FakeApi, fallow: Fallow, extra: tuple[str, ...], query: dict[str, str]) -> None:
    api.on("GET /v1/clusters/west", view())
    api.on("DELETE /v1/members/west", "")
    assert fallow("cluster", "remove", "west", *extra).out == "west: removed\n"
    assert api.asked[-1].query == query


DIVISION = DivisionView(
    deployment="default/web", total=5, ready=4, placed=5, moving=0, unplaced=1, unplaced_reason="no room",
    shares=(ShareView(cluster="west", cluster_state="ready", target=4, replicas=4, placed=4, ready=4, rule="room"),),
    history=(PastDivision(at=1000.0, total=5, shares={"west": 4}, cause="it is new"),),
)  # fmt: skip


def test_how_a_deployment_is_divided(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/deployments/default/web/division", DIVISION)
    out = fallow("deployment", "division", "web").out
    assert "west      ready           4        4      4        4" in out
    assert "1 have no place: no room" in out
    assert "west 4   it is new" in out
    assert json.loads(fallow("deployment", "division", "web", "--json").out)["total"] == 5
    api.on("GET /v1/deployments/default/web/division", msgspec.structs.replace(DIVISION, shares=(), history=()))
    assert "is not divided" in fallow("deployment", "division", "web").out


def test_a_fenced_cluster_is_let_in_again(api: FakeApi, fallow: Fallow) -> None:
    fenced = msgspec.structs.replace(view(), member=member("west", role=Role.CLUSTER, fence="two control planes"))
    api.on("GET /v1/clusters/west", fenced)
    api.on("PATCH /v1/members/west", member("west", role=Role.CLUSTER))
    assert fallow("cluster", "unfence", "west").out == "west: let in again\n"
    assert api.bodies("PATCH /v1/members/west")[0]["unfence"] is True
    api.on("GET /v1/clusters/west", view())
    ran = fallow("cluster", "unfence", "west")
    assert ran.code == 2
    assert "fallow cluster show west" in ran.err


def test_what_runs_in_other_clusters_is_asked_there(api: FakeApi, fallow: Fallow) -> None:
    here = ShareView(cluster="home", here=True, cluster_state="ready", target=1, replicas=1, placed=1)
    divided = msgspec.structs.replace(DIVISION, shares=(*DIVISION.shares, here))
    api.on("GET /v1/deployments/shop/web/division", divided)
    api.on("GET /v1/deployments/shop/web", deployment())
    api.on("GET /v1/deployments/shop/web/logs", "one\n")
    api.on("GET /v1/replicas", listing(replica()))
    api.on("GET /v1/clusters", listing(view("west", running=4), view("home", here=True, running=1)))
    ask = "In other clusters: west 4. Ask there: fallow --context west"
    listed = f"{ask} replica list --deployment shop/web\n"
    assert fallow("deployment", "show", "shop/web").err == listed
    assert fallow("replica", "list", "--deployment", "shop/web").err == listed
    assert fallow("replica", "list").err == f"{ask} replica list\n"
    ran = fallow("logs", "shop/web")
    assert (ran.out, ran.err) == ("one\n", "")  # those of all clusters
    for quiet in (("replica", "list", "--json"), ("replica", "list", "--node", "n1")):
        assert fallow(*quiet).err == ""
    api.on("GET /v1/clusters", listing())
    assert fallow("replica", "list").err == ""
