"""Matching: what labels, variables and label sets say of a member, and what is never believed."""

import time

import pytest
from records import member

from fallow.decide.matching import MAX_DEPTH, Sight, matches, picks, trouble_of, untrusted_keys
from fallow.decide.placement.columns import Columns, SeeingColumns
from fallow.decide.selectors import parse_selector
from fallow.decide.variables import sight_of
from fallow.model.labels import LabelSet, Variable
from fallow.model.wire import Usage


def sets(**texts: str) -> dict[str, LabelSet]:
    return {
        name: LabelSet(id=name, created_at=0.0, updated_at=0.0, selector=parse_selector(text))
        for name, text in texts.items()
    }


SIGHT = Sight(
    labels={"role": "db", "size": "1TiB"},
    variables={"role": "web", "rack": "r7", "disk.free": "120GiB", "up": "3d", "speed": "10Gbit/s", "os": "Debian 12"},
    node={"name": "node-1", "state": "ready", "arch": "amd64"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("role=db", True),  # a label wins
        ("role=web", False),
        ("var:role=web", True),
        ("label:role=web", False),
        ("label:rack", False),
        ("rack=r7", True),
        ("!rack", False),
        ("!label:rack", True),
        ("disk.free>=120GiB", True),
        ("disk.free>128GB", True),
        ("disk.free=122880MiB", True),
        ("disk.free!=0.1171875TiB", False),
        ("disk.free in (1B,120GiB)", True),
        ("disk.free>3d", False),
        ("up>=72h", True),
        ("up<259201", True),
        ("speed>1GB/s", True),
        ("speed>1.25GB/s", False),
        ("speed>1GB", False),
        ("size=1024GiB", True),
        ("size=1TB", False),
        ('os="Debian 12"', True),
        ("node:name=node-1,node:state=ready,node:arch in (amd64,arm64)", True),
        ("node:id=x", False),
        ("@racked", True),
        ("!@racked", False),
        ("@racked,@web", False),
        ("@both", True),
    ],
)
def test_matching_sees_labels_and_variables(text: str, expected: bool) -> None:
    known = sets(racked="rack", web="role=web", both="@racked,!@web")
    assert picks(parse_selector(text), SIGHT, known) is expected


@pytest.mark.parametrize(
    "text", ["rack=r7", "rack", "var:rack", "!var:rack", "!var:gone", "var:gone!=x", "node:name!=x"]
)
def test_matching_trusts_nothing_that_a_node_says(text: str) -> None:
    """Neither by a term nor by its negation does a deployment's selector look at variables."""
    node = member("a", labels={"role": "web"}, variables=(Variable(name="rack", value="r7"),))
    selector = parse_selector(text)
    assert not matches(selector, node.labels)
    assert not Columns([node]).mask(selector.requirements[0]).any()
    assert bool(untrusted_keys(selector)) is (":" in text)


@pytest.mark.parametrize(
    "text", ["@told", "!@told", "@over", "!@over", "@gone", "!@gone", "@round", "!@round", "!@deep"]
)
def test_matching_a_set_that_cannot_be_told_holds_for_nobody(text: str) -> None:
    deep = {f"d{depth}": f"@d{depth + 1}" for depth in range(MAX_DEPTH)}
    known = sets(
        told="!var:rack", over="@told", round="!@other", other="@round", deep="@d0", **deep, **{f"d{MAX_DEPTH}": "a"}
    )
    selector = parse_selector(text)
    node = member("a", labels={"role": "web"})
    assert trouble_of(selector, known, trusted=True)
    assert not matches(selector, node.labels, known)
    assert not Columns([node], known).mask(selector.requirements[0]).any()


def test_matching_sets_say_what_is_wrong() -> None:
    known = sets(a="@b", b="@c", c="@a", told="var:rack")
    assert trouble_of(parse_selector("@a"), known) == "the label sets @a -> @b -> @c -> @a go round"
    assert trouble_of(parse_selector("@x"), known) == "there is no label set @x"
    assert trouble_of(parse_selector("@told"), known) == ""
    found = trouble_of(parse_selector("@told"), known, trusted=True)
    assert found == "the label set @told asks for var:rack, which is no assigned label"


def test_matching_sets_that_share_sets_are_looked_at_once() -> None:
    """Seven floors of sets that each name all of the floor below would be millions of ways down."""
    texts = {f"s{floor}-{number}": ",".join(f"@s{floor + 1}-{below}" for below in range(20))
             for floor in range(6) for number in range(20)}  # fmt: skip
    texts |= {f"s6-{number}": "role=web" for number in range(20)}
    known, selector = sets(**texts), parse_selector("@s0-0")
    began = time.process_time()
    assert matches(selector, {"role": "web"}, known)
    assert not matches(selector, {"role": "db"}, known)
    nodes = [member("a", labels={"role": "web"}), member("b", labels={})]
    assert Columns(nodes, known).mask(selector.requirements[0]).tolist() == [True, False]
    assert time.process_time() - began < 5.0


def test_matching_what_is_measured_stands_before_what_is_said() -> None:
    said = (Variable(name="disk.free", value="500TiB", type="bytes", unit="TiB"), Variable(name="rack", value="r7"))
    node, selector = member("a", variables=said), parse_selector("disk.free>1TiB")
    assert picks(selector, sight_of(node, None))  # not heard yet: what it says is all there is
    heard = {node.id: Usage(disk_free_bytes=2**30)}
    assert not picks(selector, sight_of(node, heard[node.id]))
    assert not SeeingColumns([node], {}, heard).mask(selector.requirements[0]).any()
    assert picks(parse_selector("disk.free=1GiB,cpu.count=4,memory.size=8GiB,rack=r7"), sight_of(node, heard[node.id]))
