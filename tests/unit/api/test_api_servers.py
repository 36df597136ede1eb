"""Servers, their pools and virtual machines over the API, and the report of the harvest."""

from typing import Any

import pytest
from api_rig import NOW, Rig, deployment, node, problem, replica
from records import template
from server_records import GIB, heard, server, use, vm

from fallow.decide.harvest.heard import HeardServer
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec
from fallow.model.members import Member, MemberState, Role, Scheduling
from fallow.model.servers import Lending, LentHour
from fallow.model.vms import Vm, VmState, VmWish

SRV = server("srv", revision=0, key_sha256="s" * 64, labels={"rack": "r7"})
POOL = {"name": "night", "selector": "rack=r7", "policy": {"hours": ["20:00-07:00"]}}
POOLS = "/v1/server-pools"


def machine(name: str = "a", **more: Any) -> Vm:
    return vm(name, created_at=NOW, updated_at=NOW, **more)


def asking(cpus: float, memory: int) -> DeploymentSpec:
    container = ContainerSpec(image="shop:1", resources=Resources(cpus=cpus, memory_bytes=memory))
    return DeploymentSpec(replicas=1, container=container)


async def lending(rig: Rig, said: HeardServer | None = None) -> Member:
    """Store a server with one virtual machine, whose node holds one replica of 2 processors and 1 GiB."""
    web = deployment("shop", "web")
    web = type(web)(**{name: getattr(web, name) for name in web.__struct_fields__} | {"spec": asking(2.0, GIB)})
    held = template(web)
    inside = node("in-a", "n-a", key_sha256="a" * 64)
    plain = type(held)(**{name: getattr(held, name) for name in held.__struct_fields__} | {"revision": 0})
    of_vm = machine(node_id="n-a", state=VmState.RUNNING, automatic=True)
    await rig.put(SRV, inside, web, plain, replica("r-1", web, "n-a"), of_vm)
    rig.hear("s-srv", said or heard(primary_cpus=4.0, lent_cpus=1.5, vms=(use(cpus=1.5, cpus_limit=3.0),)))
    return inside


async def test_servers_are_listed_with_what_they_said_last(rig: Rig) -> None:
    await lending(rig)
    (found,) = (await rig.call("GET", "/v1/servers", role="viewer")).json()["items"]
    assert (found["name"], found["pool"], found["vms"], found["replicas"]) == ("srv", "default", ["a"], 1)
    assert (found["requested_cpus"], found["requested_memory_bytes"], found["offered_cpus"]) == (2.0, GIB, 8.0)
    assert (found["cpu_threshold"], found["report"]["lent_cpus"], found["why_not"]) == (0.65, 1.5, "")
    one = await rig.call("GET", "/v1/servers/srv")
    assert one.json() == found
    assert one.headers["etag"]
    problem(await rig.call("GET", "/v1/servers/none"), 404, "not-found")
    said = problem(await rig.call("GET", "/v1/servers/in-a"), 404, "not-found")
    assert "is a node" in said["hint"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, "has not said anything yet, so it counts as full"),
        (heard(12.0), "has said nothing for more than 5 s, so it counts as full"),
        (heard(lends=False, why_not="outside its hours"), "does not lend now: outside its hours"),
    ],
)
async def test_a_server_that_is_not_heard_offers_nothing(rig: Rig, said: HeardServer | None, told: str) -> None:
    await rig.put(SRV)
    if said is not None:
        rig.hear("s-srv", said)
    found = (await rig.call("GET", "/v1/servers/srv")).json()
    assert (found["why_not"], found["offered_cpus"], found["offered_memory_bytes"]) == (told, 0.0, 0)


async def test_why_a_server_gets_nothing(rig: Rig) -> None:
    sent = Lending(
        id="s-srv", created_at=NOW, updated_at=NOW, backoff_until=NOW + 90, evictions=3, evicted_at=NOW - 5,
        reason="memory is above its ceiling",
    )  # fmt: skip
    await rig.put(SRV, sent)
    rig.hear("s-srv", heard())
    found = (await rig.call("GET", "/v1/servers/srv")).json()
    assert found["why_not"] == "is backing off until 08:01 UTC after sending replicas away"
    assert (found["evictions"], found["evicted_why"]) == (3, "memory is above its ceiling")
    await rig.call("PATCH", "/v1/members/srv", json={"scheduling": "draining"})
    assert (await rig.call("GET", "/v1/servers/srv")).json()["why_not"] == "is being drained"


