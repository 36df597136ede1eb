"""Every command by its name and where it is found; each is loaded when it is looked up: a run needs one."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.main import get_command

RUN, USE, SEE = "Run", "Use", "See"


class Entry(NamedTuple):
    """The panel of `--help` that shows a command, and the modules of this folder that it is in.

    The first has the command, or a group called `app`; the others add to that group in their `register`.
    """

    panel: str
    modules: tuple[str, ...]


COMMANDS = {
    "up": Entry(RUN, ("processes",)),
    "join": Entry(RUN, ("processes",)),
    "gateway": Entry(RUN, ("processes",)),
    "deploy": Entry(USE, ("deploy",)),
    "logs": Entry(SEE, ("replicas",)),
    "explain": Entry(SEE, ("explain",)),
    "events": Entry(SEE, ("events",)),
    "top": Entry(SEE, ("top",)),
    "doctor": Entry(SEE, ("doctor",)),
    "version": Entry(SEE, ("versions",)),
    "server": Entry(RUN, ("servers", "server_life")),
    "store": Entry(RUN, ("stores",)),
    "deployment": Entry(USE, ("deployments",)),
    "node": Entry(USE, ("nodes", "node_life")),
    "cluster": Entry(USE, ("clusters", "cluster_host", "cluster_life")),
    "server-pool": Entry(USE, ("server_pools",)),
    "vm": Entry(USE, ("vms", "vm_life", "vm_images")),
    "token": Entry(USE, ("tokens",)),
    "pool": Entry(USE, ("pools",)),
    "image": Entry(USE, ("images",)),
    "label-set": Entry(USE, ("label_sets",)),
    "registry": Entry(USE, ("registries",)),
    "trust": Entry(USE, ("trust",)),
    "context": Entry(USE, ("contexts",)),
    "control": Entry(USE, ("control",)),
    "replica": Entry(SEE, ("replicas",)),
    "route": Entry(SEE, ("routes",)),
    "dns": Entry(SEE, ("dns",)),
    "peer": Entry(SEE, ("peers",)),
    "plan": Entry(SEE, ("plan",)),
    "harvest": Entry(SEE, ("harvest",)),
}

_EXAMPLES = {
    "up": """Examples:

  fallow up
  fallow up --http-port 80""",
    "join": """Examples:

  fallow join https://control.example:7443 TOKEN
  fallow join https://control.example:7443 - --var rack=r12 --function "build machine" < token.txt
  FALLOW_JOIN_TOKEN=TOKEN fallow join https://control.example:7443 --install""",
    "gateway": """Examples:

  fallow gateway https://control.example:7443 TOKEN
  fallow gateway https://control.example:7443 TOKEN --http-port 8080""",
    "deploy": """Examples:

  fallow deploy
  fallow deploy compose.yaml --project shop
  fallow deploy -f compose.yaml --dry-run
  fallow deploy --prune --timeout 10m
  generate | fallow deploy - --no-wait --json""",
    "logs": """Examples:

  fallow logs web
  fallow logs shop/web --follow --tail 20
  fallow logs r-5k2m""",
    "explain": """Examples:

  fallow explain web
  fallow explain node-7
  fallow explain r-5k2m --json""",
    "events": """Examples:

  fallow events
  fallow events --follow --subject shop/web
  fallow events --follow --json | jq .message
  fallow events --audit --since 7d
  fallow events --audit --who ci --subject shop/web""",
    "top": """Examples:

  fallow top
  fallow top --vms
  fallow top --once
  fallow top --json""",
    "doctor": """Examples:

  fallow doctor
  fallow doctor --only machine
  fallow doctor --only control --json""",
    "version": """Examples:

  fallow version
  fallow version --json""",
}


class Commands(Mapping[str, Any]):
    """The command line's commands and groups in the order of `--help`."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return a command, made when it is first looked up. Raises KeyError."""
        if name not in self._made:
            self._made[name] = _made(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _made(name: str) -> Any:
    panel, found = COMMANDS[name].panel, _loaded(name)
    around = typer.Typer(add_completion=False, rich_markup_mode="rich")
    around.callback()(lambda: None)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name, rich_help_panel=panel)
    else:
        around.command(name, epilog=_EXAMPLES[name], rich_help_panel=panel)(found)
    made: Any = get_command(around)
    return made.commands[name]


@cache
def _loaded(name: str) -> Any:
    """Return a group, or the function of a command."""
    first, *more = (import_module(f"fallow.cli.{module}") for module in COMMANDS[name].modules)
    found = getattr(first, name if name in _EXAMPLES else "app")
    for module in more:
        module.register(found)
    return found
