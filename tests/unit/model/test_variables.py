"""Variables: what type a value has, and what no machine may say of itself."""

import msgspec
import pytest

from fallow.model.labels import Variable, typed_variable, variable_problem, variables_problem
from fallow.model.wire import Hello, decode_from_member

HOSTILE = [
    "a\nb", "a\r\nb", "\n", "a\x00b", "\x1b[2J", "\x7f", "a\tb", "\u202eabc", "\u2028", "\ud800",
]  # fmt: skip
STRANGE = [
    "$(reboot)",
    "`id`",
    "; rm -rf /",
    "a|b",
    "%[env(HOME)]",
    "{{7*7}}",
    "'\"",
    "a b",
    "../../etc",
    "x.y.z.",
    "é",
    "",
]


@pytest.mark.parametrize(
    ("name", "value", "type_", "unit"),
    [
        ("disk.free", "120GiB", "bytes", "GiB"),
        ("gpu.count", "2", "number", ""),
        ("rack", "r7", "text", ""),
        ("net.speed", "10Gbit/s", "rate", "Gbit/s"),
        ("uptime", "3d", "duration", "d"),
        ("spent", "1h30m", "duration", ""),
        ("ecc", "true", "flag", ""),
        ("ecc", "yes", "text", ""),
        ("empty", "", "text", ""),
    ],
)
def test_variables_have_the_type_their_value_looks_like(name: str, value: str, type_: str, unit: str) -> None:
    made = typed_variable(name, value)
    assert (made.type, made.unit) == (type_, unit)
    assert variable_problem(made) == ""


def test_variables_have_the_type_they_are_said_to_have() -> None:
    assert typed_variable("size", "120GiB", "bytes").unit == "GiB"
    assert typed_variable("rack", "7d", "text") == Variable(name="rack", value="7d", type="text")
    for value, type_ in [("r7", "bytes"), ("2", "bytes"), ("3d", "rate"), ("maybe", "flag"), ("2", "integer")]:
        with pytest.raises(ValueError, match=r"is said to be|no type|flag"):
            typed_variable("a", value, type_)


@pytest.mark.parametrize("value", HOSTILE)
def test_variables_hostile_values_are_refused(value: str) -> None:
    assert "cannot be printed" in variable_problem(Variable(name="a", value=value))
    with pytest.raises(ValueError, match="cannot be printed"):
        typed_variable("a", value)


@pytest.mark.parametrize("value", STRANGE)
def test_variables_may_look_like_commands(value: str) -> None:
    assert variable_problem(typed_variable("a", value)) == ""


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "a\x00", "var:a", "@a", "a=b", "a" * 64, "é"])
def test_variables_names_are_bounded(name: str) -> None:
    assert "cannot be the name" in variable_problem(Variable(name=name, value="1"))


def test_variables_are_bounded_together() -> None:
    assert (
        variables_problem([Variable(name="a", value="x" * 257)]) == "the variable a has 257 characters, more than 256"
    )
    many = [Variable(name=f"a{number}", value="") for number in range(65)]
    assert variables_problem(many) == "a member has at most 64 variables"
    assert variables_problem(many[:64]) == ""
    assert variables_problem([many[0], many[0]]) == "the variable a0 is told twice"


@pytest.mark.parametrize(
    ("type_", "value", "unit"),
    [("bytes", "r7", ""), ("bytes", "1GiB", "GB"), ("text", "x", "GiB"), ("flag", "1", ""), ("rate", "3d", "d")],
)
def test_variables_that_lie_about_their_type_are_refused(type_: str, value: str, unit: str) -> None:
    assert "is said to be" in variable_problem(Variable(name="a", value=value, type=type_, unit=unit))  # type: ignore[arg-type]


def test_variables_of_an_earlier_agent_are_text() -> None:
    frame = {
        "t": "hello", "protocol": 1, "agent_version": "0.1.0", "boot_id": "b", "facts": {},
        "variables": [{"name": "disk.free", "value": "120GiB"}], "labels": {"role": "web"},
    }  # fmt: skip
    hello = decode_from_member(msgspec.msgpack.encode(frame))
    assert isinstance(hello, Hello)
    assert hello.variables == (Variable(name="disk.free", value="120GiB"),)
    assert variables_problem(hello.variables) == ""