async def test_a_server_is_explained_by_the_numbers_of_its_offer(rig: Rig) -> None:
    await lending(rig)
    lines = (await rig.call("GET", "/v1/explain?subject=srv", role="viewer")).json()["lines"]
    assert "it may get new replicas" in lines
    assert any(line.startswith("offers 8.0 processors: 16 x 65% - 0.0 that the primary may need") for line in lines)
    assert any(line.startswith("virtual machine a: running") for line in lines)


async def test_a_server_whose_machines_hold_something_is_removed_by_force_only(rig: Rig) -> None:
    await lending(rig)
    said = problem(await rig.call("DELETE", "/v1/members/srv"), 409, "holds-replicas")
    assert "fallow server drain srv" in said["hint"]
    assert (await rig.call("DELETE", "/v1/members/srv?force=true")).status_code == 204


# Server pools


async def test_the_default_pool_is_there_and_can_be_set_without_being_made(rig: Rig) -> None:
    await rig.put(SRV)
    (found,) = (await rig.call("GET", POOLS, role="viewer")).json()["items"]
    assert (found["name"], found["servers"], found["revision"]) == ("default", ["srv"], 0)
    stale = {"If-Match": '"7"'}
    wish = {"policy": {"cpu_threshold": 0.5, "vms": {"count": 2}}}
    problem(await rig.call("PATCH", f"{POOLS}/default", json=wish, headers=stale), 412, "changed")
    made = await rig.call("PATCH", f"{POOLS}/default", json=wish, headers={"If-Match": '"0"'})
    policy = made.json()["policy"]
    assert (policy["cpu_threshold"], policy["cpu_ceiling"], policy["vms"]["count"]) == (0.5, 0.8, 2)
    assert made.headers["etag"] != '"0"'
    problem(await rig.call("POST", POOLS, json=POOL | {"name": "default"}), 409, "is-default")
    problem(await rig.call("PATCH", f"{POOLS}/default", json={"selector": "a=b"}), 409, "is-default")


async def test_a_pool_is_made_changed_and_deleted(rig: Rig) -> None:
    await rig.put(SRV)
    made = await rig.call("POST", POOLS, role="operator", json=POOL)
    assert made.status_code == 201, made.text
    assert (made.json()["servers"], made.json()["selector"]) == (["srv"], "rack=r7")
    assert (await rig.call("POST", POOLS, json=POOL)).json()["revision"] == made.json()["revision"]
    problem(await rig.call("POST", POOLS, json=POOL | {"selector": "rack=r8"}), 409, "name-taken")
    assert (await rig.call("GET", "/v1/servers/srv")).json()["pool"] == "night"
    said = problem(await rig.call("DELETE", f"{POOLS}/night"), 409, "in-use")
    assert "srv would lend by another policy" in said["detail"]
    moved = await rig.call("PATCH", f"{POOLS}/night", json={"selector": "rack=r8"})
    assert (moved.json()["servers"], moved.json()["policy"]["hours"]) == ([], ["20:00-07:00"])
    assert (await rig.call("DELETE", f"{POOLS}/night")).status_code == 204
    problem(await rig.call("GET", f"{POOLS}/night"), 404, "not-found")
    problem(await rig.call("PATCH", f"{POOLS}/night", json={}), 404, "not-found")


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"cpu_threshold": 0.8, "cpu_ceiling": 0.8}, "processor threshold 80% is not below the ceiling 80%"),
        ({"memory_threshold": 0.95}, "memory threshold 95% is not below the ceiling 90%"),
        ({"timezone": "Europe/Atlantis"}, "there is no time zone 'Europe/Atlantis'"),
        ({"timezone": "../../etc/passwd"}, "there is no time zone"),
        ({"timezone": "Europe"}, "there is no time zone"),
        ({"timezone": ""}, "there is no time zone"),
        ({"timezone": "a\0b"}, "there is no time zone"),
        ({"predictor": "crystal ball"}, "there is no predictor 'crystal ball'; there are auto, "),
        ({"hours": ["08:00-08:00"]}, "end when they begin"),
        ({"hours": ["mon-wed-fri 08:00-09:00"]}, "is not hours such as"),
    ],
)
async def test_a_policy_that_contradicts_itself_is_refused(rig: Rig, policy: dict[str, Any], told: str) -> None:
    for answer in (
        await rig.call("PATCH", f"{POOLS}/default", json={"policy": policy}),
        await rig.call("POST", POOLS, json=POOL | {"policy": policy}),
    ):
        assert told in problem(answer, 400, "bad-policy")["detail"]
    (found,) = (await rig.call("GET", POOLS)).json()["items"]
    assert found["revision"] == 0


