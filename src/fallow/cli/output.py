"""How results look: tables and colours on a terminal, plain unwrapped lines elsewhere, JSON when asked."""

import re
import sys
import time
from collections.abc import Iterable
from typing import IO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fallow.model.problems import Problem
from fallow.model.units import format_duration

_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
WIDE = 4000  # columns where nothing limits them, so that a line stays a line

_STYLES = {
    "ready": "green",
    "serving": "green",
    "running": "green",
    "healthy": "green",
    "valid": "green",
    "create": "green",
    "joining": "cyan",
    "pending": "cyan",
    "placed": "cyan",
    "updating": "cyan",
    "update": "cyan",
    "scale": "cyan",
    "starting": "cyan",
    "done": "green",
    "completed": "green",
    "deleted": "green",
    "working": "cyan",
    "paused": "yellow",
    "waiting": "yellow",
    "suspect": "yellow",
    "degraded": "yellow",
    "leaving": "yellow",
    "stopping": "yellow",
    "deleting": "yellow",
    "delete": "yellow",
    "warning": "yellow",
    "cordoned": "yellow",
    "draining": "yellow",
    "dead": "red",
    "failed": "red",
    "lost": "red",
    "unhealthy": "red",
    "conflict": "red",
    "revoked": "dim",
    "used": "dim",
    "expired": "dim",
    "stopped": "dim",
}


def stdout() -> Console:
    """Return a console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return a console for everything that is not a result: progress, notes and failures."""
    return _console(sys.stderr)


def on_terminal(stream: IO[str]) -> bool:
    """Say whether a person reads `stream`."""
    return stream.isatty()


def _console(stream: IO[str]) -> Console:
    terminal = on_terminal(stream)
    return Console(file=stream, width=None if terminal else WIDE, highlight=False, soft_wrap=not terminal, emoji=False)


def clean(text: str) -> str:
    """Return `text` with control characters shown as `?`: what a machine reports must not drive a terminal."""
    return "".join(character if character.isprintable() else " " if character in "\t\n" else "?" for character in text)


def cell(value: object) -> Text:
    """Return a value as a table shows it; nothing is a dash, and a known state has its colour."""
    text = clean(str(value)) if value not in ("", None) else "-"
    return Text(text, style=_STYLES.get(text, ""))


def table(*columns: str) -> Table:
    """Return an empty table without lines, as other tools can read it too."""
    made = Table(box=None, pad_edge=False, show_header=True, header_style="bold", padding=(0, 3, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def rows(made: Table, lines: Iterable[Iterable[object]]) -> Table:
    """Add rows of plain values to a table and return it."""
    for line in lines:
        made.add_row(*(value if isinstance(value, Text) else cell(value) for value in line))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Return one thing's properties, one a line; those without a value are left out."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None, ()):
            made.add_row(name, value if isinstance(value, Text) else cell(value))
    return made


def rendered(renderable: RenderableType) -> str:
    """Return what a console without a terminal would show, without spaces at line ends."""
    console = Console(width=WIDE, highlight=False, color_system=None, emoji=False, file=sys.stderr)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def show(renderable: RenderableType) -> None:
    """Print a result."""
    if on_terminal(sys.stdout):
        stdout().print(renderable)
    else:
        write(rendered(renderable))


def write(line: str) -> None:
    """Print one line of a result exactly as it is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_json(value: object, *, one_line: bool = False) -> None:
    """Print a result as JSON; on one line where many follow each other."""
    write(_json(value, one_line=one_line))


def _json(value: object, *, one_line: bool) -> str:
    """Return JSON in which what could drive a terminal is escaped, C1 controls and marks of direction among it."""
    text = msgspec.json.encode(value)
    told = (text if one_line else msgspec.json.format(text, indent=2)).decode()
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", told)


def note(text: str) -> None:
    """Tell something that is not a result."""
    stderr().print(Text(clean(text)), soft_wrap=True)


def warn(text: str) -> None:
    """Tell something that may need attention."""
    stderr().print(Text.assemble(("warning: ", "yellow"), clean(text)), soft_wrap=True)


def show_problem(problem: Problem, *, as_json: bool) -> None:
    """Tell why a command failed, as one block on standard error."""
    if as_json:
        sys.stderr.write(_json(problem, one_line=False) + "\n")
        return
    lines = [Text.assemble(("error: ", "bold red"), (clean(problem.title), "bold"))]
    lines += [Text("  " + clean(line)) for line in problem.detail.splitlines() if line.strip()]
    lines += [Text("  - " + clean(error)) for error in problem.errors]
    if problem.hint:
        lines.append(Text.assemble(("next: ", "cyan"), clean(problem.hint)))
    if problem.request_id:
        lines.append(Text(f"(request {clean(problem.request_id)})", style="dim"))
    stderr().print(Group(*lines), soft_wrap=True)


def age(since: float, now: float | None = None) -> str:
    """Return how long ago `since` (seconds since the epoch) was, the short way; a dash for never."""
    return format_duration((time.time() if now is None else now) - since) if since > 0 else "-"


def clock(at: float) -> str:
    """Return a moment as local time, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at > 0 else "-"


def count(number: int, noun: str) -> str:
    """Return so many of something: `1 replica`, `3 replicas`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def place(region: str, zone: str) -> str:
    """Return where something stands: `region/zone`, or what of it is known."""
    return "/".join(filter(None, (region, zone)))


def pairs(labels: dict[str, str]) -> str:
    """Return labels as `key=value,key=value`."""
    return ",".join(f"{key}={value}" if value else key for key, value in sorted(labels.items()))
