"""Room: whatever clusters look like inside, and however many deployments come at once, all that is given out fits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from division_cases import LATER, cluster, followed, room_by_key, share, wish
from hypothesis import given
from hypothesis import strategies as st
from records import snapshot

from fallow.decide.federation.division import Divider, divide_all
from fallow.decide.federation.shapes import question_of, questions
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.rooms import RoomSummary
from fallow.model.shares import ShareReport

Node = tuple[int, int]  # quarters of a processor and MiB that are free
MIB = 2**20
NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class World:
    """Clusters as they are inside, and what is on its way to them: (deployment, cluster) -> replicas not counted."""

    nodes: Mapping[str, Sequence[Node]]
    deployments: Sequence[Deployment]
    under_way: Mapping[tuple[int, str], int]


def sized(name: str, replicas: int, size: Node, divide: str) -> Deployment:
    return wish(name, replicas, size[0] / 4, size[1] * MIB, divide=divide)


def size_of(found: Deployment) -> Node:
    resources = found.spec.container.resources
    return round(resources.cpus * 4), resources.memory_bytes // MIB


def fits(nodes: Sequence[Node], size: Node) -> int:
    """Count how many more of a size a cluster would answer that it has room for."""
    return sum(min([have // need for have, need in zip(node, size, strict=True) if need], default=99) for node in nodes)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    node = st.tuples(st.integers(0, 16), st.integers(0, 16))
    nodes = {name: draw(st.lists(node, min_size=1, max_size=4)) for name in NAMES[: draw(st.integers(1, 3))]}
    sizes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=1, max_size=3))
    kinds = st.sampled_from(("capacity", "weighted", "aggregate", "duplicate"))
    deployments = [
        sized(f"app-{number}", draw(st.integers(0, 9)), draw(st.sampled_from(sizes)), draw(kinds))
        for number in range(draw(st.integers(1, 6)))
    ]
    under_way: dict[tuple[int, str], int] = {}
    for name, free in nodes.items():
        left = list(free)
        for number, found in enumerate(deployments):
            for _ in range(draw(st.integers(0, 2))):
                if put(left, size_of(found), 0):
                    under_way[number, name] = under_way.get((number, name), 0) + 1
    return World(nodes, deployments, under_way)


def put(nodes: list[Node], size: Node, choice: int) -> bool:
    """Place one replica on one of the nodes that have room for it; say whether there is one."""
    able = [
        index for index, node in enumerate(nodes) if all(have >= need for have, need in zip(node, size, strict=True))
    ]
    if able:
        index = able[choice % len(able)]
        nodes[index] = (nodes[index][0] - size[0], nodes[index][1] - size[1])
    return bool(able)


def stored(world: World) -> Snapshot:
    records = [cluster(name) for name in world.nodes]
    base = snapshot(*records, *world.deployments)
    sizes = {question_of(found).key: size_of(found) for found in world.deployments}
    rooms = [
        room_by_key(
            name, {key: fits(nodes, size) for key, size in sizes.items()}, summary=RoomSummary(nodes=len(nodes))
        )
        for name, nodes in world.nodes.items()
    ]
    assert {asked.key for asked in questions(base)} == sizes.keys()
    shares = [
        share(world.deployments[number], name, count, reported=ShareReport(deployment_id=""), least=0)
        for (number, name), count in world.under_way.items()
    ]
    return snapshot(*records, *world.deployments, *rooms, *shares)


@given(worlds(), st.randoms(use_true_random=False))
def test_all_that_is_given_out_finds_a_place_in_any_order_on_any_nodes(world: World, chance: Random) -> None:
    targets = divide_all(stored(world), LATER)
    for name, free in world.nodes.items():
        coming: list[Node] = []
        more = 0
        for number, found in enumerate(world.deployments):
            told = world.under_way.get((number, name), 0)
            wanted = targets[found.id].shares.get(f"c-{name}", 0)
            coming.extend([size_of(found)] * max(told, wanted))
            more += max(wanted - told, 0)
        chance.shuffle(coming)
        nodes = list(free)
        # What was told before may already be more than fits in a bad order; then nothing is added to it.
        assert not more or all(put(nodes, size, chance.randrange(9)) for size in coming)


@given(worlds())
def test_nothing_has_no_place_while_a_cluster_has_room_that_nobody_was_promised(world: World) -> None:
    targets = divide_all(stored(at_rest(world)), LATER)
    promised = Counter(id_ for target in targets.values() for id_ in target.shares)
    for found in world.deployments:
        for name, nodes in world.nodes.items():
            if targets[found.id].unplaced and not promised[f"c-{name}"]:
                assert not fits(nodes, size_of(found))


def at_rest(world: World) -> World:
    return World(world.nodes, world.deployments, {})


@given(worlds())
def test_once_all_is_placed_and_counted_again_nothing_moves(world: World) -> None:
    before = stored(at_rest(world))
    targets = divide_all(before, LATER)
    rooms = {}
    for name, free in world.nodes.items():
        nodes = list(free)
        for found in sorted(world.deployments, key=size_of, reverse=True):
            for _ in range(targets[found.id].shares.get(f"c-{name}", 0)):
                assert put(nodes, size_of(found), 0)
        answers = {question_of(found).key: fits(nodes, size_of(found)) for found in world.deployments}
        rooms[f"c-{name}"] = room_by_key(name, answers, summary=RoomSummary(nodes=len(nodes)))
    again = divide_all(followed(before, targets, rooms), LATER)
    for id_, target in targets.items():
        assert all(again[id_].shares.get(name, 0) >= count for name, count in target.shares.items())
        assert target.unplaced or again[id_].shares == target.shares


@given(st.lists(worlds(), min_size=1, max_size=3))
def test_who_divides_again_and_again_finds_what_a_fresh_look_finds(some: list[World]) -> None:
    divider = Divider()
    for world in some:
        fuller = {name: [(cpus // 2, memory // 2) for cpus, memory in nodes] for name, nodes in world.nodes.items()}
        for now in (stored(world), stored(at_rest(world)), stored(World(fuller, world.deployments, {})), stored(world)):
            for anew in ((), tuple(now.deployments)):
                assert divider(now, LATER, anew) == divide_all(now, LATER, anew)
