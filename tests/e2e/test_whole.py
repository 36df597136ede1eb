"""The main job and what may befall it, on real parts. The tests follow each other on one cluster."""

import json
import os
import signal
import subprocess
import time

import pytest
from whole_cluster import Whole

from demo.load import Load
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

WEB = """
services:
  web:
    image: {image}
    environment: {{NAME: web, VERSION: "{version}", SECRET_WORD: hunter2-topsecret}}
    expose: ["8080"]
    deploy:
      replicas: {replicas}
      update_config: {{monitor: 1s}}
      resources: {{reservations: {{memory: 32M}}, limits: {{memory: 64M, cpus: "0.5"}}}}
    x-fallow:
      routes: [http://web.test, "http://many.test/web"]
      health: {{http: /healthz}}
"""


def web(cluster: Whole, replicas: int = 3, version: str = "1") -> str:
    image = cluster.image if version == "1" else cluster.image2
    return WEB.format(image=image, replicas=replicas, version=version)


def test_a_compose_file_is_served_under_its_host_names(whole: Whole) -> None:
    shown = whole.deploy(web(whole))
    assert "web.test" in shown
    whole.healthy("test/web", 3)
    whole.wait(lambda: whole.get("web.test")[0] == 200, 10, "route serves")
    answered = {whole.get("web.test")[1] for _ in range(30)}
    assert len(answered) == 3, "all replicas take part"
    assert whole.get("WEB.test:80")[0] == 200
    assert whole.get("elsewhere.test")[0] == 404
    assert whole.get("many.test", "/webshop")[0] == 404, "a path ends where its segment ends"
    nodes = [item["node"] for item in whole.running("test/web")]
    assert sorted(nodes) == ["n1", "n2", "n3"], "replicas are spread"


def test_deploying_the_same_again_changes_nothing(whole: Whole) -> None:
    before = {name: whole.containers(name) for name in whole.nodes}
    assert "unchanged" in whole.deploy(web(whole))
    assert {name: whole.containers(name) for name in whole.nodes} == before


def test_a_dry_run_foretells_and_does_nothing(whole: Whole) -> None:
    shown = whole.deploy(web(whole, replicas=6), "--dry-run")
    assert "n1" in shown
    assert len(whole.running("test/web")) == 3


def test_what_cannot_be_honoured_is_refused_by_name_and_changes_nothing(whole: Whole) -> None:
    with pytest.raises(TestbedError, match="volumes"):
        whole.deploy("services:\n  db:\n    image: db:1\n    volumes: ['data:/var/lib/db']\n")
    with pytest.raises(TestbedError, match=r"replicas"):
        whole.deploy("services:\n  db:\n    image: db:1\n    deploy: {replicas: many}\n")
    assert "test/db" not in whole.deployments()


def test_what_does_not_fit_waits_and_says_why(whole: Whole) -> None:
    text = f"""
services:
  big:
    image: {whole.image}
    deploy: {{resources: {{reservations: {{memory: 900G}}}}}}
  east:
    image: {whole.image}
    x-fallow: {{selector: "zone=east"}}
"""
    whole.deploy(text, "--no-wait")

    def explained(name: str) -> str:
        return whole.fallow("explain", f"test/{name}")

    whole.wait(lambda: "memory" in explained("big"), 10, "reason of big")
    assert "900.0 GiB" in explained("big") or "900 GiB" in explained("big")
    assert "zone" in explained("east")
    for name in ("big", "east"):
        whole.fallow("deployment", "delete", f"test/{name}")
    whole.wait(lambda: list(whole.deployments()) == ["test/web"], 20, "deletion")


def test_limits_are_those_asked_for_and_privileges_dropped(whole: Whole) -> None:
    (replica, *_) = whole.running("test/web")
    node = whole.nodes[str(replica["node"])]
    container = whole.containers(node.name)[str(replica["id"])]
    raw = node.run("curl", "-s", "--unix-socket", node.socket_inside, f"http://d/containers/{container}/json")
    host = json.loads(raw)["HostConfig"]
    assert host["Memory"] == 64 * 2**20
    assert any("no-new-privileges" in option for option in host["SecurityOpt"])


def test_logs_come_from_the_node(whole: Whole) -> None:
    assert "listens on port 8080" in whole.fallow("logs", "test/web")


def test_scaling_and_a_new_version_lose_no_request(whole: Whole) -> None:
    load = Load("127.0.0.1", whole.http_port, ["web.test"], clients=6)
    load.start()
    try:
        whole.fallow("deployment", "scale", "test/web=6")
        whole.healthy("test/web", 6)
        whole.fallow("deployment", "scale", "test/web=2")
        whole.healthy("test/web", 2)
        whole.deploy(web(whole, replicas=3, version="2"))
        whole.healthy("test/web", 3)
        whole.fallow("node", "drain", "n1", "--timeout", "60s")
        whole.healthy("test/web", 3)
        assert "n1" not in {item["node"] for item in whole.running("test/web")}
        whole.fallow("node", "uncordon", "n1")
    finally:
        load.stop()
    assert load.failures == []
    assert load.sent.total() > 200
    assert '"version": "2"' in whole.get("web.test")[1]


def test_a_crashing_container_is_started_again(whole: Whole) -> None:
    replica = whole.running("test/web")[0]
    (port,) = replica["host_ports"].values()  # type: ignore[attr-defined]
    subprocess.run(["curl", "-s", "-X", "POST", f"http://{replica['address']}:{port}/crash"], check=False)

    def restarted() -> bool:
        found = next(item for item in whole.replicas() if item["id"] == replica["id"])
        return found["restarts"] == 1 and found["health"] == "healthy"

    whole.wait(restarted, 20, "restart")


