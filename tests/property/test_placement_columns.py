"""Selectors over a column of nodes agree with selectors over one node, whatever is known of the nodes."""

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import a_member, usages

from fallow.decide.matching import matches, picks
from fallow.decide.placement.columns import Columns, SeeingColumns
from fallow.decide.variables import sight_of
from fallow.model.labels import LabelSet, Requirement, Selector, Variable
from fallow.model.members import Facts

values = st.one_of(
    st.sampled_from(["", "a", "b", "2", "2Ki", "2048B", "2048", "0.5", "10", "1d", "24h", "1440m", "8bit/s", "1B/s"]),
    st.text("ab019.KiG", max_size=4),
)
keys = st.sampled_from(["zone", "role", "size"])
anywhere = st.sampled_from(
    ["zone", "size", "label:zone", "label:size", "var:zone", "var:size", "node:name", "node:arch", "node:state",
     "disk.free", "var:disk.free", "cpu.count", "engine.version", "@small", "@other", "@gone", "@round"]
)  # fmt: skip


def terms(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Requirement]:
    """Requirements of all sorts; those of label sets can only exist or be absent."""
    compared = st.sampled_from(["gt", "ge", "lt", "le"])
    return st.one_of(
        st.builds(Requirement, key=keys, operator=st.sampled_from(["exists", "absent"])),
        st.builds(
            Requirement, key=keys.filter(lambda key: key[0] != "@"), operator=st.sampled_from(["in", "notin"]),
            values=st.lists(values, max_size=3).map(tuple),
        ),
        st.builds(
            Requirement, key=keys.filter(lambda key: key[0] != "@"), operator=compared,
            values=values.map(lambda x: (x,)),
        ),
    )  # fmt: skip


def a_set(name: str, *requirements: Requirement) -> LabelSet:
    return LabelSet(id=name, created_at=0.0, updated_at=0.0, selector=Selector(requirements=requirements))


def label_sets(terms: list[Requirement]) -> dict[str, LabelSet]:
    """`small` and `other` are as drawn; `gone` there is not, and `round` goes round."""
    made = [a_set("small", *terms[:2]), a_set("round", Requirement(key="@round", operator="absent"))]
    made.append(a_set("other", *terms[2:], Requirement(key="@small", operator="absent")))
    return {each.id: each for each in made}


plain = terms(st.sampled_from(["zone", "size", "label:zone"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(keys, values), max_size=10), st.lists(terms(anywhere), max_size=4), st.lists(plain))
def test_a_column_says_what_each_node_says(
    labels: list[dict[str, str]], wanted: list[Requirement], in_sets: list[Requirement]
) -> None:
    sets = label_sets(in_sets)
    columns = Columns([a_member(number, labels=found) for number, found in enumerate(labels)], sets)
    for requirement in wanted:
        selector = Selector(requirements=(requirement,))
        assert columns.mask(requirement).tolist() == [matches(selector, found, sets) for found in labels]


members = st.builds(
    lambda labels, said, disk, usage: (labels, said, disk, usage),
    st.dictionaries(keys | st.just("disk.free"), values, max_size=3),
    st.dictionaries(keys | st.just("disk.free"), values, max_size=3),
    st.sampled_from([0, 1, 2048]),
    st.none() | usages,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(members, max_size=6), st.lists(terms(anywhere), max_size=4), st.lists(terms(anywhere), max_size=4))
def test_a_column_that_sees_more_says_what_each_node_says(
    drawn: list[tuple[dict[str, str], dict[str, str], int, object]],
    wanted: list[Requirement],
    in_sets: list[Requirement],
) -> None:
    sets = label_sets([each for each in in_sets if each.key[0] != "@"])
    nodes = [
        a_member(
            number, labels=labels, variables=tuple(Variable(name=name, value=value) for name, value in said.items()),
            facts=Facts(architecture="amd64", cpus=float(disk % 5), disk_bytes=disk, engine="podman 4.3.1"),
        )
        for number, (labels, said, disk, _) in enumerate(drawn)
    ]  # fmt: skip
    heard = {node.id: usage for node, (_, _, _, usage) in zip(nodes, drawn, strict=True) if usage is not None}
    columns = SeeingColumns(nodes, sets, heard)  # type: ignore[arg-type]
    for requirement in wanted:
        selector = Selector(requirements=(requirement,))
        told = [picks(selector, sight_of(node, heard.get(node.id)), sets) for node in nodes]  # type: ignore[arg-type]
        assert columns.mask(requirement).tolist() == told
