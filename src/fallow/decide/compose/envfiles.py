"""Environment files: the `.env` format of Compose.

`NAME=value` or `NAME: value` a line; `export` before it, blank lines and `#` comments are passed over. A value may be
plain, in single quotes (as it stands) or in double quotes (escapes such as `\\n`); quoted values may span lines.
Variables are replaced in plain and in double-quoted values.
"""

import re
from collections import ChainMap
from collections.abc import Mapping

from fallow.decide.compose.document import forbidden_character
from fallow.decide.compose.problems import Refusal
from fallow.decide.compose.variables import Interpolator

MAX_CHARACTERS = 1 << 20
MAX_ENTRIES = 1024  # as many as a container may have

_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ENTRY = re.compile(
    r"""
    [ \t]* (?:export[ \t]+)? (?P<name>[^\s=:\#'"]+) [ \t]*
    (?: [=:] [ \t]* (?:
          "(?P<double>(?:[^"\\]|\\.)*)" [ \t]*(?:\#[^\n]*)?
        | '(?P<single>(?:[^'\\]|\\.)*)' [ \t]*(?:\#[^\n]*)?
        | (?P<plain>(?!["'])[^\n]*)
      )
    )?
    (?:\n|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_RAW = re.compile(r"(?P<name>[^\s=#]+)(?:=(?P<plain>.*))?")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$$"}

# What a file says: a name without a value takes the variable of that name, and is None here.
Entries = dict[str, str | None]


class EnvFiles:
    """The environment files that came with a Compose file, by the path written there; each is read once."""

    def __init__(self, contents: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self.contents = contents
        self.variables = variables
        self.missing: list[str] = []  # variables without value and without default
        self._read: dict[tuple[str, bool], Entries | Refusal] = {}

    def read(self, path: str, raw: bool) -> Entries | None:
        """Return the entries of a file, None when it did not come along. Raises Refusal, which never tells a value."""
        if path not in self.contents:
            return None
        known = self._read.get((path, raw))
        if known is None:
            try:
                text = self.contents[path]
                known = parse_raw(text) if raw else self._parse_env(text)
            except Refusal as refusal:
                known = refusal
            if not isinstance(known, Refusal) and len(known) > MAX_ENTRIES:
                known = Refusal(f"has {len(known)} entries; at most {MAX_ENTRIES} are allowed")
            self._read[path, raw] = known
        if isinstance(known, Refusal):
            raise Refusal(known.text)
        return known

    def _parse_env(self, text: str) -> Entries:
        found, missing = parse_env(text, self.variables)
        known = set(self.missing)
        self.missing += [name for name in missing if name not in known]
        return found


def parse_env(text: str, variables: Mapping[str, str]) -> tuple[Entries, list[str]]:
    """Read a file in the usual format; return its entries and the variables that are missing. Raises Refusal.

    A variable given from outside wins over one the file has set before.
    """
    text = _checked(text)
    found: Entries = {}
    defined: dict[str, str] = {}
    interpolator = Interpolator(ChainMap(dict(variables), defined))
    position, line = 0, 1
    while position < len(text):
        skipped = _SKIPPED.match(text, position)
        if skipped is not None:
            position, line = skipped.end(), line + 1
            continue
        entry = _ENTRY.match(text, position)
        if entry is None:
            raise Refusal(f"line {line} is not NAME=value, or a quote is not closed")
        try:
            value = _value(entry, interpolator)
        except Refusal as refusal:
            raise Refusal(f"line {line}: {refusal.text}") from None
        found[entry["name"]] = value
        if value is not None:
            defined[entry["name"]] = value
        position, line = entry.end(), line + entry[0].count("\n")
    return found, interpolator.missing


def parse_raw(text: str) -> Entries:
    """Read a file whose values are taken as they stand, one a line. Raises Refusal."""
    found: Entries = {}
    for number, line in enumerate(_checked(text).split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _RAW.fullmatch(line)
        if entry is None:
            raise Refusal(f"line {number} is not NAME=value")
        found[entry["name"]] = entry["plain"]
    return found


def _checked(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise Refusal(f"is larger than {MAX_CHARACTERS >> 20} MiB")
    forbidden = forbidden_character(text)
    if forbidden:
        raise Refusal(f"holds the character {forbidden}, which is not allowed")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _value(entry: re.Match[str], interpolator: Interpolator) -> str | None:
    if entry["single"] is not None:
        return entry["single"].replace("\\'", "'")
    if entry["double"] is not None:
        return interpolator.text(_ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[0]), entry["double"]))
    if entry["plain"] is not None:
        return interpolator.text(_COMMENT.sub("", entry["plain"], count=1).strip())
    return None
