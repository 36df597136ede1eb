"""`fallow node`, and what its lists have in common with all lists."""

import json
import time
from collections.abc import Iterator

import msgspec
import pytest
from cli_fake_api import Asked, FakeApi, listing, member, replica
from conftest import Fallow

from fallow.model.deployments import ReplicaState
from fallow.model.members import AgentWish, Lease, MemberState, Role, Scheduling
from fallow.model.pools import NetworkMode, PortRange
from fallow.model.problems import Problem
from fallow.model.upgrades import UpgradeView


def test_list_shows_nodes_by_name(api: FakeApi, fallow: Fallow) -> None:
    api.on(
        "GET /v1/members",
        listing(
            member("b", state=MemberState.SUSPECT, labels={}),
            member("a", scheduling=Scheduling.DRAINING, replicas=3, used_cpus=1.26, used_memory_bytes=1 << 30),
        ),
    )
    ran = fallow("node", "list")
    assert ran.code == 0, ran
    head, first, second = ran.out.splitlines()
    assert head.split() == ["NAME", "STATE", "REPLICAS", "CPUS", "MEMORY", "ADDRESS", "POOL", "LABELS", "SEEN"]
    assert first.split()[:8] == ["a", "ready,", "draining", "3", "1.3/4", "1", "GiB/8", "GiB"]
    assert second.split()[:2] == ["b", "suspect"]
    assert api.asked[0].query == {"role": "node"}
    assert api.asked[0].headers["Authorization"] == "Bearer fallow-api.tok1.s3cr3t"


