"""Selectors: writing and reading are inverse, and no text brings anything but a SelectorError."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.matching import Sight, picks
from fallow.decide.selectors import SelectorError, format_selector, parse_selector
from fallow.model.labels import KEY_PATTERN, VALUE_PATTERN, Requirement, Selector

words = st.from_regex(KEY_PATTERN.removesuffix("$") + r"\Z")
keys = st.one_of(
    words,
    words.map(lambda word: f"label:{word}"),
    words.map(lambda word: f"var:{word}"),
    st.sampled_from(["node:name", "node:state", "node:arch"]),
)
plain_values = st.from_regex(VALUE_PATTERN.removesuffix("$") + r"\Z")
printable = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=20)
units = st.sampled_from(["", "Ki", "Mi", "GiB", "Ti", "GB", "k", "d", "h30m", "ms", "bit/s", "GB/s", "MiB/s"])
amounts = st.builds(lambda n, unit: f"{n}{unit}", st.integers(0, 10**9), units)
values = st.one_of(plain_values, printable, amounts)
full_values = values.filter(bool)

requirements = st.one_of(
    st.builds(Requirement, key=keys | st.just("@web-1"), operator=st.sampled_from(["exists", "absent"])),
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
held = st.dictionaries(words, values, max_size=4)


@settings(max_examples=100, deadline=None)
@given(selectors, held, held)
def test_selectors_round_trip(selector: Selector, labels: dict[str, str], said: dict[str, str]) -> None:
    sight = Sight(labels, said)
    written = format_selector(selector)
    again = parse_selector(written)
    assert again == selector
    assert picks(again, sight) == all(picks(Selector(requirements=(r,)), sight) for r in selector.requirements)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from('ab1 in(),!=<>.-:@"\\\n\x00\u00e9') | st.characters(), max_size=40))
def test_selectors_any_text_parses_or_is_refused(text: str) -> None:
    try:
        selector = parse_selector(text)
    except SelectorError as error:
        assert 0 <= error.position <= len(text)
        return
    assert parse_selector(format_selector(selector)) == selector