@pytest.mark.parametrize(
    "policy",
    [
        {"hours": ["8-9"]}, {"hours": ["25:00-26:00"]}, {"hours": ["mon 08:00-09:00\n"]}, {"cpu_threshold": 0},
        {"cpu_ceiling": 1.01}, {"cache_share": 0}, {"memory_bandwidth_share": 1.1},
        {"reserve_cpus": -1}, {"isolation": "none"}, {"vms": {"count": 65}}, {"lend": True},
        {"lends": 0}, {"lends": "false"}, {"cpu_threshold": "0.5"}, {"vms": {"count": "2"}},
    ],
)  # fmt: skip
async def test_a_policy_out_of_bounds_is_refused(rig: Rig, policy: dict[str, Any]) -> None:
    problem(await rig.call("PATCH", f"{POOLS}/default", json={"policy": policy}), 400, "bad-request")
    problem(await rig.call("POST", POOLS, json=POOL | {"policy": policy}), 400, "bad-request")


async def test_hours_over_midnight_and_over_the_weekend_are_taken(rig: Rig) -> None:
    hours = ["mon-fri 20:00-07:00", "sat,sun 00:00-24:00", "fri-mon 09:00-10:00"]
    wish = {"policy": {"hours": hours, "timezone": "Europe/Berlin", "predictor": "mean+5sd"}}
    answer = await rig.call("PATCH", f"{POOLS}/default", json=wish)
    assert answer.json()["policy"]["hours"] == hours, answer.text


async def test_a_pool_goes_by_assigned_labels_only(rig: Rig) -> None:
    for selector in ("var:rack=r7", "node:name=srv", "((", "@none"):
        problem(await rig.call("POST", POOLS, json=POOL | {"selector": selector}), 400, "bad-selector")


async def test_a_label_set_that_a_pool_uses_stays(rig: Rig) -> None:
    await rig.call("POST", "/v1/label-sets", json={"name": "racks", "selector": "rack=r7"})
    assert (await rig.call("POST", POOLS, json=POOL | {"selector": "@racks"})).status_code == 201
    said = problem(await rig.call("DELETE", "/v1/label-sets/racks"), 409, "in-use")
    assert "server pool night" in said["detail"]
    problem(await rig.call("PATCH", "/v1/label-sets/racks", json={"selector": "var:rack=r7"}), 409, "label-set")


async def test_a_change_of_a_policy_is_on_record(rig: Rig) -> None:
    await rig.call("PATCH", f"{POOLS}/default", "operator", json={"policy": {"cpu_threshold": 0.5, "lends": False}})
    (entry,) = (await rig.call("GET", "/v1/audit")).json()["items"]
    assert (entry["operation"], entry["subject"], entry["who"]) == ("change_server_pool", "default", "api:a-operator")
    assert entry["summary"] == "server pool default lends no, was yes, cpu threshold 0.5, was 0.65"
    await rig.call("PATCH", f"{POOLS}/default", json={"policy": {"cpu_threshold": 0.4}})
    *_, entry = (await rig.call("GET", "/v1/audit")).json()["items"]
    assert entry["differences"] == [{"field": "cpu_threshold", "before": "0.5", "after": "0.4"}]


# Virtual machines