def test_agents_restarted_and_killed_touch_no_container_and_need_no_token(whole: Whole) -> None:
    whole.healthy("test/web", 3)
    before = {name: whole.containers(name) for name in whole.nodes}
    whole.agents["n1"].terminate()
    os.kill(whole.agents["n2"].inner_pid, signal.SIGKILL)
    for name in ("n1", "n2"):
        whole.agents[name].wait(15)
    assert {name: whole.containers(name) for name in whole.nodes} == before
    began = time.time()
    for name in ("n1", "n2"):
        whole.join(name)

    def reported() -> bool:
        members = whole.members()
        return all(members[name]["connected"] and members[name]["last_seen_at"] > began for name in ("n1", "n2"))

    whole.wait(reported, 20, "both agents back")
    whole.wait_ready("n1", "n2")
    whole.healthy("test/web", 3)
    assert {name: whole.containers(name) for name in whole.nodes} == before


def test_killing_the_control_plane_loses_nothing_and_stops_nothing(whole: Whole) -> None:
    whole.fallow("deployment", "scale", "test/web=4")
    whole.kill_server()
    load = Load("127.0.0.1", whole.http_port, ["web.test"], clients=4)
    load.start()
    try:
        gateway = whole.gateways["gw1"]
        gateway.kill()
        gateway.wait(10)
        whole.wait(lambda: load.sent.total() > 100, 20, "requests without control plane and gateway agent")
        whole.start_gateway("gw1", whole.http_port)
        whole.start_server()
        whole.wait_ready("n1", "n2", "n3", "gw1")
        whole.healthy("test/web", 4)
    finally:
        load.stop()
    assert load.failures == []
    assert "dead" not in whole.fallow("events", "--json").lower()


def test_our_own_outage_declares_nobody_dead(whole: Whole) -> None:
    assert whole.server is not None
    before = {item["id"] for item in whole.running("test/web")}
    whole.server.send_signal(signal.SIGSTOP)
    time.sleep(10)  # longer than silence may last; nothing can be waited for while the watcher sleeps
    whole.server.send_signal(signal.SIGCONT)
    whole.wait_ready("n1", "n2", "n3", "gw1")
    whole.healthy("test/web", 4)
    assert {item["id"] for item in whole.running("test/web")} == before


def test_a_node_cut_off_is_replaced_and_stops_what_it_lost_when_it_returns(whole: Whole) -> None:
    victim = str(whole.running("test/web")[0]["node"])
    held = set(whole.containers(victim))
    assert held
    whole.fabric.cut(victim)
    whole.wait(lambda: whole.members()[victim]["state"] == "dead", 20, "death")
    others = {name for name in whole.nodes if name != victim}

    def replaced() -> bool:
        found = whole.running("test/web")
        return (
            len(found) == 4
            and {item["node"] for item in found} <= others
            and all(item["health"] == "healthy" for item in found)
        )

    whole.wait(replaced, 30, "replacement elsewhere")
    assert set(whole.containers(victim)) == held, "a node that is cut off keeps its containers running"
    whole.fabric.restore(victim)
    whole.wait_ready(victim, seconds=30)
    whole.wait(lambda: whole.containers(victim) == {}, 30, "the lost replicas' containers stopped")


def test_a_rebooted_node_needs_no_token_and_runs_again_what_it_had(whole: Whole) -> None:
    node = whole.nodes["n3"]
    whole.healthy("test/web", 4)
    node.power_cut()
    node.power_on()
    whole.join("n3")
    whole.wait(lambda: whole.members()["n3"]["state"] == "ready", 30, "n3 ready")
    whole.healthy("test/web", 4)


def test_a_removed_node_is_turned_away_for_good(whole: Whole) -> None:
    whole.fallow("node", "drain", "n3", "--timeout", "60s")
    whole.fallow("node", "remove", "n3")
    assert whole.agents["n3"].wait(20) == 77
    assert "n3" not in whole.members()
    whole.healthy("test/web", 4)


def test_secrets_are_nowhere_to_be_read(whole: Whole) -> None:
    token = whole.token("node")
    secret = token.split(".")[2]
    folder = whole.fabric.folder
    logs = [folder / "server.log", *(folder / name / "agent.log" for name in ("n1", "n2", "n3"))]
    logs.append(folder / "gw1" / "gateway.log")
    for log in logs:
        text = log.read_text(errors="replace")
        assert "hunter2-topsecret" not in text
        assert "fallow-join." not in text
        assert "fallow-api." not in text
    stored = b"".join(path.read_bytes() for path in (folder / "server").glob("fallow.db*"))
    assert secret.encode() not in stored
    listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "hunter2-topsecret" not in listed
    assert "fallow-join." not in listed
    assert "hunter2-topsecret" not in whole.fallow("events", "--json")


def test_deleting_leaves_nothing(whole: Whole) -> None:
    whole.fallow("deployment", "delete", "test/web")
    whole.wait(lambda: whole.deployments() == {}, 30, "deletion")
    whole.wait(lambda: all(whole.containers(name) == {} for name in ("n1", "n2")), 20, "no container left")
    whole.wait(lambda: whole.get("web.test")[0] == 404, 10, "route gone")
