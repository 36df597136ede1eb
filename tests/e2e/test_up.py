"""`fallow up`: one machine that is control plane, node and gateway, as a new user has it."""

import subprocess
from collections.abc import Iterator

import pytest

from testbed import images, parts, processes
from testbed.cluster import FALLOW, tail
from testbed.engines import EngineNode, engine_node
from testbed.fabric import Fabric
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


class Machine:
    """A machine with an engine, on which a user types commands."""

    def __init__(self, node: EngineNode, image: str) -> None:
        self.node = node
        self.image = image
        self.home = {"XDG_CONFIG_HOME": str(node.folder / "config"), "NO_COLOR": "1"}
        self.log = node.folder / "up.log"

    def up(self) -> subprocess.Popen[bytes]:
        return self.node.run_inside([FALLOW, "up", "--data", str(self.node.folder / "up")], self.log, self.home)

    def fallow(self, *arguments: str, check: bool = True) -> str:
        return self.node.run("env", *(f"{name}={value}" for name, value in self.home.items()), FALLOW, *arguments,
                             check=check)  # fmt: skip

    def served(self, host: str) -> bool:
        got = self.node.run("curl", "-s", "-m", "5", "-H", f"Host: {host}", "http://127.0.0.1:8080/", check=False)
        return '"app"' in got

    def wait(self, condition: object, seconds: float, what: str) -> None:
        try:
            processes.wait_until(condition, seconds, what)  # type: ignore[arg-type]
        except processes.TestbedError as error:
            raise AssertionError(f"{error}\n{tail(self.log)}") from None


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl")
    with Fabric() as fabric:
        registry = Registry(fabric)
        image = images.push(registry.address, "shop:1", images.shop("1"))
        node = engine_node(fabric, "box", insecure_registries=(registry.address,))
        node.power_on()
        yield Machine(node, image)
        node.power_cut()


def test_up_serves_a_compose_file_and_survives_its_own_restart(machine: Machine) -> None:
    process = machine.up()
    machine.wait(lambda: machine.fallow("node", "list", check=False).count("ready") == 1, 30, "the node is ready")
    file = machine.node.folder / "compose.yaml"
    file.write_text(
        f"name: hello\nservices:\n  web:\n    image: {machine.image}\n    expose: ['8080']\n"
        "    deploy: {replicas: 2}\n    x-fallow: {routes: [http://hello.localhost]}\n"
    )
    told = machine.fallow("deploy", str(file), "--timeout", "60s")
    assert "http://hello.localhost" in told
    machine.wait(lambda: machine.served("hello.localhost"), 15, "the gateway serves")

    process.terminate()
    assert process.wait(30) == 0
    assert machine.fallow("node", "list", check=False).count("ready") == 0
    again = machine.up()
    machine.wait(lambda: machine.fallow("node", "list", check=False).count("ready") == 1, 30, "the node is back")
    machine.wait(lambda: machine.served("hello.localhost"), 15, "the gateway serves again")
    again.terminate()
    assert again.wait(30) == 0


def test_up_without_an_engine_says_what_to_do(machine: Machine) -> None:
    told = subprocess.run(
        [FALLOW, "up", "--data", str(machine.node.folder / "none"), "--engine", "unix:///nowhere.sock",
         "--listen", "127.0.0.1:0", "--session-listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=60, check=False, env=dict(machine.home, PATH="/usr/bin:/usr/sbin"),
    )  # fmt: skip
    assert told.returncode == 1
    assert "No container engine at unix:///nowhere.sock" in told.stderr
    assert "Traceback" not in told.stderr
