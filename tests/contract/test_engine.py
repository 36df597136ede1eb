"""The engine contract, over the fake, Podman and Docker."""

import asyncio
import dataclasses
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from engine_backends import (
    LIMITS,
    PORT,
    SAYS,
    SAYS_AND_STAYS,
    SLEEPS_DEAF,
    Backend,
    leave,
    refused,
    request,
    until,
)

from fallow.drivers.engine.contract import Container, Credentials, Engine, EngineEvent, PullProgress
from fallow.drivers.engine.detect import find_engine
from fallow.drivers.engine.docker_api import DockerApiEngine

_numbers = itertools.count()


@pytest.fixture
async def engine(backend: Backend) -> AsyncIterator[Engine]:
    """A driver for a node of its own, with the image pulled; its containers are removed."""
    driver = backend.connect(f"node-{next(_numbers)}")
    if await driver.image(backend.image) is None:
        await driver.pull(backend.image)
    yield driver
    await leave(driver)


def fresh() -> str:
    return f"web-{next(_numbers)}"


async def run(engine: Engine, backend: Backend, **spec: object) -> Container:
    made = await engine.create(request(fresh(), backend.image, **spec))
    return await engine.start(made.id)


async def ended(engine: Engine, container_id: str) -> Container:
    async def has_ended() -> bool:
        found = await engine.inspect(container_id)
        return found is not None and found.status == "exited"

    await until(has_ended, "the container has ended")
    found = await engine.inspect(container_id)
    assert found is not None
    return found


async def test_info_tells_the_machine(engine: Engine, backend: Backend) -> None:
    info = await engine.info()
    assert info.name == backend.kind
    assert info.architecture in ("amd64", "arm64", "arm")
    assert info.cpus >= 1
    assert info.memory_bytes > 2**20
    assert info.disk_bytes >= info.disk_free_bytes > 0
    assert info.version
    assert info.hostname


async def test_image_is_there_after_a_pull(backend: Backend) -> None:
    engine = backend.connect("node-images")
    seen: list[PullProgress] = []
    assert await engine.image(backend.missing) is None
    pulled = await engine.pull(backend.image, None, seen.append)
    assert pulled == await engine.image(backend.image)
    assert backend.image in pulled.references
    assert pulled.size_bytes > 0
    assert seen
    assert all(progress.current_bytes <= progress.total_bytes for progress in seen)
    assert (await engine.pull(backend.image)).id == pulled.id
    await engine.close()


async def test_pull_of_a_missing_image_is_not_found(engine: Engine, backend: Backend) -> None:
    await refused("not-found", engine.pull(backend.missing))


async def test_pull_of_nonsense_is_refused(real: Backend, engine: Engine) -> None:
    await refused("bad-request", engine.pull("UPPER/case:1"))


async def test_pull_needs_the_right_credentials(engine: Engine, backend: Backend) -> None:
    await refused("denied", engine.pull(backend.private))
    wrong = Credentials(username="fallow", password="not-the-password")
    assert "not-the-password" not in await refused("denied", engine.pull(backend.private, wrong))
    assert (await engine.pull(backend.private, backend.credentials)).id


async def test_pull_of_another_platform_is_refused(engine: Engine, backend: Backend) -> None:
    await refused("wrong-platform", engine.pull(backend.other_platform))


async def test_create_makes_one_container_not_yet_started(engine: Engine, backend: Backend) -> None:
    wish = request(fresh(), backend.image)
    made = await engine.create(wish)
    assert made.status == "created"
    assert (made.replica_id, made.deployment, made.spec_hash) == (wish.replica_id, "default/shop", "hash-1")
    assert (made.exit_code, made.started_at) == (None, 0.0)
    assert (await engine.create(wish)).id == made.id
    assert [container.id for container in await engine.list()] == [made.id]
    await refused("conflict", engine.create(dataclasses.replace(wish, spec_hash="hash-2")))


async def test_create_twice_at_once_makes_one(engine: Engine, backend: Backend) -> None:
    wish = request(fresh(), backend.image)
    made = await asyncio.gather(*(engine.create(wish) for _ in range(3)))
    assert len({container.id for container in made}) == 1


async def test_create_without_the_image_is_not_found(engine: Engine, backend: Backend) -> None:
    await refused("not-found", engine.create(request(fresh(), backend.missing)))


async def test_secrets_stay_out_of_errors(real: Backend, engine: Engine) -> None:
    wish = request(fresh(), real.image, environment={"": "very-secret-value"}, cap_add=("NONSENSE",))
    assert "very-secret-value" not in await refused("bad-request", engine.create(wish))


