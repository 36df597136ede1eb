"""Selectors over a column of nodes agree with selectors over one node, for any labels."""

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import a_member

from fallow.decide.placement.columns import LabelColumns
from fallow.decide.selectors import matches
from fallow.model.labels import Requirement, Selector

values = st.one_of(st.sampled_from(["", "a", "b", "2", "2Ki", "0.5", "10"]), st.text("ab019.KiG", max_size=4))
keys = st.sampled_from(["zone", "role", "size"])
requirements = st.one_of(
    st.builds(Requirement, key=keys, operator=st.sampled_from(["exists", "absent"])),
    st.builds(
        Requirement, key=keys, operator=st.sampled_from(["in", "notin"]), values=st.lists(values, max_size=3).map(tuple)
    ),
    st.builds(
        Requirement, key=keys, operator=st.sampled_from(["gt", "ge", "lt", "le"]), values=values.map(lambda x: (x,))
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(keys, values), max_size=10), st.lists(requirements, max_size=4))
def test_a_column_says_what_each_node_says(labels: list[dict[str, str]], wanted: list[Requirement]) -> None:
    columns = LabelColumns([a_member(number, labels=found) for number, found in enumerate(labels)])
    for requirement in wanted:
        selector = Selector(requirements=(requirement,))
        assert columns.mask(requirement).tolist() == [matches(selector, found) for found in labels]
