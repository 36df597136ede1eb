"""An update that stops replicas first, while one has to leave its node and there is room nowhere else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import deployment, member, snapshot, template
from test_deployments_life import CONTAINER, World, healthy, served_slots

from fallow.model.containers import Resources
from fallow.model.members import Scheduling
from fallow.model.updates import UpdateConfig, UpdateState

LARGE = 3.0  # a node of four processors holds one


class Full(World):
    """A node for each replica, and room for no more than that."""

    def __init__(self, replicas: int, config: UpdateConfig) -> None:
        super().__init__(1, config)
        self.asked = replicas
        spec = msgspec.structs.replace(self.web.spec, replicas=replicas, container=self.container("shop:1", LARGE))
        web = deployment(spec=spec)
        lease = next(iter(self.state.members.values())).lease
        self.state = snapshot(web, template(web), *(member(f"m{number}", lease=lease) for number in range(replicas)))
        self.least = 0
        self.ticks(6)
        self.least = replicas

    def container(self, image: str, cpus: float) -> object:
        return msgspec.structs.replace(CONTAINER, image=image, resources=Resources(cpus=cpus))

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.now += 1.0
            self.loops()
            for replica in list(self.state.replicas.values()):
                self.truth(replica)
            self.check()
            self.least = min(self.least, len(served_slots(self.state)))

    def schedule(self, name: str, scheduling: Scheduling) -> None:
        self.write(msgspec.structs.replace(self.state.members[f"n-{name}"], scheduling=scheduling))

    def renewed(self) -> int:
        return sum(self.web.wants(found.generation) for found in healthy(self.state))


@pytest.mark.parametrize("ticks_before", [3, 0])
def test_what_the_update_frees_is_not_taken_by_a_move_that_has_no_room(ticks_before: int) -> None:
    world = Full(3, UpdateConfig(parallelism=1, monitor_seconds=1.0, order="stop-first"))
    world.schedule("m0", Scheduling.DRAINING)
    world.ticks(ticks_before)
    world.spec(container=world.container("shop:2", LARGE))
    world.ticks(40)
    assert world.least == 2
    assert (len(served_slots(world.state)), world.renewed()) == (3, 2)
    assert world.web.update is not None
    assert world.web.update.state is UpdateState.UPDATING
    world.schedule("m0", Scheduling.ACTIVE)
    world.ticks(20)
    assert (world.least, world.renewed()) == (2, 3)
    assert world.web.update.state is UpdateState.COMPLETED


def test_a_drain_that_begins_between_two_portions_holds_up_nothing() -> None:
    world = Full(3, UpdateConfig(parallelism=1, monitor_seconds=1.0, order="stop-first", progress_seconds=30.0))
    world.spec(container=world.container("shop:2", LARGE))
    world.ticks(2)
    (first,) = [found for found in healthy(world.state) if world.web.wants(found.generation)]
    world.schedule(first.node_id.removeprefix("n-"), Scheduling.DRAINING)
    world.ticks(60)
    assert (world.least, world.renewed()) == (2, 3)
    assert world.web.update is not None
    assert world.web.update.state is UpdateState.COMPLETED


@given(
    replicas=st.integers(1, 5),
    parallelism=st.integers(1, 3),
    cpus=st.sampled_from((LARGE, 2.0, 1.0)),
    monitor_seconds=st.sampled_from((0.0, 2.0)),
    turns=st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 8)), max_size=6),
)
def test_no_more_than_a_portion_is_away_and_all_is_renewed_once_there_is_room(
    replicas: int, parallelism: int, cpus: float, monitor_seconds: float, turns: list[tuple[int, bool, int]]
) -> None:
    world = Full(
        replicas,
        UpdateConfig(
            parallelism=parallelism, monitor_seconds=monitor_seconds, order="stop-first", failure_action="pause"
        ),
    )
    world.spec(container=world.container("shop:2", cpus))
    for node, drains, ticks in turns:
        if node < replicas:
            world.schedule(f"m{node}", Scheduling.DRAINING if drains else Scheduling.ACTIVE)
        world.ticks(ticks)
    world.settle()
    assert world.least >= replicas - parallelism
    assert world.renewed() == replicas
    assert world.web.update is not None
    assert world.web.update.state is UpdateState.COMPLETED
