"""What a change of labels, of a label set, or of what a node measures does at once, with the real loops."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from control_rig import until
from records import deployment, template
from session_rig import Connection, Machine, hello

from fallow.control.plane import ControlPlane, session_context
from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.placement import place
from fallow.decide.plan import Step
from fallow.decide.selectors import parse_selector
from fallow.drivers.authority import Authority
from fallow.model.containers import ContainerSpec
from fallow.model.credentials import SERVER_NAME
from fallow.model.deployments import DeploymentSpec, PlacementPolicy
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget
from fallow.model.labels import LabelSet, Variable
from fallow.model.members import Member, MemberState
from fallow.model.wire import Assign, Heartbeat, Usage, Welcome
from fallow.store.open import open_store

UNHURRIED = ("placement", "image-jobs")


class Unhurried(ControlPlane):
    """A control plane that does nothing of this because time passes: so it was woken, however busy the machine is."""

    def _led_controllers(self) -> Sequence[Controller]:
        found = super()._led_controllers()
        return [replace(loop, every_seconds=3600.0) if loop.name in UNHURRIED else loop for loop in found]


class World:
    """A control plane with one connected node `a`, and one deployment placed by a policy."""

    def __init__(self, plane: ControlPlane, connection: Connection) -> None:
        self.plane = plane
        self.connection = connection
        self.usage = Usage(disk_free_bytes=19 * 2**30)

    async def write(self, *records: object) -> None:
        await self.plane.applier.commit(Step(puts=records))  # type: ignore[arg-type]

    @property
    def node(self) -> Member:
        return self.plane.cache.snapshot().members["n-a"]

    async def pending(self, reason: str) -> None:
        """Wait until the loops have looked at the only replica, and this is all that keeps it from the node."""

        def waits() -> bool:
            snapshot = self.plane.cache.snapshot()
            placement = place(snapshot, time.time(), self.plane.hub.usages())
            return (
                self.node.state is MemberState.READY
                and [found.reason is not None for found in snapshot.replicas.values()] == [True]
                and [reason in found.reason.text for found in placement.rejections] == [True]
            )

        await until(waits)

    async def beat(self) -> None:
        """Be alive."""
        while True:
            await self.connection.say(Heartbeat(usage=self.usage))
            await asyncio.sleep(0.2)

    async def placed(self) -> None:
        """Wait until the node is told of the replica."""
        frame = await self.connection.hear_a(Assign)
        assert len(frame.assignments) == 1


@asynccontextmanager
async def world(folder: Path, policy: PlacementPolicy, *more: object, **changes: object) -> AsyncIterator[World]:
    authority = Authority.create_or_load(folder / "ca")
    plane = Unhurried(await open_store("memory:"), authority, Settings(), time.time, folder)
    pair = folder / "server.pem"
    pair.write_text("".join(authority.issue_server([], time.time())))
    spec = DeploymentSpec(replicas=1, container=ContainerSpec(image="shop:1"), placement=policy)
    web = deployment("web", 1, revision=0, spec=spec)
    machine = Machine(authority, folder, "a")
    machine.record = msgspec.structs.replace(machine.record, state=MemberState.JOINING, labels={"zone": "a"})
    try:
        await plane.start()
        port = await plane.listen("127.0.0.1", 0, session_context(pair, authority.ca_pem))
        records = (machine.record, web, msgspec.structs.replace(template(web), revision=0), *more)
        await plane.applier.commit(Step(puts=records))  # type: ignore[arg-type]
        context = machine.context()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=SERVER_NAME)
        connection = Connection(reader, writer)
        await connection.say(hello(machine, **changes))
        await connection.hear_a(Welcome)
        assert (await connection.hear_a(Assign)).assignments == ()
        made = World(plane, connection)
        beating = asyncio.create_task(made.beat())
        yield made
        beating.cancel()
        writer.transport.abort()
    finally:
        await plane.stop()


async def test_relabelling_places_a_pending_replica_at_once(tmp_path: Path) -> None:
    policy = PlacementPolicy(selector=parse_selector("zone=b"))
    async with world(tmp_path, policy) as here:
        await here.pending("zone is not b")
        await here.write(msgspec.structs.replace(here.node, labels={"zone": "b"}))
        await here.placed()


async def test_changing_a_label_set_places_a_pending_replica_at_once(tmp_path: Path) -> None:
    west = LabelSet(id="west", created_at=0.0, updated_at=0.0, selector=parse_selector("zone=b"))
    async with world(tmp_path, PlacementPolicy(selector=parse_selector("@west")), west) as here:
        await here.pending("not in the label set @west")
        stored = here.plane.cache.snapshot().label_sets["west"]
        await here.write(msgspec.structs.replace(stored, selector=parse_selector("zone in (a,b)")))
        await here.placed()


@pytest.mark.parametrize("change", ["labels", "label set"])
async def test_a_change_brings_a_node_into_an_open_image_job_at_once(tmp_path: Path, change: str) -> None:
    west = LabelSet(id="west", created_at=0.0, updated_at=0.0, selector=parse_selector("zone=b"))
    job = ImageJob(
        id="job", created_at=0.0, updated_at=0.0, action=ImageAction.DELETE, reference="registry.example/shop:1",
        target=ImageTarget(selector="@west"), wait_for_nodes=True,
    )  # fmt: skip
    async with world(tmp_path, PlacementPolicy(), west, job) as here:
        await until(lambda: here.node.state is MemberState.READY)
        assert not here.plane.cache.snapshot().image_tasks
        stored = here.plane.cache.snapshot().label_sets["west"]
        await here.write(
            msgspec.structs.replace(here.node, labels={"zone": "b"})
            if change == "labels"
            else msgspec.structs.replace(stored, selector=parse_selector("zone=a"))
        )
        await until(lambda: set(here.plane.cache.snapshot().image_tasks) == {"job.n-a"})


async def test_a_node_that_says_so_itself_gets_nothing(tmp_path: Path) -> None:
    said = (Variable(name="trusted", value="yes"), Variable(name="rack", value="r7"))
    policy = PlacementPolicy(selector=parse_selector("trusted=yes"), resources=parse_selector("rack=r7"))
    async with world(tmp_path, policy, variables=said) as here:
        await here.pending("trusted is not yes")
        await until(lambda: here.node.variables == said)
        assert here.node.labels == {"zone": "a"}
        await here.write(msgspec.structs.replace(here.node, labels={"trusted": "yes"}))
        await here.placed()


async def test_a_heartbeat_that_tells_of_room_places_a_pending_replica_soon(tmp_path: Path) -> None:
    policy = PlacementPolicy(resources=parse_selector("disk.free>=20GiB"))
    async with world(tmp_path, policy) as here:
        await until(lambda: "n-a" in here.plane.hub.usages())
        await here.pending("disk.free is not at least 20GiB")
        before = here.node.revision
        here.usage = Usage(disk_free_bytes=20 * 2**30)
        await here.placed()
        assert here.node.revision == before  # what changes with every heartbeat is nowhere stored
