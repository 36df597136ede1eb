"""`fallow server` with a command, `fallow server-pool` and `fallow vm`."""

import json
from typing import Any

import msgspec
import pytest
from cli_fake_api import Asked, FakeApi, listing, member, problem, replica, token
from cli_servers import GIB, report, server, vm
from conftest import Fallow

from fallow.model.deployments import Explanation
from fallow.model.members import MemberState, Role, Scheduling
from fallow.model.server_pools import LendingPolicy, ServerPoolView, VmPlan
from fallow.model.vms import VmState, VmUse, VmWish

DRAINING = Scheduling.DRAINING
STOPPED = VmUse(vm_id="vm-srv1-vm", state=VmState.STOPPED)


def test_list_shows_why_a_server_gets_nothing(api: FakeApi, fallow: Fallow) -> None:
    old = server(
        "old", age_seconds=9.0, why_not="has said nothing for more than 5 s, so it counts as full", scheduling=DRAINING
    )
    api.on("GET /v1/servers", listing(server("srv1", labels={"region": "west", "zone": "a"}), old))
    ran = fallow("server", "list")
    assert ran.code == 0, ran
    head, first, second = [line.split() for line in ran.out.splitlines()]
    assert head[:6] == ["NAME", "STATE", "PLACE", "POOL", "CPUS", "LENT"]
    assert first[:7] == ["old", "ready,", "draining", "-", "default", "-", "-"]
    assert first[-4:] == ["it", "counts", "as", "full"]
    assert second[:6] == ["srv1", "ready", "west/a", "default", "6.8/16", "2.0"]
    assert json.loads(fallow("server", "list", "--json").out)["items"][0]["name"] == "srv1"