async def test_life_of_a_container(engine: Engine, backend: Backend) -> None:
    before = time.time()
    container = await run(engine, backend, command=SAYS_AND_STAYS)
    assert container.status == "running"
    async with aclosing(engine.logs(container.id, follow=True)) as lines:  # it has set its trap
        assert await anext(lines) == "first"
    assert before - 2 <= container.started_at <= time.time() + 2
    assert (await engine.start(container.id)).status == "running"
    await refused("conflict", engine.remove(container.id))
    await engine.stop(container.id, 5)
    await engine.stop(container.id, 5)
    assert (await ended(engine, container.id)).exit_code == 0
    assert (await engine.start(container.id)).status == "running"
    await engine.stop(container.id, 5)
    await engine.remove(container.id)
    await engine.remove(container.id)
    await engine.stop(container.id, 5)
    assert await engine.inspect(container.id) is None
    await refused("not-found", engine.start(container.id))


async def test_exit_code_is_told(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend, command=SAYS)
    assert (await ended(engine, container.id)).exit_code == 3


async def test_the_deaf_are_killed_after_the_grace(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend, command=SLEEPS_DEAF)
    async with aclosing(engine.logs(container.id, follow=True)) as lines:  # it has set its trap
        assert await anext(lines) == "deaf"
    begun = time.monotonic()
    await engine.stop(container.id, 1)
    assert time.monotonic() - begun >= 0.9
    assert (await ended(engine, container.id)).exit_code == 137


async def test_a_command_that_is_not_there_is_a_bad_request(real: Backend, engine: Engine) -> None:
    made = await engine.create(request(fresh(), real.image, entrypoint=("/not/there",)))
    await refused("bad-request", engine.start(made.id))


async def test_limits_are_read_back(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend, resources=LIMITS)
    assert container.applied_cpus == pytest.approx(0.25)
    assert container.applied_memory_bytes == 64 * 2**20
    assert container.applied_pids == 77


async def test_limits_hold_in_the_kernel(real: Backend, engine: Engine) -> None:
    container = await run(engine, real, resources=LIMITS)
    assert real.node is not None
    groups = dict(_cgroups(real, container.id))
    if "memory" in groups:
        assert _read(f"/sys/fs/cgroup/memory{groups['memory']}/memory.limit_in_bytes") == str(64 * 2**20)
        assert _read(f"/sys/fs/cgroup/cpu{groups['cpu']}/cpu.cfs_quota_us") == "25000"
        assert _read(f"/sys/fs/cgroup/cpu{groups['cpu']}/cpu.shares") == "512"
        assert _read(f"/sys/fs/cgroup/pids{groups['pids']}/pids.max") == "77"
    else:
        assert _read(f"/sys/fs/cgroup{groups['']}/memory.max") == str(64 * 2**20)
        assert _read(f"/sys/fs/cgroup{groups['']}/cpu.max") == "25000 100000"
        assert _read(f"/sys/fs/cgroup{groups['']}/pids.max") == "77"