def test_list_of_all_roles(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members", listing(member("g", role=Role.GATEWAY)))
    assert fallow("node", "list", "--role", "all").out.splitlines()[1].split()[:2] == ["g", "gateway"]
    assert api.asked[0].query == {}


def test_list_refuses_an_unknown_role(api: FakeApi, fallow: Fallow) -> None:
    ran = fallow("node", "list", "--role", "boss")
    assert ran.code == 2
    assert api.asked == []


def test_list_as_json_is_the_answer_of_the_api(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members", listing(member(), revision=12))
    found = json.loads(fallow("node", "list", "--json").out)
    assert found == {"revision": 12, "items": [json.loads(msgspec.json.encode(member()))]}


def test_lines_are_not_wrapped_outside_a_terminal(api: FakeApi, fallow: Fallow) -> None:
    labels = {f"label-{number}": "x" * 60 for number in range(20)}
    api.on("GET /v1/members", listing(member(labels=labels)))
    lines = fallow("node", "list").out.splitlines()
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)


def test_what_a_node_says_cannot_drive_the_terminal(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members/x", member("x", function="\x1b]0;owned\x07 [red]really[/red]", role=Role.GATEWAY))
    out = fallow("node", "show", "x").out
    assert "\x1b" not in out
    assert "[red]really[/red]" in out


def test_show(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members/node-1", member())
    ended = replica("r-2", state=ReplicaState.STOPPED)
    api.on("GET /v1/replicas", listing(replica("r-1"), ended))
    ran = fallow("node", "show", "node-1")
    assert "builds" in ran.out
    assert "r-1" in ran.out
    assert "r-2" not in ran.out
    (asked,) = [each for each in api.asked if each.path == "/v1/replicas"]
    assert asked.query == {"node": "n-node-1"}


def test_show_tells_what_a_machine_got_by_joining(api: FakeApi, fallow: Fallow) -> None:
    lease = Lease(address="10.86.0.7", pool="default", mode=NetworkMode.WIREGUARD, agent_port=8455,
                  host_ports=PortRange(first=20000, last=20999))  # fmt: skip
    joined = member(
        address="10.86.0.7",
        lease=lease,
        observed_address="203.0.113.9",
        temporary_address="192.168.1.4",
        reported_at=9e8,
    )
    api.on("GET /v1/members/node-1", joined)
    api.on("GET /v1/replicas", listing())
    lines = {line[:10].strip(): line for line in fallow("node", "show", "node-1").out.splitlines()}
    assert "20000-20999" in lines["host ports"]
    assert "node-1.node.fallow.internal" in lines["DNS name"]
    assert "from 203.0.113.9, saying it was 192.168.1.4" in lines["joined"]
    assert "1998" in lines["facts as o"]


def test_names_are_quoted_in_the_path(api: FakeApi, fallow: Fallow) -> None:
    assert fallow("node", "show", "../tokens").code == 3
    assert api.asked[0].path == "/v1/members/..%2Ftokens"


def test_label(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/node-1", member(labels={"zone": "east"}))
    ran = fallow("node", "label", "node-1", "zone=east", "tier-", "empty=")
    assert ran.out == "node-1: zone=east\n"
    assert api.bodies("PATCH /v1/members/node-1") == [
        {"labels": {"zone": "east", "tier": None, "empty": ""}, "scheduling": None}
    ]


@pytest.mark.parametrize("change", ["zone", "=x", "-", "a=b-=", ""])
def test_label_refuses_nonsense(api: FakeApi, fallow: Fallow, change: str) -> None:
    api.on("PATCH /v1/members/node-1", member())
    ran = fallow("node", "label", "node-1", "--", change)
    assert ran.code == (0 if change == "a=b-=" else 2)


@pytest.mark.parametrize(("command", "scheduling"), [("cordon", "cordoned"), ("uncordon", "active")])
def test_cordon(api: FakeApi, fallow: Fallow, command: str, scheduling: str) -> None:
    api.on("PATCH /v1/members/node-1", member(scheduling=Scheduling(scheduling)))
    assert fallow("node", command, "node-1").out == f"node-1: {scheduling}\n"
    assert api.bodies("PATCH /v1/members/node-1") == [{"labels": {}, "scheduling": scheduling}]


def test_drain_waits_until_nothing_is_left(api: FakeApi, fallow: Fallow) -> None:
    left = iter([2, 2, 1, 0])
    api.on("PATCH /v1/members/node-1", member(scheduling=Scheduling.DRAINING))
    api.on("GET /v1/replicas", lambda _: listing(*(replica(f"r-{number}") for number in range(next(left)))))
    ran = fallow("node", "drain", "node-1")
    assert ran.code == 0, ran
    assert ran.out == "node-1: drained\n"
    told = [line for line in ran.err.splitlines() if line.startswith("draining")]
    assert told == [f"draining node-1: {count} replicas left" for count in (2, 1, 0)]


def test_drain_gives_up_and_says_what_to_do(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/node-1", member(scheduling=Scheduling.DRAINING))
    api.on("GET /v1/replicas", listing(replica()))
    ran = fallow("node", "drain", "node-1", "--timeout", "10ms")
    assert ran.code == 1
    assert ran.out == ""
    assert "uncordon" in ran.err


def test_drain_need_not_wait(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/node-1", member(scheduling=Scheduling.DRAINING))
    assert fallow("node", "drain", "node-1", "--no-wait").out == "node-1: draining\n"


@pytest.mark.parametrize(("extra", "query"), [((), {}), (("--force",), {"force": "true"})])
def test_remove(api: FakeApi, fallow: Fallow, extra: tuple[str, ...], query: dict[str, str]) -> None:
    api.on("DELETE /v1/members/node-1", "")
    assert fallow("node", "remove", "node-1", *extra).code == 0
    assert api.asked[0].query == query


def test_remove_of_a_busy_node_is_a_conflict(api: FakeApi, fallow: Fallow) -> None:
    api.refuse("DELETE /v1/members/node-1", 409, "node-1 holds 3 replicas", hint="Drain it first.")
    ran = fallow("node", "remove", "node-1")
    assert ran.code == 4
    assert "Drain it first." in ran.err


def test_watch_prints_every_change_until_the_watch_is_refused(api: FakeApi, fallow: Fallow) -> None:
    """Outside a terminal each different table is printed; the second watch is refused so that the test ends."""
    counts = iter([1, 2, 2])
    watches: list[Asked] = []

    def watch(asked: Asked) -> object:
        watches.append(asked)
        return _one_change() if len(watches) == 1 else Problem(type="urn:x", title="enough", status=403)

    api.on("GET /v1/members", lambda _: listing(member(replicas=next(counts))))
    api.on("GET /v1/watch", watch)
    ran = fallow("node", "list", "--watch")
    assert ran.code == 6, ran
    shown = [line.split()[2] for line in ran.out.splitlines() if line.startswith("node-1")]
    assert shown == ["1", "2"]
    assert watches[0].query == {"kinds": "members,replicas", "after": "7"}


def test_watch_as_json_is_one_document_a_line(api: FakeApi, fallow: Fallow) -> None:
    watches = iter([_one_change(), Problem(type="urn:x", title="enough", status=403)])
    api.on("GET /v1/members", listing(member()))
    api.on("GET /v1/watch", lambda _: next(watches))
    ran = fallow("node", "list", "--watch", "--json")
    assert ran.code == 6
    assert len(ran.out.splitlines()) >= 1
    assert all(json.loads(line)["revision"] == 7 for line in ran.out.splitlines())


def _one_change() -> Iterator[bytes]:
    yield b"event: bookmark\nid: 7\ndata: {}\n\n"
    yield b'id: 8\nevent: change\ndata: {"kind":"members","id":"n-1","revision":8,"record":null}\n\n'


def test_list_shows_what_is_the_matter(api: FakeApi, fallow: Fallow) -> None:
    wish = AgentWish(upgrade_id="u", version="2", sha256="", since=0.0)
    api.on(
        "GET /v1/members",
        listing(
            member("a", state=MemberState.DEAD, fence="two machines"),
            member("b", state=MemberState.DEAD, purge_at=time.time() + 1859),
            member("c", agent_wish=wish),
            member("d", agent_wish=msgspec.structs.replace(wish, failed="no room")),
            member("e", agent_wish=wish, agent_version="2"),
        ),
    )
    lines = fallow("node", "list").out.splitlines()[1:]
    assert "dead, fenced" in lines[0]
    assert "dead, removed in 30m" in lines[1]
    assert "ready, upgrading to 2" in lines[2]
    assert "ready, upgrade to 2 failed" in lines[3]
    assert "ready " in lines[4]
    assert "upgrad" not in lines[4]


def test_unfence(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members/node-1", member(fence="two machines"))
    api.on("PATCH /v1/members/node-1", member())
    assert fallow("node", "unfence", "node-1").out == "node-1: let in again\n"
    assert api.bodies("PATCH /v1/members/node-1")[0]["unfence"] is True
    api.on("GET /v1/members/node-1", member())
    assert fallow("node", "unfence", "node-1").code == 2


def test_remove_can_drain_before_and_leave_containers(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/members/node-1", member(scheduling=Scheduling.DRAINING))
    api.on("GET /v1/replicas", listing())
    api.on("DELETE /v1/members/node-1", "")
    assert fallow("node", "remove", "node-1", "--drain", "--keep-containers").out == "node-1: removed\n"
    asked = [(each.method, each.path, each.query) for each in api.asked]
    assert [method for method, _, _ in asked] == ["PATCH", "GET", "DELETE"]
    assert asked[-1][2] == {"keep_containers": "true"}
    assert fallow("node", "remove", "node-1", "--drain", "--force").code == 2


def _upgrade(state: str = "running", **more: object) -> UpgradeView:
    values = {"id": "u1", "version": "2", "state": state, "reason": "", "created_at": 1.0, "created_by": "api:ops"}
    return msgspec.convert({**values, "max_unavailable": 1, **more}, UpgradeView)


def test_upgrade_waits_until_it_is_over(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/upgrades", _upgrade(waiting=("a", "b")))
    answers = iter([_upgrade(waiting=("b",), upgrading=("a",)), _upgrade("completed", done=("a", "b"))])
    api.on("GET /v1/upgrades", lambda _: listing(next(answers)))
    ran = fallow("node", "upgrade", "--selector", "zone=west", "--max-unavailable", "1")
    assert (ran.code, ran.out) == (0, "2 of 2 are 2\n")
    assert "upgrading: a" in ran.err
    assert api.bodies("POST /v1/upgrades")[0]["selector"] == "zone=west"


def test_upgrade_tells_who_failed_and_why(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/upgrades", _upgrade(waiting=("a",)))
    api.on("GET /v1/upgrades", listing(_upgrade("stopped", failed={"a": "no room"}, reason="1 failed")))
    ran = fallow("node", "upgrade", "a")
    assert ran.code == 1
    assert "a: no room" in ran.err


def test_upgrade_is_asked_for_in_one_way(api: FakeApi, fallow: Fallow) -> None:
    for wrong in ((), ("a", "--selector", ""), ("a", "--max-unavailable", "0"), ("a", "--version", "latest")):
        assert fallow("node", "upgrade", *wrong).code == 2
    assert api.asked == []


def test_upgrades_are_listed_and_stopped(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/upgrades", listing(_upgrade(done=("a",), waiting=("b",))))
    head, row = fallow("node", "upgrades").out.splitlines()
    assert head.split() == ["ID", "VERSION", "STATE", "PROGRESS", "WHY", "AGE"]
    assert "1 of 2 are 2; waiting: b" in row
    api.on("POST /v1/upgrades/u1/stop", _upgrade("stopped"))
    assert fallow("node", "upgrades", "--stop", "u1").out == "u1: stopped\n"
