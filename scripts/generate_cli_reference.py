"""Write docs/reference/cli.md from the command line itself; with `--check` fail when the file is stale."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fallow.cli.app import build_cli
from fallow.cli.failures import Exit
from fallow.cli.launchers import Launchers

FILE = Path(__file__).parent.parent / "docs/reference/cli.md"

HEAD = """# The command line

Made by `scripts/generate_cli_reference.py` from the commands' own help; change it there.

Every list and show takes `--json`, which prints what [the API](../design/api.md) answers. Results go to standard
output; progress, notes and failures go to standard error. Outside a terminal nothing is coloured or wrapped; `NO_COLOR`
takes the colours away on a terminal, too. A deployment is named `PROJECT/NAME`, or `NAME` in the project of
`--project`, `FALLOW_PROJECT`, the context, or `default`. Durations are written `30s`, `5m`, `1h30m`.

With `--watch` a list is drawn anew on every change; with `--json` as well, every picture is one line, and so is every
event of `fallow events --follow --json`.
"""

MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "refused, failed, or not done in time",
    Exit.USAGE: "called wrongly, a file cannot be read, or no context is chosen",
    Exit.NOT_FOUND: "there is no such thing",
    Exit.CONFLICT: "it contradicts what is there now",
    Exit.UNREACHABLE: "the control plane cannot be reached, is not ready, or is not the trusted one",
    Exit.NOT_ALLOWED: "no valid token, or its role does not allow it",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}

ENVIRONMENT = {
    "FALLOW_CONTEXT": "the context to use",
    "FALLOW_URL": "a control plane's URL; without FALLOW_CONTEXT it stands by itself, with no stored context",
    "FALLOW_TOKEN": "the API token",
    "FALLOW_CA_FILE": "a file with the CA's certificate, PEM",
    "FALLOW_PROJECT": "the project",
    "FALLOW_JOIN_TOKEN": "the join token of `fallow join` and `fallow gateway`",
    "FALLOW_DEBUG": "any value: show where in the program a failure arose",
    "XDG_CONFIG_HOME": "the folder of `fallow/contexts.json`, `~/.config` when unset",
    "XDG_DATA_HOME": "the folder of `fallow/`, where processes keep state when not root; `~/.local/share` when unset",
}


def main() -> int:
    """Write or check the file; 1 when it is stale."""
    text = reference()
    if "--check" not in sys.argv[1:]:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(text)
        return 0
    if FILE.exists() and FILE.read_text() == text:
        return 0
    print(f"{FILE} is stale: run scripts/generate_cli_reference.py", file=sys.stderr)
    return 1


def reference() -> str:
    """Return the whole page."""
    root: Any = get_command(build_cli(Launchers(server=_none, join=_none, gateway=_none, up=_none, store=_none)))
    parts = [HEAD, "## Exit codes\n", *_table(("code", "meaning"), ((str(int(c)), MEANINGS[c]) for c in Exit))]
    parts += ["\n## Environment\n", *_table(("variable", "meaning"), ((f"`{k}`", v) for k, v in ENVIRONMENT.items()))]
    parts += ["\n## Options before the command\n", *_parameters(root), ""]
    for path, command in _commands(root, ()):
        parts += _section(path, command)
    return "\n".join(parts).rstrip() + "\n"


def _none(_: object) -> int:
    return 0


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            if child.invoke_without_command:
                yield (*path, name), child
            yield from _commands(child, (*path, name))
        else:
            yield (*path, name), child


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"## fallow {' '.join(path)}\n"
    yield " ".join(command.help.split("\n\n")[0].split()) + "\n"
    for paragraph in command.help.split("\n\n")[1:]:
        yield " ".join(paragraph.split()) + "\n"
    yield from _parameters(command)
    examples = command.epilog.split(":\n\n", 1)[1]
    yield "\n```sh\n" + "\n".join(line.strip() for line in examples.splitlines()) + "\n```\n"


def _parameters(command: Any) -> Iterator[str]:
    lines = [
        (_name(parameter), parameter.help or "", _default(parameter))
        for parameter in command.params
        if parameter.name not in ("help", "install_completion", "show_completion")
    ]
    if lines:
        yield from _table(("", "meaning", "default"), lines)


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    value = "" if _is_flag(parameter) else f" {parameter.metavar or _kind(parameter)}"
    return names + value


def _kind(parameter: Any) -> str:
    choices = _CHOICES.get(parameter.name)
    return choices or ("N" if isinstance(parameter.default, int) else "TEXT")


_CHOICES = {"log_level": "debug, info, warning or error", "log_format": "auto, json or console"}


def _is_flag(parameter: Any) -> bool:
    return isinstance(parameter.default, bool) or bool(getattr(parameter, "is_flag", False))


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return str(parameter.show_default)
    if parameter.required:
        return "required"
    if _is_flag(parameter):
        return (
            f"`{(parameter.opts if parameter.default else parameter.secondary_opts)[0]}`"
            if parameter.secondary_opts and parameter.default is not None
            else ""
        )
    return f"`{parameter.default}`" if parameter.show_default and parameter.default not in (None, "") else ""


def _table(head: tuple[str, ...], lines: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for line in lines:
        yield "| " + " | ".join(part.replace("|", "\\|") for part in line) + " |"


if __name__ == "__main__":
    sys.exit(main())
