"""Reads YAML into located values, as the Compose specification does: the core schema of YAML 1.2.

Unlike PyYAML's own construction nothing is resolved as YAML 1.1 would (`22:22` is text, so is `on`, so is a date), a
duplicate key is an error, and size, depth and the expansion of aliases are bounded before anything is built.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import yaml

from fallow.decide.compose.problems import Problems, Refusal, shown

MAX_BYTES = 1 << 20
MAX_NODES = 20_000  # after the expansion of aliases
MAX_CHARACTERS = 4 << 20  # of all scalars, after the expansion of aliases
MAX_DEPTH = 32

Kind = Literal["str", "int", "float", "bool", "null", "broken"]


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """One value; `kind` is what it resolves to, "broken" when its fault has been told already.

    `written` is the text before its variables were replaced, None when it had none.
    """

    text: str
    kind: Kind
    line: int
    written: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    items: tuple["Node", ...]
    line: int


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping; its keys are text."""

    entries: dict[str, "Node"]
    line: int


Node = ScalarNode | SequenceNode | MappingNode

_CORE: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (
        "float",
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
)
_TAGS: dict[str, Kind] = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "int", "float", "bool", "null")}
_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
# C0 controls but for tab and line ends, delete, C1 controls, and halves of surrogate pairs, which cannot be stored.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


