"""Placement by what nodes say and measure: it filters and ranks, and never makes a node eligible."""

from records import NOW, deployment, member, replica, snapshot, template

from fallow.decide.placement import Binding, fits, place
from fallow.decide.placement.disk import FULL_BYTES
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import DeploymentSpec, PlacementPolicy, Preference, ReplicaState
from fallow.model.labels import LabelSet, Variable
from fallow.model.members import Facts
from fallow.model.wire import Usage

GIB = 2**30


def world(policy: PlacementPolicy, *nodes: object, replicas: int = 1, sets: tuple[LabelSet, ...] = ()) -> Snapshot:
    web = deployment("web", replicas)
    spec = DeploymentSpec(replicas=replicas, container=web.spec.container, placement=policy)
    web = deployment("web", replicas, spec=spec)
    pending = [replica(web, slot, ReplicaState.PENDING) for slot in range(replicas)]
    return snapshot(web, template(web), *pending, *nodes, *sets)  # type: ignore[arg-type]


def where(found: Snapshot, **free: int) -> list[str]:
    heard = {f"n-{name}": Usage(disk_free_bytes=amount * GIB) for name, amount in free.items()}
    return sorted(binding.node_id.removeprefix("n-") for binding in place(found, NOW, heard).bindings)


def resources(text: str) -> PlacementPolicy:
    return PlacementPolicy(resources=parse_selector(text))


def test_resources_filter_by_what_is_measured() -> None:
    found = world(resources("disk.free>=20GiB"), member("a"), member("b"), member("c"))
    assert where(found, a=19, b=20) == ["b"]
    (rejection,) = place(found, NOW, {"n-a": Usage(disk_free_bytes=GIB)}).rejections
    assert rejection.reason.text == "3 of 3 nodes: disk.free is not at least 20GiB"


def test_resources_are_judged_anew_before_a_binding_is_stored() -> None:
    found = world(resources("disk.free>=20GiB"), member("a"))
    binding = Binding(replica_id="web-0", node_id="n-a", address="10.0.0.1", host_ports={})
    assert fits(found, binding, {"n-a": Usage(disk_free_bytes=20 * GIB)}) is None
    reason = fits(found, binding, {"n-a": Usage(disk_free_bytes=GIB)})
    assert reason is not None
    assert (reason.code, reason.text) == ("ResourcesMismatch", "a: disk.free is not at least 20GiB")


def test_a_node_whose_disk_is_full_takes_nothing_new() -> None:
    disk = Facts(cpus=4.0, memory_bytes=16 * GIB, disk_bytes=100 * GIB)
    found = world(PlacementPolicy(), member("a", facts=disk), member("b"))
    binding = Binding(replica_id="web-0", node_id="n-a", address="10.0.0.1", host_ports={})
    for free, full in ((FULL_BYTES - 1, True), (FULL_BYTES, False)):
        heard = {"n-a": Usage(disk_free_bytes=free), "n-b": Usage()}  # which tells of no disk at all
        (made,) = place(found, NOW, heard).bindings
        assert (made.node_id == "n-b") is full
        reason = fits(found, binding, heard)
        assert (reason.code if reason is not None else "") == ("NodeDiskFull" if full else "")
    alone = world(PlacementPolicy(), member("a", facts=disk))
    (rejection,) = place(alone, NOW, {"n-a": Usage(disk_free_bytes=0)}).rejections
    assert rejection.reason.text == "1 of 1 node: its disk is full"
    assert place(alone, NOW, {}).bindings, "nothing was heard of it yet"


def test_resources_of_two_deployments_do_not_mix() -> None:
    here = world(resources("disk.free>=20GiB"), member("a"), member("b"))
    other = deployment(
        "db", spec=DeploymentSpec(container=deployment().spec.container, placement=resources("disk.free<20GiB"))
    )
    both = snapshot(
        *here.members.values(), *here.deployments.values(), *here.templates.values(), *here.replicas.values(),
        other, template(other), replica(other, 0, ReplicaState.PENDING),
    )  # fmt: skip
    heard = {"n-a": Usage(disk_free_bytes=GIB), "n-b": Usage(disk_free_bytes=50 * GIB)}
    assert {each.replica_id: each.node_id for each in place(both, NOW, heard).bindings} == {
        "web-0": "n-b",
        "db-0": "n-a",
    }


def test_a_variable_never_makes_a_node_eligible() -> None:
    liar = member("liar", variables=(Variable(name="trusted", value="yes"),))
    for text in ("trusted=yes", "trusted", "var:trusted", "!var:other", "@told", "!@untold"):
        told = tuple(
            LabelSet(id=name, created_at=0.0, updated_at=0.0, selector=parse_selector(asked))
            for name, asked in (("told", "var:trusted=yes"), ("untold", "!var:trusted"))
        )
        found = world(PlacementPolicy(selector=parse_selector(text)), liar, sets=told)
        placement = place(found, NOW)
        assert not placement.bindings, text
        assert placement.rejections[0].reason.text
        binding = Binding(replica_id="web-0", node_id=liar.id, address="10.0.0.1", host_ports={})
        assert fits(found, binding) is not None, text


def test_a_label_wins_over_a_variable_of_its_name() -> None:
    liar = member("liar", labels={"rack": "r1"}, variables=(Variable(name="rack", value="r7"),))
    assert where(world(resources("rack=r7"), liar)) == []
    assert where(world(resources("var:rack=r7"), liar)) == ["liar"]


def test_preferences_rank_nodes_that_would_do() -> None:
    nodes = [member("a"), member("b", labels={"ssd": "yes"}), member("c", labels={"ssd": "yes"})]
    liked = PlacementPolicy(prefer=(Preference(selector=parse_selector("ssd=yes")),))
    assert where(world(liked, *nodes)) == ["b"]
    assert where(world(liked, *nodes, replicas=3)) == ["a", "b", "c"]  # spreading comes first
    most = PlacementPolicy(prefer=(Preference(order="most", key="disk.free"),))
    assert where(world(most, *nodes), a=10, b=50, c=200) == ["c"]
    assert where(world(most, *nodes), a=199, b=198, c=200) == ["a"]  # too small a difference to matter
    least = PlacementPolicy(prefer=(Preference(order="least", key="disk.free"),))
    assert where(world(least, *nodes), b=50, c=200) == ["b"]  # what is not known is not little
    both = PlacementPolicy(prefer=(*liked.prefer, Preference(order="most", key="disk.free", weight=10)))
    assert where(world(both, *nodes), a=200, b=10, c=20) == ["a"]


def test_preferences_rank_where_replicas_are_packed_too() -> None:
    nodes = [member("a"), member("b"), member("c")]
    policy = PlacementPolicy(strategy="pack", prefer=(Preference(order="most", key="disk.free"),))
    assert where(world(policy, *nodes, replicas=3), a=1, b=9, c=2) == ["b", "b", "b"]
