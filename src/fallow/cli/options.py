"""Options that many commands share, each defined once."""

import sys
import time
from datetime import datetime
from typing import Annotated

import typer

from fallow.cli import completion
from fallow.cli.failures import usage
from fallow.model.units import parse_seconds

JSON_WANTED = "fallow.json"


def _remember_json(ctx: typer.Context, wanted: bool) -> bool:
    ctx.meta[JSON_WANTED] = wanted  # so that a failure is told as JSON too
    return wanted


def seconds(text: str) -> float:
    """Read a duration of the command line. Raises typer.BadParameter."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def moment(text: str) -> float:
    """Read a duration before now, or a moment in local time unless it says otherwise. Raises Failure."""
    try:
        return time.time() - parse_seconds(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise usage(f"{text!r} is not a time", "Write 30m, 2h or 7d, or a moment such as 2026-01-31T08:00.") from None


def key_values(texts: list[str], what: str) -> tuple[tuple[str, str], ...]:
    """Read `NAME=VALUE` arguments. Raises Failure."""
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise usage(f"{text!r} is not a {what}", f"Write it as NAME=VALUE, for example {what}=value.")
        found.append((key, value))
    return tuple(found)


def secret(given: str, environment_value: str, prompt: str) -> str:
    """Return a secret from an argument (`-`: standard input), else the environment, else a prompt on a terminal."""
    if given == "-":
        return sys.stdin.readline().strip()
    if given or environment_value:
        return given or environment_value
    if prompt and sys.stdin.isatty():
        return str(typer.prompt(prompt, hide_input=True, err=True)).strip()
    return ""


Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of a table.", callback=_remember_json, rich_help_panel="Output"),
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change.", rich_help_panel="Output")]
InProject = Annotated[
    str,
    typer.Option(
        "--project",
        "-p",
        help="Only of this project.",
        metavar="NAME",
        show_default=False,
        autocompletion=completion.projects,
    ),
]
Project = Annotated[
    str,
    typer.Option(
        "--project",
        "-p",
        help="The project; else FALLOW_PROJECT, the context's, or default.",
        metavar="NAME",
        show_default=False,
        autocompletion=completion.projects,
    ),
]
Deployment = Annotated[
    str,
    typer.Argument(
        help="The deployment, as NAME or PROJECT/NAME.", metavar="NAME", autocompletion=completion.deployments
    ),
]
Selector = Annotated[
    str,
    typer.Option(
        "--selector",
        "-l",
        metavar="SELECTOR",
        help="Only those that it picks, such as 'role=web,zone in (a,b),disk.free>=20GiB' or @web-east.",
        show_default=False,
        autocompletion=completion.selectors,
    ),
]
Node = Annotated[
    str, typer.Argument(help="The member's name or id.", metavar="NAME", autocompletion=completion.members)
]
