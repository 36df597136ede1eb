"""What the engine contract's tests need of a back-end: images to pull, and ways to act behind the driver's back."""

import asyncio
import dataclasses
import gzip
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from fallow.drivers.engine.contract import ContainerRequest, Credentials, Engine, EngineError, StoredImage
from fallow.drivers.engine.docker_api import DockerApiEngine
from fallow.drivers.engine.fake import FakeEngine, FakeMachine, Program
from fallow.drivers.engine.fake_images import fake_archive
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from testbed import images, parts, registry
from testbed.engines import DockerNode, EngineNode, PodmanNode
from testbed.fabric import Fabric
from testbed.registry import Registry

DEADLINE_SECONDS = 20.0
SLEEPS_DEAF = ("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done")
SAYS = ("sh", "-c", "echo first; echo second >&2; exit 3")
SAYS_AND_STAYS = ("sh", "-c", "trap 'exit 0' TERM; echo first; while :; do sleep 0.1; done")


@dataclass
class Backend:
    """One engine under test."""

    kind: str
    connect: Callable[[str], Engine]
    image: str
    private: str
    other_platform: str
    missing: str
    make_foreign: Callable[[str], str]  # a container of somebody else by this name; returns its id
    remove_foreign: Callable[[str], object]
    is_there: Callable[[str], bool]
    power_cycle: Callable[[], None]
    credentials: Credentials = field(
        default_factory=lambda: Credentials(username=registry.USERNAME, password=registry.PASSWORD)
    )
    node: EngineNode | None = None
    url: str = ""
    second: str = ""  # another image, which shares nothing with `image`
    faulty: str = ""  # host and port where a test may put a registry of its own
    nowhere: str = ""  # a registry that is not there
    archive: Callable[[str], bytes] = bytes  # a gzipped tar file with `image` under a name

    @property
    def real(self) -> bool:
        """Say whether containers are more than values."""
        return self.node is not None


def request(replica_id: str, image: str, **spec: object) -> ContainerRequest:
    """Return a request for a container that runs until it is stopped, unless `spec` says otherwise."""
    return ContainerRequest(
        replica_id=replica_id,
        deployment="default/shop",
        spec=ContainerSpec(image=image, **spec),  # type: ignore[arg-type]
        spec_hash="hash-1",
    )


async def until(check: Callable[[], object], what: str) -> None:
    """Return when `check` (sync or async) gives something true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        answer = check()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s: {what}"
        await asyncio.sleep(0.02)


async def refused(kind: str, call: Awaitable[object]) -> str:
    """Return what an engine says that refuses a call for the right reason."""
    with pytest.raises(EngineError) as caught:
        await call
    assert caught.value.kind == kind, str(caught.value)
    assert str(caught.value)
    return str(caught.value)


async def wipe(engine: Engine, image: StoredImage) -> None:
    """Delete an image by every name it has."""
    for name in (*image.references, *image.digests) or (image.id,):
        await engine.delete_image(name)


async def leave(engine: Engine, *, images_too: bool = False) -> None:
    """Remove the containers of a driver's node, and with `images_too` every image, and close it."""
    for container in await engine.list():
        await engine.stop(container.id, 0)
        await engine.remove(container.id)
    for image in await engine.images() if images_too else ():
        await wipe(engine, image)
    await engine.close()


def fake_backend() -> Backend:
    """Return a machine in memory, scripted to do what the real images do."""
    machine = FakeMachine(architecture=images.ARCHITECTURE)
    machine.publish("registry.test/busybox:1")
    machine.publish("registry.test/second:1")
    machine.publish("registry.test/private:1", password=registry.PASSWORD)
    machine.publish("registry.test/other:1", architecture="s390x")
    machine.programs[SAYS] = Program(output=("first", "second"), exit_code=3)
    machine.programs[SAYS_AND_STAYS] = Program(output=("first",))
    machine.programs[SLEEPS_DEAF] = Program(output=("deaf",), heeds_stop=False)
    machine.commands[("sh", "-c", "exit 7")] = 7
    machine.commands[("sleep", "60")] = None
    machine.commands[("/not/there",)] = 127

    def make_foreign(name: str) -> str:
        foreign = request(name.removeprefix("fallow-"), "registry.test/busybox:1")
        return machine.add(foreign, "somebody").container.id

    def power_cycle() -> None:
        machine.set_online(False)
        machine.power_cut()
        machine.set_online(True)

    return Backend(
        kind="fake",
        connect=lambda node_id: FakeEngine(machine, node_id),
        image="registry.test/busybox:1",
        second="registry.test/second:1",
        archive=fake_archive,
        private="registry.test/private:1",
        other_platform="registry.test/other:1",
        missing="registry.test/missing:1",
        make_foreign=make_foreign,
        remove_foreign=lambda container_id: machine.discard(machine.boxes("somebody")[0]),
        is_there=lambda container_id: machine.box(container_id, "somebody") is not None,
        power_cycle=power_cycle,
    )


@contextmanager
def real_backend(kind: str) -> Iterator[Backend]:
    """Start an engine and registries in a network of their own; skips the tests where that cannot be."""
    parts.require(kind, "registry", "busybox")
    with Fabric() as fabric:
        public, private = Registry(fabric), Registry(fabric, port=5001, password=True)
        busybox, faulty = images.busybox(), f"{fabric.host_address}:5002"
        other = images.LocalImage(busybox.layers, busybox.command, busybox.environment, architecture="s390x")
        login = {"username": registry.USERNAME, "password": registry.PASSWORD}
        node = {"podman": PodmanNode, "docker": DockerNode}[kind](
            fabric, "one", insecure_registries=(public.address, private.address, faulty)
        )
        node.power_on()
        try:
            yield Backend(
                kind=kind,
                connect=lambda node_id: DockerApiEngine(node.url, node_id),
                image=images.push(public.address, "busybox:1", busybox),
                second=images.push(public.address, "second:1", dataclasses.replace(busybox, environment={"A": "b"})),
                faulty=faulty,
                nowhere=f"{fabric.host_address}:5003",
                archive=lambda name: gzip.compress(images.archive(name, busybox), compresslevel=1),
                private=images.push(private.address, "private:1", busybox, **login),
                other_platform=images.push(public.address, "other:1", other),
                missing=f"{public.address}/missing:1",
                make_foreign=lambda name: _cli(node, "create", "--name", name, f"{public.address}/busybox:1"),
                remove_foreign=lambda container_id: _cli(node, "rm", container_id),
                is_there=lambda container_id: container_id in _cli(node, "ps", "-aq", "--no-trunc"),
                power_cycle=node.reboot,
                node=node,
                url=node.url,
            )
        finally:
            node.power_cut()


def _cli(node: EngineNode, *command: str) -> str:
    """Use the engine's own program: the driver is what is tested."""
    program = ["podman", "--remote", "--url", node.url] if node.kind == "podman" else ["docker", "--host", node.url]
    done = subprocess.run([*program, *command], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


PORT = PortSpec(container=8080)
LIMITS = Resources(cpus=0.5, cpu_limit=0.25, memory_limit_bytes=64 * 2**20, pids_limit=77)
