"""Variables agree with a plain reading of the grammar, piece by piece."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.compose.envfiles import parse_env
from fallow.decide.compose.problems import Refusal
from fallow.decide.compose.variables import Interpolator

VARIABLES = {"A": "x", "B": "y z", "E": ""}

names = st.sampled_from(["A", "B", "E", "GONE"])
literals = st.text(alphabet="ab {:-?+", max_size=6)


def expected(name: str, operator: str, other: str) -> str:
    value = VARIABLES.get(name)
    has = bool(value) if ":" in operator else value is not None
    match operator.lstrip(":"):
        case "-":
            return (value or "") if has else other
        case "+":
            return other if has else ""
        case _:
            return value or ""


pieces = st.one_of(
    literals.map(lambda text: (text, text)),
    st.just(("$$", "$")),
    names.map(lambda name: ("${" + name + "}", expected(name, "", ""))),
    names.map(lambda name: (f"${name}.", expected(name, "", "") + ".")),
    st.builds(
        lambda name, operator, other: ("${" + name + operator + other + "}", expected(name, operator, other)),
        names,
        st.sampled_from([":-", "-", ":+", "+"]),
        literals,
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=8))
def test_compose_variables_agree_with_the_grammar(parts: list[tuple[str, str]]) -> None:
    text = "".join(written for written, _ in parts)
    assert Interpolator(VARIABLES).text(text) == "".join(meant for _, meant in parts)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="$${}AB:-?+ ", max_size=30))
def test_compose_variables_any_text_is_replaced_or_refused(text: str) -> None:
    try:
        Interpolator(VARIABLES).text(text)
    except Refusal as refusal:
        assert refusal.text


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,6}", fullmatch=True),
        st.text(st.characters(codec="ascii", min_codepoint=32)),
        max_size=5,
    )
)
def test_compose_env_file_gives_back_single_quoted_values(entries: dict[str, str]) -> None:
    safe = {name: value.replace("\\", "/").replace("\x7f", "") for name, value in entries.items()}
    text = "\n".join(f"{name}='{value.replace(chr(39), chr(92) + chr(39))}'" for name, value in safe.items())
    assert parse_env(text, {}) == (safe, [])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="AB=:#'\"\\$ {}\n\texport", max_size=40))
def test_compose_env_file_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_env(text, {})
    except Refusal as refusal:
        assert refusal.text