def test_show_says_what_it_is_and_why(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers/srv1", server(evictions=2, evicted_at=1.0, evicted_why="memory"))
    api.on("GET /v1/explain", Explanation(subject="srv1", state="ready", lines=("offers 4.0 processors: 16 x 65%",)))
    out = fallow("server", "show", "srv1").out
    for line in (
        "cpus        16, 42% used", "memory      64 GiB, 33% used", "primaries   systemd:db.service",
        "threshold   65% of the processors, 80% of memory", "  offers 4.0 processors: 16 x 65%",
    ):  # fmt: skip
        assert line in out, out
    assert json.loads(fallow("server", "show", "srv1", "--json").out)["report"]["cpus"] == 16.0


def test_a_server_that_never_spoke_is_shown(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers/srv1", server(report=None, age_seconds=None, why_not="has not said anything yet"))
    api.on("GET /v1/explain", Explanation(subject="srv1", state="ready", lines=()))
    assert "said          nothing yet" in fallow("server", "show", "srv1").out


@pytest.mark.parametrize(
    ("words", "body", "told"),
    [
        (("label", "srv1", "rack=r8", "old-"), {"labels": {"rack": "r8", "old": None}, "scheduling": None}, "rack=r8"),
        (("undrain", "srv1"), {"labels": {}, "scheduling": "active"}, "active"),
        (("drain", "srv1", "--no-wait"), {"labels": {}, "scheduling": "draining"}, "draining"),
    ],
)
def test_changes(api: FakeApi, fallow: Fallow, words: tuple[str, ...], body: object, told: str) -> None:
    api.on("GET /v1/servers/srv1", server())
    api.on("PATCH /v1/members/s-srv1", member("srv1", role=Role.SERVER, labels={"rack": "r8"}))
    ran = fallow("server", *words)
    assert ran.out == f"srv1: {told}\n", ran
    assert api.bodies("PATCH /v1/members/s-srv1") == [body]


def test_a_node_is_not_taken_for_a_server(api: FakeApi, fallow: Fallow) -> None:
    for words in (("undrain", "node-1"), ("drain", "node-1"), ("remove", "node-1"), ("label", "node-1", "a=b")):
        assert fallow("server", *words).code == 3
    assert not [asked for asked in api.asked if asked.method != "GET"]


def test_a_drain_is_watched_until_nothing_is_lent(api: FakeApi, fallow: Fallow) -> None:
    left = iter([(3, True), (1, True), (0, True), (0, False)])
    now = {"replicas": 3, "works": True}

    def one(_: Asked) -> object:
        if api.bodies("PATCH /v1/members/s-srv1"):
            now["replicas"], now["works"] = next(left)
        return server(replicas=now["replicas"], scheduling=DRAINING)

    def all_(_: Asked) -> object:
        return listing(vm(replicas=now["replicas"], **({} if now["works"] else {"use": STOPPED})))

    api.on("GET /v1/servers/srv1", one)
    api.on("GET /v1/servers/s-srv1", one)
    api.on("PATCH /v1/members/s-srv1", member("srv1", role=Role.SERVER, scheduling=DRAINING))
    api.on("GET /v1/vms", all_)
    ran = fallow("server", "drain", "srv1")
    assert ran.out == "srv1 lends nothing any more: it can be shut down\n", ran
    assert ran.err.splitlines() == [
        "draining srv1: 3 replicas left, 1 virtual machine left", "  srv1-vm: running, 3 replicas",
        "draining srv1: 1 replica left, 1 virtual machine left", "  srv1-vm: running, 1 replica",
        "draining srv1: 0 replicas left, 1 virtual machine left", "  srv1-vm: running, 0 replicas",
        "draining srv1: 0 replicas left, 0 virtual machines left",
    ]  # fmt: skip


def test_the_last_minutes_of_a_server_are_drawn(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/explain", Explanation(subject="srv1", state="ready", lines=()))
    api.on("GET /v1/servers/srv1", server(report=report(recent_own=(0, 12, 13, 50, 99, 100), recent_lent=(87, 88))))
    out = fallow("server", "show", "srv1").out
    assert "not lent    ▁▁▂▅██ in 1m, 100% of the processors at the end" in out
    assert "lent        ▇█ in 20s, 88% of the processors at the end" in out
    api.on("GET /v1/servers/srv1", server())
    assert "not lent" not in fallow("server", "show", "srv1").out


def test_nobody_waits_for_the_machines_of_a_dead_server(api: FakeApi, fallow: Fallow) -> None:
    dead = server(replicas=0, scheduling=DRAINING, state=MemberState.DEAD)
    api.on("GET /v1/servers/srv1", dead)
    api.on("GET /v1/servers/s-srv1", dead)
    api.on("PATCH /v1/members/s-srv1", member("srv1", role=Role.SERVER, scheduling=DRAINING))
    api.on("GET /v1/vms", listing(vm(replicas=0, use=None)))
    assert fallow("server", "drain", "srv1").code == 0


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (server(scheduling=DRAINING), "srv1 still lends after 100ms"),
        (server(scheduling=Scheduling.ACTIVE), "srv1 is not drained any more"),
    ],
)
def test_a_drain_that_is_late_or_called_off_fails(api: FakeApi, fallow: Fallow, found: object, told: str) -> None:
    api.on("GET /v1/servers/srv1", found)
    api.on("GET /v1/servers/s-srv1", found)
    api.on("PATCH /v1/members/s-srv1", member("srv1", role=Role.SERVER, scheduling=DRAINING))
    api.on("GET /v1/vms", listing(vm()))
    ran = fallow("server", "drain", "srv1", "--timeout", "100ms")
    assert ran.code == 1
    assert told in ran.err


def test_remove(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers/srv1", server())
    api.on("DELETE /v1/members/s-srv1", "")
    assert fallow("server", "remove", "srv1", "--force").out == "srv1: removed\n"
    assert api.asked[-1].query == {"force": "true"}


def test_a_token_prints_the_line_to_paste(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(role="server", secret="fallow-join.a.b", expires_at=2800.0))
    ran = fallow("server", "token", "create", "--name", "srv1", "--label", "rack=r7")
    assert ran.out == "fallow-join.a.b\n"
    line = f"  fallow join --role server --primary 'systemd:NAME.service' {api.url} fallow-join.a.b"
    assert line in ran.err.splitlines(), ran.err
    (body,) = api.bodies("POST /v1/tokens")
    assert (body["role"], body["name"], body["labels"]) == ("server", "srv1", {"rack": "r7"})
    assert fallow("token", "create", "--role", "server", "--quiet").out == "fallow-join.a.b\n"


def test_the_control_plane_is_still_started_without_a_command(alone: Fallow, launched: list[Any]) -> None:
    assert alone("server", "--listen", "127.0.0.1:7443").code == 0
    assert launched[0].listen == "127.0.0.1:7443"
    assert alone("server", "lst").code == 2
    assert len(launched) == 1, "a mistyped command starts nothing"


# Server pools


def pool(name: str = "night", **more: Any) -> ServerPoolView:
    given: dict[str, Any] = {"name": name, "selector": "rack=r7", "policy": LendingPolicy(), "servers": ("srv1",)}
    return ServerPoolView(**(given | more))


def test_pools_are_listed_shown_made_and_deleted(api: FakeApi, fallow: Fallow) -> None:
    night = pool(policy=LendingPolicy(hours=("20:00-07:00",), vms=VmPlan(count=2, cpus=4.0)), cpus=16, offered_cpus=4.0)
    api.on("GET /v1/server-pools", listing(pool("default", selector="", servers=()), night))
    head, first, second = [line.split() for line in fallow("server-pool", "list").out.splitlines()]
    assert head[:4] == ["NAME", "SELECTOR", "SERVERS", "CPUS"]
    assert first[:5] == ["default", "all", "others", "0", "0"]
    assert second[:5] == ["night", "rack=r7", "1", "16", "4.0"]
    assert second[-3:] == ["20:00-07:00", "65%,", "80%"]
    api.on("GET /v1/server-pools/night", night)
    out = fallow("server-pool", "show", "night").out
    for line in (
        "servers    1: srv1", "processors    placed below 65%, held below 80%", "hours         20:00-07:00 (UTC)",
        "cache         100%, and 100% of memory bandwidth",
        "vms           2 on each server: 4 processors, as much memory as is lent, 20 GiB of disk, image default",
    ):  # fmt: skip
        assert line in out, out
    api.on("POST /v1/server-pools", night)
    assert fallow("server-pool", "create", "night", "--on", "rack=r7").out == "night: rack=r7 (1 server now)\n"
    assert fallow("server-pool", "create", "No Name", "--on", "a").code == 2
    api.on("PATCH /v1/server-pools/night", night)
    assert fallow("server-pool", "update", "night", "--on", "rack=r7").code == 0
    assert api.bodies("PATCH /v1/server-pools/night")[0]["selector"] == "rack=r7"
    api.on("DELETE /v1/server-pools/night", "")
    assert fallow("server-pool", "delete", "night").out == "night: deleted\n"


WORDS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "shares": (("--cpu-threshold", "65%", "--cpu-ceiling", ".8"), {"cpu_threshold": 0.65, "cpu_ceiling": 0.8}),
    "memory": (("--memory-threshold", "70%", "--memory-ceiling", "1"), {"memory_threshold": 0.7, "memory_ceiling": 1}),
    "classes": (("--cache", "20%", "--memory-bandwidth", ".3"), {"cache_share": 0.2, "memory_bandwidth_share": 0.3}),
    "reserve": (("--reserve", "2cpu,4GiB"), {"reserve_cpus": 2.0, "reserve_memory_bytes": 4 * GIB}),
    "cpus alone": (("--reserve", "1.5cpus"), {"reserve_cpus": 1.5}),
    "no reserve": (("--reserve", "0cpu, 0"), {"reserve_cpus": 0.0, "reserve_memory_bytes": 0}),
    "hours": (("--hours", "20:00-07:00", "--hours", "SAT 00:00-24:00"), {"hours": ["20:00-07:00", "sat 00:00-24:00"]}),
    "always": (("--hours", "always", "--timezone", "Europe/Berlin"), {"hours": [], "timezone": "Europe/Berlin"}),
    "predictor": (("--predictor", "auto", "--isolation", "cgroup"), {"predictor": "auto", "isolation": "cgroup"}),
    "times": (("--evict-after", "60s", "--backoff", "10m", "--move-within", "30s"),
              {"evict_after_seconds": 60.0, "backoff_seconds": 600.0, "move_seconds": 30.0}),
    "not": (("--no-lend",), {"lends": False}),
    "again": (("--lend",), {"lends": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_a_policy_is_set_by_what_is_named(api: FakeApi, fallow: Fallow, case: str) -> None:
    words, wished = WORDS[case]
    api.on("PATCH /v1/server-pools/default", pool("default"))
    ran = fallow("server-pool", "policy", "set", "default", *words)
    assert ran.code == 0, ran
    (body,) = api.bodies("PATCH /v1/server-pools/default")
    assert {name: value for name, value in body["policy"].items() if value is not None} == wished


def test_a_policy_is_that_of_the_default_pool_unless_one_is_named(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/server-pools/default", pool("default"))
    api.on("GET /v1/server-pools/default", pool("default"))
    words = ["--cpu-threshold", "65%", "--memory-threshold", "80%", "--reserve", "2cpu,4GiB", "--hours", "20:00-07:00"]
    ran = fallow("server-pool", "policy", "set", *words)
    assert ran.code == 0, ran
    (body,) = api.bodies("PATCH /v1/server-pools/default")
    assert (body["policy"]["cpu_threshold"], body["policy"]["hours"]) == (0.65, ["20:00-07:00"])
    assert fallow("server-pool", "policy", "show").code == 0


def test_the_machines_of_a_policy_are_set(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/server-pools/default", pool("default"))
    words = ("--vms", "0", "--vm-cpus", "4", "--vm-memory", "8GiB", "--vm-disk", "40GiB", "--vm-image", "small")
    assert fallow("server-pool", "policy", "set", "default", *words).code == 0
    (body,) = api.bodies("PATCH /v1/server-pools/default")
    wished = {"count": 0, "cpus": 4.0, "memory_bytes": 8 * GIB, "disk_bytes": 40 * GIB, "image": "small"}
    assert body["policy"]["vms"] == wished


@pytest.mark.parametrize(
    "words",
    [
        (), ("--cpu-threshold", "0%"), ("--cpu-threshold", "101%"), ("--cpu-threshold", "65"), ("--cpu-ceiling", "nan"),
        ("--reserve", "2cpu,3cpu"), ("--reserve", "twocpu"), ("--reserve", "4GiB,5GiB"), ("--reserve", "nancpu"),
        ("--hours", "always", "--hours", "20:00-07:00"), ("--isolation", "none"), ("--vm-memory", "much"),
        ("--vms", "65"), ("--evict-after", "soon"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_policy_that_cannot_be_read_is_not_sent(api: FakeApi, fallow: Fallow, words: tuple[str, ...]) -> None:
    ran = fallow("server-pool", "policy", "set", "default", *words)
    assert ran.code == 2, ran
    assert not api.asked


def test_a_contradiction_is_told_with_what_to_do(api: FakeApi, fallow: Fallow) -> None:
    api.refuse("PATCH /v1/server-pools/default", 400, "The policy contradicts itself", detail="65% is not below 60%")
    ran = fallow("server-pool", "policy", "set", "default", "--cpu-ceiling", "60%")
    assert ran.code == 1
    assert "65% is not below 60%" in ran.err


# Virtual machines


def test_vms_are_listed_with_what_they_may_use(api: FakeApi, fallow: Fallow) -> None:
    still = vm("still", "srv2", use=None, state=VmState.STOPPED, wanted=VmWish.STOPPED, automatic=False, node="")
    going = vm("going", wanted=VmWish.ABSENT, draining=True, fixed=True)
    api.on("GET /v1/vms", listing(still, vm(), going))
    ran = fallow("vm", "list", "--server", "srv1")
    assert api.asked[-1].query == {"server": "srv1"}
    _, first, second, third = ran.out.splitlines()
    assert first.split()[:4] == ["going", "srv1", "running,", "deleting"]
    assert "policy, sized by hand" in first
    assert second.split()[:8] == ["srv1-vm", "srv1", "running", "2.0/6.0", "of", "8", "4", "GiB/8"]
    assert third.split()[:4] == ["still", "srv2", "stopped", "8"]
    assert json.loads(fallow("vm", "list", "--json").out)["items"][1]["use"]["throttled"] == 0.02


def test_a_vm_is_shown_with_what_runs_on_it(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/vms/srv1-vm", vm(problem="its clock is wrong"))
    api.on("GET /v1/replicas", listing(replica("r-1", node="srv1-vm")))
    out = fallow("vm", "show", "srv1-vm").out
    assert "problem     its clock is wrong" in out
    assert "cpus        2.0/6.0 of 8, waits 2% of the time" in out
    assert "r-1" in out


def test_a_vm_is_made_and_changed(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/vms", vm("batch", automatic=False, state=VmState.WAITING, replicas=0))
    ran = fallow("vm", "create", "srv1", "--name", "batch", "--cpus", "4", "--memory", "8GiB")
    assert ran.out == "batch on srv1: 8 processors, 8 GiB, is to run, is waiting\n", ran
    (body,) = api.bodies("POST /v1/vms")
    assert (body["server"], body["name"], body["cpus"], body["memory_bytes"]) == ("srv1", "batch", 4.0, 8 * GIB)
    api.on("PATCH /v1/vms/batch", vm("batch", wanted=VmWish.STOPPED))
    assert fallow("vm", "resize", "batch", "--cpus", "2").code == 0
    assert fallow("vm", "stop", "batch").out.endswith("is to stop once 3 replicas moved away, is running\n")
    assert fallow("vm", "start", "batch").code == 0
    assert fallow("vm", "resize", "batch").code == 2
    assert fallow("vm", "create", "srv1", "--memory", "much").code == 2
    told = [{name: value for name, value in body.items() if value is not None}
            for body in api.bodies("PATCH /v1/vms/batch")]  # fmt: skip
    assert told == [{"cpus": 2.0}, {"wanted": "stopped"}, {"wanted": "running", "draining": False}]


def test_a_vm_is_drained_until_it_is_empty(api: FakeApi, fallow: Fallow) -> None:
    left = iter([2, 0])
    api.on("PATCH /v1/vms/srv1-vm", vm(draining=True))
    api.on("GET /v1/vms/vm-srv1-vm", lambda _: vm(replicas=next(left, 0), draining=True))
    ran = fallow("vm", "drain", "srv1-vm")
    assert (ran.out, ran.code) == ("srv1-vm: drained\n", 0)
    assert ran.err.splitlines() == [
        "draining srv1-vm: 2 replicas left, running", "draining srv1-vm: 0 replicas left, running",
    ]  # fmt: skip


def test_a_vm_is_deleted_once_it_is_gone(api: FakeApi, fallow: Fallow) -> None:
    found = iter([vm(replicas=1), vm(replicas=0, state=VmState.STOPPING)])
    api.on("GET /v1/vms/srv1-vm", vm())
    api.on("GET /v1/vms/vm-srv1-vm", lambda _: next(found, None) or problem(404, "gone"))
    api.on("DELETE /v1/vms/vm-srv1-vm", "")
    ran = fallow("vm", "delete", "srv1-vm")
    assert ran.out == "srv1-vm: deleted\n", ran
    assert "policy makes another" in ran.err
    assert fallow("vm", "delete", "srv1-vm", "--no-wait").out == "srv1-vm: deleting\n"


def test_a_vm_that_does_not_go_is_told(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/vms/srv1-vm", vm())
    api.on("GET /v1/vms/vm-srv1-vm", vm(replicas=2))
    api.on("DELETE /v1/vms/vm-srv1-vm", "")
    ran = fallow("vm", "delete", "srv1-vm", "--timeout", "100ms")
    assert ran.code == 1
    assert "deleting srv1-vm is not done after 100ms: 2 replicas left" in ran.err


def test_what_a_server_says_drives_no_terminal(api: FakeApi, fallow: Fallow) -> None:
    evil = server(why_not="\x1b[2Jgone", report=report(problems=("\x1b]0;x\x07",)))
    api.on("GET /v1/servers", listing(evil))
    api.on("GET /v1/vms", listing(vm(problem="\x1b[31m")))
    for words in (("server", "list"), ("top", "--once"), ("vm", "list"), ("server", "list", "--json")):
        assert "\x1b" not in fallow(*words).out


def test_json_is_what_the_api_said(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/vms/srv1-vm", vm())
    assert json.loads(fallow("vm", "show", "srv1-vm", "--json").out) == json.loads(msgspec.json.encode(vm()))
    api.on("GET /v1/server-pools/default", pool("default"))
    shown = fallow("server-pool", "policy", "show", "default", "--json").out
    assert json.loads(shown)["policy"]["cpu_ceiling"] == 0.8
