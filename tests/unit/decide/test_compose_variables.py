"""Variables: every form of the Compose specification, and what is refused."""

import pytest

from fallow.decide.compose.problems import Refusal
from fallow.decide.compose.variables import MAX_CHARACTERS, Interpolator

VARIABLES = {"A": "x", "B": "two words", "EMPTY": "", "DOLLAR": "$A", "_u1": "under"}

REPLACED = [
    ("", ""),
    ("plain", "plain"),
    ("$A", "x"),
    ("${A}", "x"),
    ("a$A.b", "ax.b"),
    ("$A$B", "xtwo words"),
    ("${A}1", "x1"),
    ("$_u1", "under"),
    ("$$A", "$A"),
    ("$$$A", "$x"),
    ("$$$$", "$$"),
    ("$DOLLAR", "$A"),
    ("${EMPTY}", ""),
    ("${A:-d}", "x"),
    ("${A-d}", "x"),
    ("${EMPTY:-d}", "d"),
    ("${EMPTY-d}", ""),
    ("${GONE:-d}", "d"),
    ("${GONE-d}", "d"),
    ("${GONE:-}", ""),
    ("${GONE:-a:-b}", "a:-b"),
    ("${GONE:-$A}", "x"),
    ("${GONE:-${A}}", "x"),
    ("${GONE:-${EMPTY:-${B}}}", "two words"),
    ("${GONE:-a${A}b}c", "axbc"),
    ("${GONE:-{a}b}", "{ab}"),
    ("${GONE:-$$A}", "$A"),
    ("${A:?must}", "x"),
    ("${EMPTY?must}", ""),
    ("${A:+other}", "other"),
    ("${A+other}", "other"),
    ("${EMPTY:+other}", ""),
    ("${EMPTY+other}", "other"),
    ("${GONE:+other}", ""),
    ("${GONE+other}", ""),
    ("${A:+${GONE:-deep}}", "deep"),
    ("}", "}"),
    ("{A}", "{A}"),
]


@pytest.mark.parametrize(("text", "expected"), REPLACED)
def test_compose_variables_replaced(text: str, expected: str) -> None:
    interpolator = Interpolator(VARIABLES)
    assert interpolator.text(text) == expected
    assert interpolator.missing == []


@pytest.mark.parametrize("text", ["$GONE", "${GONE}", "${OTHER:-$GONE}", "$GONE$GONE"])
def test_compose_variables_missing_are_empty_and_told_once(text: str) -> None:
    interpolator = Interpolator(VARIABLES)
    assert interpolator.text(text) == ""
    assert interpolator.missing == ["GONE"]


def test_compose_variables_in_an_unused_default_are_not_missed() -> None:
    interpolator = Interpolator(VARIABLES)
    assert interpolator.text("${A:-$GONE}${GONE+$GONE}${A:-${GONE?}}") == "xx"
    assert interpolator.missing == []


REFUSED = [
    ("$", "the '$' at character 1 begins no variable"),
    ("a$", "the '$' at character 2 begins no variable"),
    ("$ A", "begins no variable"),
    ("$1", "begins no variable"),
    ("${", "begins no variable"),
    ("${}", "begins no variable"),
    ("${A", "begins no variable"),
    ("${1A}", "begins no variable"),
    ("${A:}", "begins no variable"),
    ("${A:=d}", "begins no variable"),
    ("${A!}", "begins no variable"),
    ("${GONE:-x", "begins no variable"),
    ("${GONE?}", "the variable GONE is required: not set"),
    ("${GONE:?no shop}", "the variable GONE is required: no shop"),
    ("${EMPTY:?no $B}", "the variable EMPTY is required: no two words"),
    ("${A:-" * 100, "nested deeper than 16 levels"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_compose_variables_refused(text: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        Interpolator(VARIABLES).text(text)
    assert message in caught.value.text


def test_compose_variables_cannot_grow_without_end() -> None:
    interpolator = Interpolator({"A": "x" * (1 << 20)})
    with pytest.raises(Refusal, match="8 Mi characters"):
        interpolator.text("$A" * (MAX_CHARACTERS >> 20) + "$A")


def test_compose_variables_refusal_keeps_the_text_to_itself() -> None:
    with pytest.raises(Refusal) as caught:
        Interpolator({}).text("s3cret$!")
    assert "s3cret" not in caught.value.text