async def test_a_vm_is_made_as_the_policy_and_the_offer_say(rig: Rig) -> None:
    await rig.put(SRV)
    rig.hear("s-srv", heard())
    made = await rig.call("POST", "/v1/vms", role="operator", json={"server": "srv"})
    assert made.status_code == 201, made.text
    body = made.json()
    assert (body["name"], body["server"], body["cpus"], body["memory_bytes"]) == ("srv-vm", "srv", 10.0, 8 * GIB)
    assert (body["automatic"], body["wanted"], body["state"], body["image"]) == (False, "running", "waiting", "default")
    said = problem(await rig.call("POST", "/v1/vms", json={"server": "srv"}), 409, "no-room")
    assert "offers 8 GiB of memory, and its virtual machines have 8 GiB of it" in said["detail"]
    second = await rig.call("POST", "/v1/vms", json={"server": "srv", "memory_bytes": GIB, "cpus": 1.5})
    assert (second.json()["name"], second.json()["cpus"]) == ("srv-vm-2", 1.5)
    listed = (await rig.call("GET", "/v1/vms?server=srv", role="viewer")).json()["items"]
    assert [found["name"] for found in listed] == ["srv-vm", "srv-vm-2"]
    problem(await rig.call("GET", "/v1/vms?server=none"), 404, "not-found")


async def test_a_vm_that_goes_takes_no_memory_from_the_next(rig: Rig) -> None:
    await rig.put(SRV, machine(memory_bytes=8 * GIB, wanted=VmWish.ABSENT))
    rig.hear("s-srv", heard())
    assert (await rig.call("POST", "/v1/vms", json={"server": "srv"})).json()["memory_bytes"] == 8 * GIB


async def test_a_named_vm_is_made_once(rig: Rig) -> None:
    await rig.put(SRV)
    wish = {"server": "srv", "name": "batch", "cpus": 2, "memory_bytes": GIB}
    first, again = await rig.call("POST", "/v1/vms", json=wish), await rig.call("POST", "/v1/vms", json=wish)
    assert first.json()["id"] == again.json()["id"]
    problem(await rig.call("POST", "/v1/vms", json=wish | {"cpus": 3}), 409, "name-taken")


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"server": "none"}, 404, "not-found"),
        ({"server": "srv"}, 409, "size-unknown"),
        ({"server": "srv", "memory_bytes": GIB, "name": "A b"}, 400, "bad-request"),
        ({"server": "srv", "memory_bytes": 1024}, 400, "bad-request"),
        ({"server": "srv", "memory_bytes": GIB, "cpus": 17}, 409, "larger-than-server"),
        ({"server": "srv", "memory_bytes": 65 * GIB}, 409, "larger-than-server"),
        ({"server": "srv", "size": 1}, 400, "bad-request"),
        ({"server": "srv", "memory_bytes": str(GIB)}, 400, "bad-request"),
    ],
)
async def test_a_vm_that_cannot_be(rig: Rig, wish: dict[str, Any], status: int, code: str) -> None:
    await rig.put(SRV)
    problem(await rig.call("POST", "/v1/vms", json=wish), status, code)
    assert (await rig.call("GET", "/v1/vms")).json()["items"] == []


async def test_a_drained_server_gets_no_vm(rig: Rig) -> None:
    await rig.put(server("srv", revision=0, scheduling=Scheduling.DRAINING))
    problem(await rig.call("POST", "/v1/vms", json={"server": "srv", "memory_bytes": GIB}), 409, "draining")


async def test_a_vm_is_shown_with_what_its_server_says(rig: Rig) -> None:
    await lending(rig)
    found = (await rig.call("GET", "/v1/vms/a")).json()
    assert (found["node"], found["replicas"], found["use"]["cpus_limit"]) == ("in-a", 1, 3.0)
    rig.steady.now += 6
    assert (await rig.call("GET", "/v1/vms/vm-a")).json()["use"] is None, "too old to be believed"


