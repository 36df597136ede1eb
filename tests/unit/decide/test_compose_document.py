"""How YAML is read: the core schema of YAML 1.2, hard bounds, duplicate keys."""

import pytest

from fallow.decide.compose.document import (
    MAX_NODES,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    forbidden_character,
    read_document,
)
from fallow.decide.compose.problems import Problems, Refusal


def plain(node: Node) -> object:
    """Return nodes as Python values, scalars as (kind, text)."""
    match node:
        case ScalarNode():
            return (node.kind, node.text)
        case SequenceNode():
            return [plain(item) for item in node.items]
        case MappingNode():
            return {key: plain(value) for key, value in node.entries.items()}


def read(text: str) -> tuple[MappingNode, list[str]]:
    problems = Problems()
    return read_document(text, problems), problems.errors


SCALARS = [
    ("22:22", "str"),
    ("1:30", "str"),
    ("on", "str"),
    ("off", "str"),
    ("yes", "str"),
    ("no", "str"),
    ("2020-01-01", "str"),
    ("2001-12-14T21:59:43Z", "str"),
    ("1_000", "str"),
    ("0b11", "str"),
    ("=", "str"),
    ("'5'", "str"),
    ('"true"', "str"),
    ("!!str 5", "str"),
    ("true", "bool"),
    ("False", "bool"),
    ("5", "int"),
    ("-5", "int"),
    ("010", "int"),
    ("0o17", "int"),
    ("0xff", "int"),
    ("!!int '5'", "int"),
    ("1.10", "float"),
    (".5", "float"),
    ("1e3", "float"),
    (".inf", "float"),
    (".NaN", "float"),
    ("null", "null"),
    ("~", "null"),
    ("", "null"),
]


@pytest.mark.parametrize(("written", "kind"), SCALARS)
def test_compose_scalars_resolve_as_in_yaml_1_2(written: str, kind: str) -> None:
    node = read(f"a: {written}")[0].entries["a"]
    assert isinstance(node, ScalarNode)
    assert node.kind == kind


def test_compose_scalar_keeps_its_text() -> None:
    assert plain(read("a: 1.10\nb: 010")[0]) == {"a": ("float", "1.10"), "b": ("int", "010")}


MERGED = [
    ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"a": ("int", "1"), "b": ("int", "3")}),
    ("x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}", {"b": ("int", "3"), "a": ("int", "1")}),
    ("x: &x {a: 1}\nz: &z {a: 2, c: 4}\ny: {<<: [*x, *z]}", {"a": ("int", "1"), "c": ("int", "4")}),
    ("x: &x {a: 1}\nz: &z {<<: *x}\ny: {<<: *z}", {"a": ("int", "1")}),
    ("x: &x [1, 2]\ny: {a: *x}", {"a": [("int", "1"), ("int", "2")]}),
]


@pytest.mark.parametrize(("text", "expected"), MERGED)
def test_compose_anchors_and_merges(text: str, expected: object) -> None:
    root, errors = read(text)
    assert plain(root.entries["y"]) == expected
    assert errors == []


FAULTS = [
    ("a: 1\na: 2", "line 2: the key 'a' is there twice, first in line 1"),
    ("s: {w: {i: 1, i: 2}}", "s.w (line 1): the key 'i' is there twice, first in line 1"),
    ("s:\n  8080: x", "s (line 2): the key '8080' must be text: write it in quotes"),
    ("s:\n  true: x", "s (line 2): the key 'true' must be text: write it in quotes"),
    ("s:\n  ? [a]\n  : x", "s (line 2): a key must be text, not a list or a mapping"),
    ('s:\n  "a\\nb": x', "s (line 2): the key 'a\\nb' must be one line without tabs"),
    ('s:\n  "a\\0": x', "s (line 2): the character U+0000 is not allowed"),
    ('s: "a\\0b"', "s (line 1): the character U+0000 is not allowed"),
    ('s: "\\e[31m"', "s (line 1): the character U+001B is not allowed"),
    ('s: "\\ud800"', "s (line 1): the character U+D800 is not allowed"),
    ("x: &x {a: 1}\ny: {<<: 5}", "y (line 2): '<<' must name a mapping or a list of mappings"),
    ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "y (line 2): the key '<<' is there twice"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_compose_faults_are_collected(text: str, message: str) -> None:
    assert read(text)[1] == [message]


REFUSED = [
    ("", "must be a mapping with a key `services`", 0),
    ("# nothing\n", "must be a mapping", 0),
    ("- a", "must be a mapping", 1),
    ("text", "must be a mapping", 1),
    ("a: 1\n---\nb: 2", "more than one document", 2),
    ("a: [1", "not valid YAML", 1),
    ("a: 1\n b: 2", "not valid YAML", 2),
    ("a: \t\x00", "not valid YAML", 0),
    ("\ud800: a", "not valid YAML", 0),
    ("a: '\\", "not valid YAML", 1),
    ('"\\UFFFFFFFF": a', "out of range", 0),
    ("%YAML " + "9" * 6000 + ".1\n---\na: b", "out of range", 0),
    ("a: *b", "the alias *b has no anchor before it", 1),
    ("a: &a [*a]", "the alias *a lies within its own anchor", 1),
    ("a: !!python/object:os.system {}", "the tag", 1),
    ("a: !!timestamp 2020-01-01", "the tag", 1),
    ("a: !reset null", "the tag '!reset' is not supported", 1),
    ("a: " + "[" * 40, "nested deeper than 32 levels", 1),
    ("[" * 500_000, "nested deeper than 32 levels", 1),
    ("- " * 500_000, "nested deeper than 32 levels", 1),
    ("k: [" + "a," * MAX_NODES + "]", "more than 20000 values", 1),
    ("#" * (1 << 20) + "\na: 1", "larger than 1 MiB", 0),
    ("#" + "\u00e9" * (1 << 19) + "\na: 1", "larger than 1 MiB", 0),
    (
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]" for i in range(1, 30)),
        "more than 20000 values, aliases expanded",
        5,
    ),
    (
        "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 900)),
        "nested deeper than 32 levels, aliases expanded",
        31,
    ),
    ("a: &a " + "x" * 900_000 + "\nb: [" + "*a," * 9 + "]", "more than 4 Mi characters, aliases expanded", 2),
]


@pytest.mark.parametrize(("text", "message", "line"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_compose_documents_refused(text: str, message: str, line: int) -> None:
    with pytest.raises(Refusal) as caught:
        read(text)
    assert message in caught.value.text
    assert caught.value.line == line


@pytest.mark.parametrize("text", ["plain", "tab\tand\nlines\r", "\u00e9\u4e2d\U0001f600", ""])
def test_compose_allowed_characters(text: str) -> None:
    assert forbidden_character(text) is None
