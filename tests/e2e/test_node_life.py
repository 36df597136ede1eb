"""How nodes are renewed, copied by mistake, removed and given up, on real engines. The tests follow each other."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from releases import offer
from whole_cluster import Whole, web

from demo.load import Load
from testbed import processes
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NEWER, BROKEN = "0.99.1", "0.99.2"


def versions(whole: Whole) -> dict[str, str]:
    return {name: found["agent_version"] for name, found in whole.members().items()}


def test_agents_are_swapped_in_waves_and_nothing_that_runs_notices(whole: Whole) -> None:
    whole.deploy(web(whole.image, deploy={"replicas": 3}, fallow={"health": {"http": "/healthz"}}))
    whole.healthy("test/web", 3)
    whole.wait(lambda: whole.get("web.test")[0] == 200, 10, "route serves")
    before = {name: whole.containers(name) for name in whole.nodes}
    offer(whole.folder / "server", NEWER)
    foretold = whole.fallow("node", "upgrade", "--selector", "", "--version", NEWER, "--dry-run")
    assert "waiting: gw1, n1, n2, n3" in foretold
    load = Load("127.0.0.1", whole.http_port, ["web.test"], clients=4)
    load.start()
    try:
        told = whole.fallow(
            "node", "upgrade", "--selector", "", "--version", NEWER, "--max-unavailable", "25%", "--timeout", "90s"
        )
    finally:
        load.stop()
    assert f"4 of 4 are {NEWER}" in told
    assert set(versions(whole).values()) == {NEWER}
    assert {name: whole.containers(name) for name in whole.nodes} == before
    assert load.failures == []
    assert load.sent.total() > 100
    assert "AgentUpgradeCompleted" in whole.fallow("events", "--json")
    assert "dead" not in whole.fallow("events", "--json").lower()


def test_a_version_that_gets_no_session_is_given_up_and_the_rest_left_alone(whole: Whole) -> None:
    before = {name: whole.containers(name) for name in whole.nodes}
    offer(
        whole.folder / "server", BROKEN, ("fallow/agent/session.py", "await self._renew_alone()", "raise SystemExit(3)")
    )
    with pytest.raises(TestbedError, match="before it had a session"):
        whole.fallow("node", "upgrade", "n1", "n2", "n3", "--version", BROKEN, "--max-unavailable", "1")
    whole.wait_ready("n1", "n2", "n3", "gw1")
    assert set(versions(whole).values()) == {NEWER}
    (newest, *_) = whole.call("node", "upgrades", "--json")["items"]
    assert newest["state"] == "stopped"
    assert list(newest["failed"]) == ["n1"]
    assert newest["waiting"] == ["n2", "n3"]
    assert {name: whole.containers(name) for name in whole.nodes} == before


def test_an_upgraded_agent_that_is_stopped_and_started_goes_on_as_the_new_version(whole: Whole) -> None:
    whole.agents["n1"].terminate()
    assert whole.agents["n1"].wait(15) == 0
    began = time.time()
    whole.join("n1")
    whole.wait(lambda: whole.members()["n1"]["last_seen_at"] > began, 20, "agent back")
    assert versions(whole)["n1"] == NEWER


def test_a_copied_disk_is_found_and_both_machines_are_fenced(whole: Whole) -> None:
    whole.boot("n4")
    shutil.copytree(whole.nodes["n3"].folder / "agent", whole.nodes["n4"].folder / "agent")
    whole.join("n4")
    whole.wait(lambda: whole.members()["n3"]["fence"] != "", 20, "fence")
    whole.wait(lambda: whole.members()["n3"]["state"] == "dead", 10, "fenced state")
    shown = whole.fallow("node", "show", "n3")
    assert whole.nodes["n3"].address in shown
    assert whole.nodes["n4"].address in shown
    assert "fallow node unfence n3" in shown
    assert "fallow token create --replace n3" in shown
    assert "dead, fenced" in whole.fallow("node", "list")
    assert "NodeFenced" in whole.fallow("events", "--json")
    whole.wait(lambda: {item["node"] for item in whole.running("test/web")} == {"n1", "n2"}, 20, "replaced elsewhere")
    whole.healthy("test/web", 3)
    assert whole.get("web.test")[0] == 200
    processes.stop(whole.agents["n4"], 10)
    whole.fallow("node", "unfence", "n3")
    whole.wait_ready("n3")
    whole.wait(lambda: not whole.containers("n3"), 20, "what was replaced is removed")
    assert whole.members()["n3"]["fence"] == ""


def test_an_agent_killed_and_started_on_a_cut_network_is_no_copy(whole: Whole) -> None:
    for _ in range(2):
        whole.fabric.cut("n3")
        whole.agents["n3"].send_signal(signal.SIGKILL)
        whole.agents["n3"].wait(10)
        whole.join("n3")
        whole.fabric.restore("n3")
        began = time.time()
        whole.wait(lambda began=began: whole.members()["n3"]["last_seen_at"] > began, 20, "agent back")
    whole.wait_ready("n3")
    assert whole.members()["n3"]["fence"] == ""


def test_a_machine_installed_anew_takes_its_members_place_and_the_old_disk_is_worth_nothing(whole: Whole) -> None:
    whole.fallow("node", "label", "n3", "rack=r7")
    before = whole.members()["n3"]
    whole.nodes["n3"].power_cut()
    old, fresh = whole.nodes["n4"].folder / "agent", whole.nodes["n3"].folder / "agent"
    shutil.rmtree(old)
    fresh.rename(old)  # the disk, with the key that has joined, in another machine
    whole.wait(lambda: whole.members()["n3"]["state"] != "ready", 20, "the power cut noticed")
    whole.nodes["n3"].power_on()
    token = whole.fallow("token", "create", "--replace", "n3", "--quiet").strip()
    whole.join("n3", token=token)
    whole.wait_ready("n3")
    after = whole.members()["n3"]
    kept = ("id", "name", "address", "labels", "role", "created_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["labels"]["rack"] == "r7"
    whole.fallow("deployment", "scale", "test/web", "6")
    whole.healthy("test/web", 6)
    assert {item["node"] for item in whole.running("test/web")} == {"n1", "n2", "n3"}
    whole.fallow("deployment", "scale", "test/web", "3")
    whole.join("n4")
    assert whole.agents["n4"].wait(30) == 77
    assert "took the place of n3" in (whole.nodes["n4"].folder / "agent.log").read_text()
    with pytest.raises(TestbedError, match="n4"):
        whole.fallow("node", "show", "n4")
    whole.wait_ready("n3")
    whole.healthy("test/web", 3)
    assert "MemberReplaced" in whole.fallow("events", "--json")


def test_a_machine_waits_for_approval_and_is_known_by_its_own_address(whole: Whole) -> None:
    shutil.rmtree(whole.nodes["n4"].folder / "agent")
    token = whole.token("node", "--approve", "manual", "--label", "zone=late")
    whole.join("n4", "--name", "n4", "--var", "rack=r9", token=token)
    pending = lambda: whole.call("node", "pending", "--json")["items"]  # noqa: E731
    whole.wait(lambda: len(pending()) == 1, 20, "a machine that waits")
    (waiting,) = pending()
    assert waiting["source_address"] == whole.nodes["n4"].address
    assert waiting["labels"] == {"zone": "late"}
    facts = waiting["facts"]
    assert facts["engine"].startswith("podman "), "what it runs containers with"
    assert all(
        facts[name] for name in ("hostname", "os", "kernel", "architecture", "cpus", "memory_bytes", "disk_bytes")
    )
    assert [found["value"] for found in waiting["variables"]] == ["r9"]
    assert "n4" not in whole.members()
    whole.fallow("node", "approve", waiting["id"][:12])
    whole.wait_ready("n4")
    found = whole.members()["n4"]
    assert (found["address"], found["labels"]) == (whole.nodes["n4"].address, {"zone": "late"})
    whole.fallow("node", "remove", "n4", "--drain", "--timeout", "60s")
    assert whole.agents["n4"].wait(20) == 77


def test_a_node_is_removed_after_a_drain_and_cleans_up(whole: Whole) -> None:
    held = str(whole.running("test/web")[0]["node"])
    with pytest.raises(TestbedError, match="drain"):
        whole.fallow("node", "remove", held)
    load = Load("127.0.0.1", whole.http_port, ["web.test"], clients=4)
    load.start()
    try:
        whole.fallow("node", "remove", held, "--drain", "--timeout", "60s")
        assert whole.agents[held].wait(20) == 77
        whole.healthy("test/web", 3)
    finally:
        load.stop()
    assert load.failures == []
    assert not whole.containers(held)
    folder: Path = whole.nodes[held].folder / "agent"
    assert not (folder / "identity.json").exists()
    assert list(folder.glob("identity.json.*"))
    assert held not in whole.members()
    whole.join(held, "--name", held, token=whole.token("node"))
    whole.wait_ready(held)


def test_a_node_removed_while_it_is_away_learns_so_when_it_is_back(whole: Whole) -> None:
    held = str(whole.running("test/web")[0]["node"])
    assert whole.containers(held)
    whole.fabric.cut(held)
    whole.fallow("node", "remove", held, "--force")
    whole.healthy("test/web", 3)
    assert whole.containers(held), "it cannot know yet"
    whole.fabric.restore(held)
    assert whole.agents[held].wait(30) == 77
    assert not whole.containers(held)


def test_a_removed_node_may_go_on_running_what_it_runs(whole: Whole) -> None:
    whole.boot("n5")
    whole.join("n5", "--name", "n5", token=whole.token("node", "--label", "spot=n5"))
    kept = web(whole.image, deploy={"replicas": 1}, fallow={"selector": "spot=n5", "routes": ["http://kept.test"]})
    whole.deploy(kept, project="kept")
    containers = whole.containers("n5")
    assert len(containers) == 1
    whole.fallow("node", "remove", "n5", "--force", "--keep-containers")
    assert whole.agents["n5"].wait(20) == 77
    assert whole.containers("n5") == containers
    assert "n5" not in whole.members()
    whole.fallow("deployment", "delete", "kept/web")


def test_the_long_dead_are_purged_with_a_warning(whole: Whole) -> None:
    whole.server_options = ("--purge-after", "6s")
    whole.kill_server()
    whole.start_server()
    alive = [name for name in whole.members("node") if whole.agents[name].poll() is None]
    whole.wait_ready(*alive, "gw1")
    (victim, *rest) = alive
    assert rest
    whole.agents[victim].send_signal(signal.SIGKILL)
    whole.wait(lambda: victim not in whole.members(), 60, "purge")
    told = whole.fallow("events", "--json")
    assert "NodePurgeDue" in told
    assert "NodePurged" in told
    assert set(rest) <= set(whole.members())
    whole.join(victim)
    assert whole.agents[victim].wait(30) == 77
    assert not whole.containers(victim)
