"""New versions, good and bad, on real parts and under real requests; the tests follow each other on one cluster."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from whole_cluster import Whole, no_request_fails

from testbed import images
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

SERVICE = """
  {name}:
    image: {image}
    environment: {{NAME: {name}, VERSION: "{version}"}}
    expose: ["8080"]
    deploy:
      replicas: 2
      resources: {{reservations: {{memory: 32M}}}}
      update_config: {{parallelism: {portion}, monitor: {monitor}}}
    x-fallow:
      routes: [http://{name}.test]
      health: {{http: /healthz, interval: 300ms, retries: 2}}
"""
BAD = ("gone", "exits", "sick")


def services(images_by_name: dict[str, str], version: str = "1", portion: int = 0) -> str:
    monitor = "3s" if portion else "500ms"
    return "services:\n" + "".join(
        SERVICE.format(name=name, image=image, version=version, portion=portion, monitor=monitor)
        for name, image in images_by_name.items()
    )


def update(cluster: Whole, name: str) -> dict[str, Any]:
    return dict(cluster.deployments()[f"test/{name}"]["update"])


def test_bad_versions_go_back_by_themselves_and_no_request_fails(whole: Whole) -> None:
    registry = whole.image.partition("/")[0]
    exits = images.push(registry, "bad:exits", replace(images.busybox(), command=("/bin/false",)))
    sick = images.push(registry, "bad:sick", images.busybox())
    whole.deploy(services(dict.fromkeys((*BAD, "good"), whole.image)))
    for name in (*BAD, "good"):
        whole.wait(lambda name=name: whole.get(f"{name}.test")[0] == 200, 30, f"{name} serves")
        whole.wait(lambda name=name: _good(whole, name) == 1, 10, f"{name} has proved itself")
    with no_request_fails(whole, *BAD):
        bad = {"gone": f"{registry}/bad:none", "exits": exits, "sick": sick}
        with pytest.raises(TestbedError) as failure:
            whole.deploy(services(bad, version="2"))
        assert str(failure.value).count("went back to generation 1") == 3
    for name in BAD:
        assert "failed" in update(whole, name)["reason"]
        assert '"version": "1"' in whole.get(f"{name}.test")[1]
        assert {item["generation"] for item in whole.running(f"test/{name}") if item["state"] == "running"} == {1}
    assert "RollbackStarted" in whole.fallow("events", "--subject", "test/exits")
    for name in BAD:
        whole.fallow("deployment", "delete", f"test/{name}")


def _good(cluster: Whole, name: str) -> int:
    found = json.loads(cluster.fallow("deployment", "history", f"test/{name}", "--json"))["items"]
    return next((each["generation"] for each in found if each["good"]), 0)


def test_an_update_a_pause_a_restart_and_a_way_back_lose_no_request(whole: Whole) -> None:
    with no_request_fails(whole, "good"):
        whole.deploy(services({"good": whole.image2}, "2", portion=1), "--no-wait")
        assert "paused" in whole.fallow("deployment", "pause", "test/good")
        assert update(whole, "good")["state"] == "paused"
        whole.fallow("deployment", "scale", "test/good", "3", "--wait", "--timeout", "30s")
        time.sleep(1)  # nothing can be waited for where nothing may happen
        found = {item["generation"] for item in whole.running("test/good") if item["health"] == "healthy"}
        assert 1 in found, "a paused update is not finished"
        whole.deploy(services({"good": whole.image2}, "2"), "--no-wait")  # another way to update, and 2 again
        whole.fallow("deployment", "resume", "test/good", "--wait", "--timeout", "60s")
        assert '"version": "2"' in whole.get("good.test")[1]
        before = {item["id"] for item in whole.running("test/good")}
        whole.fallow("deployment", "restart", "test/good", "--wait", "--timeout", "60s")
        assert before.isdisjoint({item["id"] for item in whole.running("test/good") if item["state"] == "running"})
        whole.fallow("deployment", "rollback", "test/good", "--to", "1", "--wait", "--timeout", "60s")
        assert '"version": "1"' in whole.get("good.test")[1]
    history = whole.fallow("deployment", "history", "test/good")
    assert "rollback to 1" in history
    assert "restart" in history
    assert "rolled-back" in whole.fallow("deployment", "show", "test/good")