async def test_a_vm_is_not_made_smaller_than_what_it_holds(rig: Rig) -> None:
    await lending(rig)
    said = problem(await rig.call("PATCH", "/v1/vms/a", json={"cpus": 1.5}), 409, "holds-replicas")
    assert "ask for 2 processors and 1 GiB of memory" in said["detail"]
    problem(await rig.call("PATCH", "/v1/vms/a", json={"memory_bytes": GIB - 1}), 409, "holds-replicas")
    problem(await rig.call("PATCH", "/v1/vms/a", json={"cpus": 17}), 409, "larger-than-server")
    body = (await rig.call("PATCH", "/v1/vms/a", json={"cpus": 2})).json()
    assert (body["cpus"], body["fixed"], body["automatic"]) == (2.0, True, True)


async def test_a_vm_is_drained_stopped_started_and_deleted(rig: Rig) -> None:
    await lending(rig)
    for wish, wanted, draining in (
        ({"draining": True}, "running", True),
        ({"wanted": "stopped"}, "stopped", True),
        ({"wanted": "running", "draining": False}, "running", False),
    ):
        body = (await rig.call("PATCH", "/v1/vms/a", "operator", json=wish)).json()
        assert (body["wanted"], body["draining"], body["fixed"]) == (wanted, draining, False)
    for wrong in ({"wanted": "absent"}, {"draining": 0}, {"cpus": 0}, {"memory_bytes": 1.5}):
        problem(await rig.call("PATCH", "/v1/vms/a", json=wrong), 400, "bad-request")
    stale = {"If-Match": '"1"'}
    problem(await rig.call("DELETE", "/v1/vms/a", headers=stale), 412, "changed")
    for _ in range(2):
        assert (await rig.call("DELETE", "/v1/vms/a")).status_code == 202
    found = rig.services.cache.snapshot().vms["vm-a"]
    assert (found.wanted, found.draining) == (VmWish.ABSENT, True)
    problem(await rig.call("PATCH", "/v1/vms/a", json={"wanted": "running"}), 409, "leaving")
    problem(await rig.call("DELETE", "/v1/vms/none"), 404, "not-found")
    told = [event["message"] for event in (await rig.call("GET", "/v1/events?subject=a")).json()["items"]]
    assert told == [
        "virtual machine a: draining", "virtual machine a: wanted stopped, was running",
        "virtual machine a: wanted running, was stopped, not drained any more",
        "virtual machine a is to go, with its disk",
    ]  # fmt: skip


# The harvest


def hour(number: int, **more: Any) -> LentHour:
    return LentHour(id=f"s-srv.{number}", created_at=NOW, updated_at=NOW, server_id="s-srv", server="srv", hour=number,
                    **more)  # fmt: skip


async def test_the_harvest_is_summed_over_the_hours_asked_for(rig: Rig) -> None:
    rig.clock.now = NOW + 1800
    now = int(NOW // 3600)
    await rig.put(*(hour(now - ago, lent_core_seconds=7200.0, used_core_seconds=3600.0) for ago in (0, 1, 2, 200)))
    body = (await rig.call("GET", "/v1/harvest?price=0.5", role="viewer")).json()
    assert (body["total"]["used_core_hours"], body["saved"], body["until"]) == (3.0, 1.5, NOW + 1800)
    since = (now - 1) * 3600 + 10
    body = (await rig.call("GET", f"/v1/harvest?since={since}")).json()
    assert (body["since"], body["total"]["lent_core_hours"]) == (since - 10, 4.0)
    (row,) = body["servers"]
    assert (row["server"], row["hours"]) == ("srv", 2.0)
    for wrong in ("price=-1", "price=nan", "since=-1", "since=x"):
        problem(await rig.call("GET", f"/v1/harvest?{wrong}"), 400, "bad-request")


async def test_metrics_tell_what_servers_lend(rig: Rig) -> None:
    await lending(rig)
    await rig.put(server("old", revision=0, state=MemberState.DEAD))
    rig.hear("s-old", heard(60.0))
    text = (await rig.call("GET", "/metrics", role=None)).text
    assert 'fallow_server_cpus{server="srv",use="lent"} 1.5' in text
    assert 'fallow_server_cpus{server="srv",use="offer"} 8.0' in text
    assert 'server="old"' not in text, "what is not known has no value"
    assert 'fallow_vms{state="running"} 1.0' in text
    assert f'fallow_members{{role="{Role.SERVER}",state="dead"}} 1.0' in text
