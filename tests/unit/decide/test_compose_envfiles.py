"""Environment files: accepted and refused lines."""

import pytest

from fallow.decide.compose.envfiles import EnvFiles, parse_env, parse_raw
from fallow.decide.compose.problems import Refusal

VARIABLES = {"HOME": "/root", "EMPTY": ""}

ACCEPTED: list[tuple[str, dict[str, str | None]]] = [
    ("", {}),
    ("\n\n  \n# comment\n  # another", {}),
    ("A=b", {"A": "b"}),
    ("A=b\n", {"A": "b"}),
    ("A=b\r\nC=d\r\n", {"A": "b", "C": "d"}),
    ("\ufeffA=b", {"A": "b"}),
    ("  A = b c  ", {"A": "b c"}),
    ("A: b", {"A": "b"}),
    ("export A=b", {"A": "b"}),
    ("export=b", {"export": "b"}),
    ("A=", {"A": ""}),
    ("A", {"A": None}),
    ("A\nB=c", {"A": None, "B": "c"}),
    ("A=b # comment", {"A": "b"}),
    ("A=b#c", {"A": "b#c"}),
    ("A=# comment", {"A": ""}),
    ("A='b # c'", {"A": "b # c"}),
    ("A='b' # c", {"A": "b"}),
    ("A='$HOME'", {"A": "$HOME"}),
    ("A='it\\'s'", {"A": "it's"}),
    ('A="b\\tc\\n"', {"A": "b\tc\n"}),
    ('A="b\\"c\\\\"', {"A": 'b"c\\'}),
    ('A="a\nb"\nC=d', {"A": "a\nb", "C": "d"}),
    ("A='a\n\nb'\nC=d", {"A": "a\n\nb", "C": "d"}),
    ('A="$HOME"', {"A": "/root"}),
    ('A="\\$HOME"', {"A": "$HOME"}),
    ("A=${HOME}/x", {"A": "/root/x"}),
    ("A=${GONE:-x}", {"A": "x"}),
    ("A=1\nB=${A}2\nC=$B", {"A": "1", "B": "12", "C": "12"}),
    ("HOME=/tmp\nA=$HOME", {"HOME": "/tmp", "A": "/root"}),
    ("A=1\nA=2", {"A": "2"}),
    ("A=b=c", {"A": "b=c"}),
    ("a.b-c=d", {"a.b-c": "d"}),
    ('A={"x": 1}', {"A": '{"x": 1}'}),
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_compose_env_file_accepted(text: str, expected: dict[str, str | None]) -> None:
    assert parse_env(text, VARIABLES) == (expected, [])


def test_compose_env_file_missing_variables() -> None:
    assert parse_env("A=$GONE\nB=$GONE$OTHER", VARIABLES) == ({"A": "", "B": ""}, ["GONE", "OTHER"])


REFUSED = [
    ("=b", "line 1 is not NAME=value"),
    ("A=b\nB C", "line 2 is not NAME=value"),
    ("\n# x\nA='b\nc", "line 3 is not NAME=value, or a quote is not closed"),
    ('A="b', "a quote is not closed"),
    ('A="b" c', "line 1 is not NAME=value"),
    ("A=s3cret$", "line 1: the '$' at character 7"),
    ("A=1\n\nB='x\ny'\nC=${GONE?}", "line 5: the variable GONE is required"),
    ("A=\x00", "U+0000"),
    ("A=\ud800", "U+D800"),
    ("A" * ((1 << 20) + 1), "larger than 1 MiB"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_compose_env_file_refused_without_its_values(text: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_env(text, VARIABLES)
    assert message in caught.value.text
    assert "s3cret" not in caught.value.text


def test_compose_env_file_raw() -> None:
    assert parse_raw('# c\nA="$B" # x\nB\nC=\n\nD= \'e') == {"A": '"$B" # x', "B": None, "C": "", "D": " 'e"}
    with pytest.raises(Refusal, match="line 2"):
        parse_raw("A=b\n=c")


def test_compose_env_files_read_once_and_bounded() -> None:
    files = EnvFiles({"a.env": "A=$GONE", "many.env": "\n".join(f"K{n}=v" for n in range(1025))}, {})
    assert files.read("a.env", raw=False) == {"A": ""}
    assert files.read("a.env", raw=True) == {"A": "$GONE"}
    assert files.read("a.env", raw=False) is files.read("a.env", raw=False)
    assert files.missing == ["GONE"]
    assert files.read("gone.env", raw=False) is None
    with pytest.raises(Refusal, match="1025 entries"):
        files.read("many.env", raw=False)
