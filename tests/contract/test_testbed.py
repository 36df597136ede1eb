"""The testbed keeps what it promises: real power cuts, real cables, nothing left behind."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_backends import DEADLINE_SECONDS

from testbed import images, parts, processes
from testbed.engines import EngineNode, engine_node
from testbed.fabric import Fabric
from testbed.registry import Registry

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    parts.require("namespaces")
    with Fabric() as made:
        yield made


@pytest.fixture(scope="module")
def node(fabric: Fabric) -> Iterator[EngineNode]:
    if parts.missing("podman") and parts.missing("docker"):
        parts.require("podman", "docker")
    made = engine_node(fabric, "one")
    made.power_on()
    yield made
    made.power_cut()


def wait(condition: object, what: str) -> None:
    processes.wait_until(condition, DEADLINE_SECONDS, what)  # type: ignore[arg-type]


def test_a_power_cut_ends_what_runs_inside(node: EngineNode, tmp_path: Path) -> None:
    process = node.run_inside(["sleep", "600"], tmp_path / "log")
    wait(lambda: process.inner_pid, "the process inside")
    inner = process.inner_pid
    before = node.run("cat", "/proc/sys/kernel/random/boot_id")
    node.reboot()
    assert process.wait(10) != 0
    assert processes.start_time(inner) == ""
    assert node.run("cat", "/proc/sys/kernel/random/boot_id") != before


def test_a_process_inside_can_be_asked_to_end(node: EngineNode, tmp_path: Path) -> None:
    script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    log = tmp_path / "log"
    process = node.run_inside(["sh", "-c", script], log, {"GREETING": "hi"})
    wait(lambda: "ready" in log.read_text(), "its trap")
    process.terminate()
    assert process.wait(10) == 5
    assert "told" in log.read_text()


def test_the_engine_is_where_its_users_look_for_it(node: EngineNode, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import asyncio; from fallow.drivers.engine.detect import find_engine\n"
        "async def main():\n"
        "    engine = await find_engine(environment={})\n"
        "    print((await engine.info()).hostname); await engine.close()\n"
        "asyncio.run(main())"
    )
    assert node.run_inside([sys.executable, "-c", code], log).wait(60) == 0, log.read_text()
    assert log.read_text().strip() == "one"


def test_a_pulled_cable_cuts_off(fabric: Fabric, node: EngineNode, tmp_path: Path) -> None:
    server = node.run_inside([sys.executable, "-m", "http.server", "8999", "-d", str(tmp_path)], tmp_path / "log")

    def reached() -> bool:
        return "log" in get(f"http://{node.address}:8999/", timeout=1)

    wait(reached, "the server on the node")
    fabric.cut("one")
    assert not reached()
    fabric.restore("one")
    wait(reached, "the server after the cable is back")
    server.terminate()
    server.wait(10)


def test_what_a_killed_program_left_is_swept() -> None:
    parts.require("namespaces")
    code = (
        "import time; from testbed.fabric import Fabric\n"
        "fabric = Fabric(); network = fabric.node('left')\n"
        "process = fabric.popen(network, ['sleep', '600'], fabric.folder / 'log')\n"
        "print(fabric.folder, process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder, pid = owner.stdout.readline().split()
        assert Path(folder) not in Fabric.sweep()  # its owner lives
        assert processes.start_time(int(pid))
        owner.send_signal(signal.SIGKILL)
    assert Path(folder) in Fabric.sweep()
    assert not Path(folder).exists()
    assert processes.start_time(int(pid)) == ""
    name = "fw" + Path(folder).name.rpartition("-")[2]
    assert not [
        entry for entry in Path("/run/netns").iterdir() if entry.name == name or entry.name.startswith(name + "-")
    ]
    assert not Path("/sys/class/net", name).exists()


async def test_the_shop_finishes_what_it_has_begun(tmp_path: Path) -> None:
    """Clients that keep connections and clients that do not see no error while it is told to end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = tmp_path / "log"
    process = processes.start(
        [sys.executable, str(ROOT / "examples/shop/app.py")], log, {"PORT": str(port), "VERSION": "7", "NAME": "shop"}
    )
    try:
        begun = time.monotonic()
        await asyncio.to_thread(wait, lambda: "listens" in log.read_text(), "the shop")
        assert time.monotonic() - begun < 5
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await ask(reader, writer, "/"))["version"] == "7"
        slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", port)
        slow = asyncio.create_task(ask(slow_reader, slow_writer, "/slow?seconds=1.5"))
        await asyncio.sleep(0.1)
        process.terminate()
        await asyncio.to_thread(wait, lambda: "leaving" in log.read_text(), "that it heard")
        assert (await ask(reader, writer, "/"))["app"] == "shop"  # was on its way
        assert (await asyncio.wait_for(slow, 10))["app"] == "shop"
        assert await asyncio.to_thread(process.wait, 10) == 0
        writer.close()
        slow_writer.close()
    finally:
        processes.stop(process)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> dict[str, str]:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 200 ")
    length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
    answer: dict[str, str] = json.loads(await reader.readexactly(length))
    return answer


def test_the_shop_runs_from_its_image(fabric: Fabric, node: EngineNode) -> None:
    parts.require("registry", "busybox")
    registry = Registry(fabric, port=5002)
    shop = engine_node(fabric, "shop", insecure_registries=(registry.address,))
    shop.power_on()
    try:
        first, second = (images.push(registry.address, f"shop:{v}", images.shop(v)) for v in ("1", "2"))
        remote = ["podman", "--remote", f"--url={shop.url}"] if shop.kind == "podman" else ["docker", f"-H={shop.url}"]
        for port, reference in ((20001, first), (20002, second)):
            subprocess.run(
                [*remote, "run", "-d", "--cap-drop=ALL", f"-p={port}:8080", reference], check=True, timeout=60
            )
        for port, version in ((20001, "1"), (20002, "2")):
            wait(lambda port=port, v=version: f'"version": "{v}"' in get(f"http://{shop.address}:{port}/"), "the shop")
    finally:
        shop.power_cut()
        registry.close()


def get(url: str, timeout: float = 5) -> str:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
