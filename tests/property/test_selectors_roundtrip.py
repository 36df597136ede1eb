"""Selectors: writing and reading are inverse, and no text brings anything but a SelectorError."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.selectors import SelectorError, format_selector, matches, parse_selector
from fallow.model.labels import KEY_PATTERN, VALUE_PATTERN, Requirement, Selector

keys = st.from_regex(KEY_PATTERN.removesuffix("$") + r"\Z")
values = st.from_regex(VALUE_PATTERN.removesuffix("$") + r"\Z")
full_values = values.filter(bool)
amounts = st.builds(lambda n, unit: f"{n}{unit}", st.integers(0, 10**9), st.sampled_from(["", "Ki", "Mi", "GiB", "Ti"]))

requirements = st.one_of(
    st.builds(Requirement, key=keys, operator=st.sampled_from(["exists", "absent"])),
    st.builds(Requirement, key=keys, operator=st.sampled_from(["in", "notin"]), values=st.tuples(values)),
    st.builds(
        Requirement,
        key=keys,
        operator=st.sampled_from(["in", "notin"]),
        values=st.lists(full_values, min_size=2, max_size=4, unique=True).map(tuple),
    ),
    st.builds(Requirement, key=keys, operator=st.sampled_from(["gt", "ge", "lt", "le"]), values=st.tuples(amounts)),
)
selectors = st.builds(Selector, requirements=st.lists(requirements, max_size=3).map(tuple))
labels = st.dictionaries(keys, values, max_size=4)


@settings(max_examples=100, deadline=None)
@given(selectors, labels)
def test_selectors_round_trip(selector: Selector, held: dict[str, str]) -> None:
    written = format_selector(selector)
    again = parse_selector(written)
    assert again == selector
    assert matches(again, held) == all(matches(Selector(requirements=(r,)), held) for r in selector.requirements)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1 in(),!=<>.-\n\x00\u00e9") | st.characters(), max_size=40))
def test_selectors_any_text_parses_or_is_refused(text: str) -> None:
    try:
        selector = parse_selector(text)
    except SelectorError as error:
        assert 0 <= error.position <= len(text)
        return
    assert parse_selector(format_selector(selector)) == selector