def read_document(text: str, problems: Problems) -> MappingNode:
    """Read one YAML document that is a mapping.

    Faults that leave the rest readable go to `problems`; raises Refusal for the others.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise Refusal(f"the file is larger than {MAX_BYTES >> 20} MiB")
    builder = _Builder(yaml.parse(text, Loader=yaml.SafeLoader), problems)
    try:
        node = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it is not YAML"
        raise Refusal(f"not valid YAML: {problem}", line=mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:
        raise Refusal(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError):  # PyYAML's scanner lets these through for escapes and versions out of range
        raise Refusal("not valid YAML: an escape or a number is out of range") from None
    if not isinstance(node, MappingNode):
        raise Refusal("the file must be a mapping with a key `services`", line=node.line if node else 0)
    return node


def forbidden_character(text: str) -> str | None:
    """Return the first character that no value may hold, as U+XXXX; None when there is none."""
    match = _FORBIDDEN.search(text)
    return f"U+{ord(match[0]):04X}" if match else None


def child_path(path: str, key: str) -> str:
    """Return the path of `key` below `path`: `services.web`."""
    shortened = key if len(key) <= 60 else key[:57] + "..."
    return f"{path}.{shortened}" if path else shortened


@dataclass(frozen=True, slots=True)
class _Built:
    """A node and what it weighs when every alias in it is expanded."""

    node: Node
    nodes: int
    characters: int
    height: int


class _Builder:
    """Builds nodes from parser events; an alias shares the node of its anchor, but is weighed in full."""

    def __init__(self, events: Iterator[yaml.Event], problems: Problems) -> None:
        self.events = events
        self.problems = problems
        self.anchors: dict[str, _Built | None] = {}  # None while the node is being read
        self.nodes = 0
        self.characters = 0

    def document(self) -> Node | None:
        """Return the root of the only document; None for an empty file."""
        found: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found is not None:
                    raise Refusal("the file holds more than one document", line=_line(event))
                found = self.build(next(self.events), "", 0).node
        return found

    def build(self, event: yaml.Event, path: str, depth: int) -> _Built:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self.weigh(self.alias(event, path, line), path, line, depth)
        assert isinstance(event, yaml.NodeEvent)
        if depth >= MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH} levels", path, line)
        anchor = event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            built = self.weigh(self.scalar(event, path, line), path, line, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event.tag, path, line)
            built = self.sequence(path, line, depth)
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            self.check_tag(event.tag, path, line)
            built = self.mapping(path, line, depth)
        if anchor is not None:
            self.anchors[anchor] = built
        return built

    def weigh(self, built: _Built, path: str, line: int, depth: int) -> _Built:
        """Count what has been read, aliases in full."""
        self.nodes += built.nodes
        self.characters += built.characters
        if self.nodes > MAX_NODES:
            raise Refusal(f"more than {MAX_NODES} values, aliases expanded", path, line)
        if self.characters > MAX_CHARACTERS:
            raise Refusal(f"more than {MAX_CHARACTERS >> 20} Mi characters, aliases expanded", path, line)
        if depth + built.height > MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH} levels, aliases expanded", path, line)
        return built

    def alias(self, event: yaml.AliasEvent, path: str, line: int) -> _Built:
        name = event.anchor or ""
        if name not in self.anchors:
            raise Refusal(f"the alias *{name[:60]} has no anchor before it", path, line)
        built = self.anchors[name]
        if built is None:
            raise Refusal(f"the alias *{name[:60]} lies within its own anchor", path, line)
        return built

    def check_tag(self, tag: str | None, path: str, line: int) -> None:
        if tag not in _COLLECTION_TAGS:
            raise Refusal(f"the tag {shown(tag or '')} is not supported", path, line)

    def scalar(self, event: yaml.ScalarEvent, path: str, line: int) -> _Built:
        text = event.value
        if event.tag is not None and event.tag != "!":
            if event.tag not in _TAGS:
                raise Refusal(f"the tag {shown(event.tag)} is not supported", path, line)
            kind = _TAGS[event.tag]
        else:
            kind = _resolve(text) if event.implicit[0] else "str"
        forbidden = forbidden_character(text)
        if forbidden:
            self.problems.error(path, line, f"the character {forbidden} is not allowed")
            text, kind = "", "broken"
        return _Built(ScalarNode(text, kind, line), 1, len(text), 1)

    def sequence(self, path: str, line: int, depth: int) -> _Built:
        before = (self.nodes, self.characters)
        items: list[_Built] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self.build(event, f"{path}[{len(items)}]", depth + 1))
        node = SequenceNode(tuple(item.node for item in items), line)
        return self.weighed(node, before, items)

    def mapping(self, path: str, line: int, depth: int) -> _Built:
        before = (self.nodes, self.characters)
        entries: dict[str, Node] = {}
        merged: list[MappingNode] | None = None
        parts: list[_Built] = []
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key_line = _line(event)
            key = self.build(event, path, depth + 1)
            name = self.key_name(key.node, path, key_line)
            value = self.build(next(self.events), child_path(path, name or "?"), depth + 1)
            parts += (key, value)
            if name == "<<":
                if merged is not None:
                    self.problems.error(path, key_line, "the key '<<' is there twice")
                merged = (merged or []) + self.merged(value.node, path, key_line)
            elif name in entries:
                first = entries[name].line
                self.problems.error(path, key_line, f"the key {shown(name)} is there twice, first in line {first}")
            elif name is not None:
                entries[name] = value.node
        for source in merged or ():  # what is written here wins over what is merged, earlier sources over later ones
            for name, node in source.entries.items():
                entries.setdefault(name, node)
        return self.weighed(MappingNode(entries, line), before, parts)

    def weighed(self, node: Node, before: tuple[int, int], parts: list[_Built]) -> _Built:
        self.nodes += 1
        height = 1 + max((part.height for part in parts), default=0)
        return _Built(node, self.nodes - before[0], self.characters - before[1], height)

    def key_name(self, node: Node, path: str, line: int) -> str | None:
        """Return the key's text; None, with an error, when it cannot be a key."""
        if not isinstance(node, ScalarNode):
            self.problems.error(path, line, "a key must be text, not a list or a mapping")
            return None
        if node.kind == "broken":
            return None
        if node.kind != "str":
            self.problems.error(path, line, f"the key {shown(node.text)} must be text: write it in quotes")
            return None
        if "\n" in node.text or "\t" in node.text or "\r" in node.text:
            self.problems.error(path, line, f"the key {shown(node.text)} must be one line without tabs")
            return None
        return node.text

    def merged(self, node: Node, path: str, line: int) -> list[MappingNode]:
        """Return the mappings that `<<` names."""
        sources = node.items if isinstance(node, SequenceNode) else (node,)
        found = [source for source in sources if isinstance(source, MappingNode)]
        if len(found) != len(sources):
            self.problems.error(path, line, "'<<' must name a mapping or a list of mappings")
        return found


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _resolve(text: str) -> Kind:
    """Return what a plain scalar is in the core schema of YAML 1.2."""
    for kind, pattern in _CORE:
        if pattern.fullmatch(text):
            return kind
    return "str"