def _cgroups(real: Backend, container_id: str) -> Iterator[tuple[str, str]]:
    """Yield each controller, empty for version 2, and the container's group in it."""
    assert real.node is not None
    format_ = "--format={{.State.Pid}}"
    pid = real.node.run(real.kind, *_remote(real), "inspect", format_, container_id).strip()
    for line in real.node.run("cat", f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _remote(real: Backend) -> tuple[str, ...]:
    return ("--remote", f"--url={real.url}") if real.kind == "podman" else (f"--host={real.url}",)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


async def check(engine: Engine, container: Container, script: str) -> None:
    assert await engine.execute(container.id, ("sh", "-c", script), 10) == 0, script


async def test_capabilities_are_dropped(real: Backend, engine: Engine) -> None:
    # CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10; NET_RAW 13
    usual = await run(engine, real)
    await check(engine, usual, "grep -q 'CapBnd:.*00000000000004eb$' /proc/1/status")
    await check(engine, usual, "grep -q 'NoNewPrivs:.*1' /proc/1/status")
    bare = await run(engine, real, cap_drop=("ALL",), cap_add=("cap_net_raw",))
    await check(engine, bare, "grep -q 'CapBnd:.*0000000000002000$' /proc/1/status")


async def test_the_spec_reaches_the_container(real: Backend, engine: Engine) -> None:
    container = await run(
        engine,
        real,
        environment={"COLOUR": "dark blue", "EMPTY": ""},
        user="65534",
        working_dir="/var",
        hostname="shop-host",
        read_only=True,
        init=True,
        tmpfs=("/scratch:size=1m,mode=1777",),
        command=("sh", "-c", "pwd > /scratch/pwd; exec sleep 600"),
    )
    await check(engine, container, '[ "$COLOUR" = "dark blue" ] && [ "${EMPTY-unset}" = "" ]')
    await check(engine, container, '[ "$(id -u)" = 65534 ]')
    await check(engine, container, '[ "$(cat /scratch/pwd)" = /var ]')
    await check(engine, container, '[ "$(hostname)" = shop-host ]')
    await check(engine, container, "! touch /etc/new 2>/dev/null")
    await check(engine, container, "! grep -q sleep /proc/1/cmdline || ! grep -q '^sleep' /proc/1/cmdline")
    await check(engine, container, "grep ' /scratch tmpfs' /proc/mounts | grep -q size=1024k")


async def test_hostname_is_the_replica_unless_said(real: Backend, engine: Engine) -> None:
    container = await run(engine, real)
    await check(engine, container, f'[ "$(hostname)" = {container.replica_id} ]')


async def test_stop_signal_is_sent(real: Backend, engine: Engine) -> None:
    script = "trap 'exit 42' USR1; echo ready; while :; do sleep 0.1; done"
    container = await run(engine, real, command=("sh", "-c", script), stop_signal="SIGUSR1")
    async with aclosing(engine.logs(container.id, follow=True)) as lines:
        assert await anext(lines) == "ready"
    await engine.stop(container.id, 10)
    assert (await ended(engine, container.id)).exit_code == 42


async def test_published_port_answers(real: Backend, engine: Engine) -> None:
    assert real.node is not None
    wish = request(
        fresh(),
        real.image,
        ports=(PORT,),
        command=("sh", "-c", "echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp"),
    )
    made = await engine.create(
        dataclasses.replace(wish, host_ports={"8080/tcp": 20123}, bind_address=real.node.address)
    )
    container = await engine.start(made.id)
    assert container.host_ports == {"8080/tcp": 20123}
    assert container.address
    address = real.node.address

    async def answers() -> bool:
        return await _get(address, 20123) == "hello"

    await until(answers, "the published port answers")


async def _get(host: str, port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return ""
    return answer.decode().rpartition("\r\n\r\n")[2].strip()


async def test_port_in_use_is_told(engine: Engine, backend: Backend) -> None:
    containers = []
    for _ in range(2):
        wish = request(fresh(), backend.image, ports=(PORT,))
        containers.append(await engine.create(dataclasses.replace(wish, host_ports={"8080/tcp": 20124})))
    await engine.start(containers[0].id)
    await refused("port-in-use", engine.start(containers[1].id))
    await engine.stop(containers[0].id, 5)
    assert (await engine.start(containers[1].id)).status == "running"


async def test_another_nodes_containers_are_not_ours(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend)
    other = backend.connect("node-other")
    assert await other.list() == []
    assert await other.inspect(container.id) is None
    await refused("not-found", other.start(container.id))
    await refused("not-found", other.execute(container.id, ("true",), 5))
    await other.stop(container.id, 0)
    await other.remove(container.id)
    still = await engine.inspect(container.id)
    assert still is not None
    assert still.status == "running"
    await other.close()


async def test_foreign_containers_are_not_touched(engine: Engine, backend: Backend) -> None:
    replica_id = fresh()
    foreign = backend.make_foreign(f"fallow-{replica_id}")
    assert await engine.list() == []
    assert await engine.inspect(foreign) is None
    await engine.stop(foreign, 0)
    await engine.remove(foreign)
    await refused("conflict", engine.create(request(replica_id, backend.image)))
    assert backend.is_there(foreign)


async def test_a_new_driver_adopts_what_runs(backend: Backend) -> None:
    first = backend.connect("node-adopted")
    container = await run(first, backend, resources=LIMITS)
    await first.close()
    second = backend.connect("node-adopted")
    assert await second.list() == [container]
    await second.stop(container.id, 5)
    await second.remove(container.id)
    await second.close()


async def test_logs_of_both_streams(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend, command=SAYS)
    await ended(engine, container.id)
    lines = [line async for line in engine.logs(container.id)]
    assert sorted(lines) == ["first", "second"]
    assert len([line async for line in engine.logs(container.id, tail=1)]) == 1
    assert [line async for line in engine.logs(container.id, tail=0)] == []


async def test_logs_that_are_not_text(real: Backend, engine: Engine) -> None:
    container = await run(engine, real, command=("sh", "-c", r"printf 'a\377b\n'"))
    await ended(engine, container.id)
    assert [line async for line in engine.logs(container.id)] == ["a\ufffdb"]


async def test_logs_follow_until_the_end(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend, command=SAYS_AND_STAYS)
    lines: list[str] = []

    async def follow() -> None:
        async for line in engine.logs(container.id, follow=True):
            lines.append(line)  # noqa: PERF401 - looked at while it grows

    task = asyncio.create_task(follow())
    await until(lambda: lines == ["first"], "the first line has come")
    assert not task.done()
    await engine.stop(container.id, 5)
    await asyncio.wait_for(task, 10)
    await refused("not-found", anext(aiter(engine.logs("0" * 64))))


async def test_execute_gives_the_exit_code(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend)
    assert await engine.execute(container.id, ("true",), 10) == 0
    assert await engine.execute(container.id, ("sh", "-c", "exit 7"), 10) == 7
    assert await engine.execute(container.id, ("/not/there",), 10) in (126, 127)
    assert await engine.execute(container.id, ("sleep", "60"), 0.2) == 124
    await engine.stop(container.id, 5)
    await refused("conflict", engine.execute(container.id, ("true",), 10))


async def test_a_command_that_takes_too_long_is_killed(real: Backend, engine: Engine, tmp_path: Path) -> None:
    """It is where the engine's processes are in sight: on the node, as an agent runs."""
    assert real.node is not None
    container = await run(engine, real)
    code = (
        "import asyncio, sys; from fallow.drivers.engine.detect import find_engine\n"
        "async def main():\n"
        "    engine = await find_engine(node_id=sys.argv[1], environment={})\n"
        "    code = await engine.execute(sys.argv[2], ('sleep', '61'), 0.5)\n"
        "    await engine.close(); sys.exit(code)\n"
        "asyncio.run(main())"
    )
    log, node_id = tmp_path / "log", engine._node_id  # type: ignore[attr-defined]
    process = real.node.run_inside([sys.executable, "-c", code, node_id, container.id], log)
    assert await asyncio.to_thread(process.wait, 60) == 124, log.read_text()
    await until(lambda: "sleep 61" not in real.node.run("ps", "-eo", "args"), "the command was killed")


async def test_events_tell_a_life(engine: Engine, backend: Backend) -> None:
    other = backend.connect("node-noise")
    stream = engine.events()  # from here on, though nobody reads yet
    noise = await run(other, backend, command=SAYS)
    container = await run(engine, backend, command=SAYS)
    await ended(engine, container.id)
    await engine.remove(container.id)
    seen: list[EngineEvent] = []
    async with asyncio.timeout(15):
        async for event in stream:
            seen.append(event)
            if event.kind == "removed":
                break
    assert [(event.kind, event.exit_code) for event in seen] == [("started", None), ("exited", 3), ("removed", None)]
    assert {(event.container_id, event.replica_id) for event in seen} == {(container.id, container.replica_id)}
    assert all(abs(event.at - time.time()) < 30 for event in seen)
    await other.remove((await ended(other, noise.id)).id)
    await other.close()


async def test_many_at_once(engine: Engine, backend: Backend) -> None:
    containers = await asyncio.gather(*(run(engine, backend) for _ in range(8)))
    assert {container.id for container in await engine.list()} == {container.id for container in containers}
    await asyncio.gather(*(engine.stop(container.id, 5) for container in containers))
    assert {container.status for container in await engine.list()} == {"exited"}


async def test_a_power_cut_breaks_events_and_keeps_containers(engine: Engine, backend: Backend) -> None:
    container = await run(engine, backend)
    stream = engine.events()
    reading = asyncio.create_task(anext(aiter(stream)))
    await asyncio.sleep(0)
    await asyncio.to_thread(backend.power_cycle)
    await refused("unreachable", asyncio.wait_for(reading, 10))
    (found,) = await engine.list()
    assert found.id == container.id
    assert found.status != "running"
    assert (await engine.start(found.id)).status == "running"


async def test_an_absent_engine_is_unreachable() -> None:
    engine = DockerApiEngine("unix:///nonexistent/engine.sock", "node")
    await refused("unreachable", engine.info())
    await refused("unreachable", engine.list())
    await refused("unreachable", anext(aiter(engine.events())))
    await engine.close()


async def test_find_engine_finds_it_by_address(real: Backend) -> None:
    engine = await find_engine(real.url, node_id="node-found")
    info = await engine.info()
    assert info.name == real.kind
    assert await engine.product() == f"{info.name} {info.version}"
    assert await engine.list() == []
    await engine.close()
