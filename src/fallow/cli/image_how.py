"""How an image job goes over its nodes, as options of commands."""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import typer

from fallow.cli.failures import usage
from fallow.cli.image_targets import target_of
from fallow.cli.options import seconds
from fallow.model.image_jobs import ImageAction
from fallow.model.image_requests import ImageJobRequest

HOW = "How"
Strategy = Literal["all", "canary"]

Parallel = Annotated[
    str, typer.Option("--parallel", metavar="N", help="Nodes at once: a number, or 10%.", rich_help_panel=HOW)
]
InWaves = Annotated[
    Strategy,
    typer.Option("--strategy", help="canary: one node first, then a tenth, then the rest.", rich_help_panel=HOW),
]
MaxFailures = Annotated[
    str,
    typer.Option("--max-failures", metavar="N", help="More failed nodes than this stop it.", rich_help_panel=HOW),
]
Attempts = Annotated[int, typer.Option("--attempts", min=1, max=20, help="Tries on each node.", rich_help_panel=HOW)]
Timeout = Annotated[
    str, typer.Option("--timeout", metavar="DURATION", help="For one try on one node.", rich_help_panel=HOW)
]
Stall = Annotated[
    str,
    typer.Option("--stall", metavar="DURATION", help="A try without a byte for so long fails.", rich_help_panel=HOW),
]
Deadline = Annotated[
    str, typer.Option("--deadline", metavar="DURATION", help="For all of it; 0s: none.", rich_help_panel=HOW)
]
WaitForNodes = Annotated[
    bool,
    typer.Option(
        "--wait-for-nodes", help="Stay open when nobody is selected now, until somebody is.", rich_help_panel=HOW
    ),
]
InProject = Annotated[
    str, typer.Option("--project", "-p", metavar="NAME", help="Whose rules and logins count.", rich_help_panel=HOW)
]


@dataclass(frozen=True, kw_only=True)
class How:
    """The text of options, not read yet; each field is one of a command that `takes_how`."""

    parallel: Parallel = "20"
    strategy: InWaves = "all"
    max_failures: MaxFailures = "10%"
    attempts: Attempts = 3
    timeout: Timeout = "10m"
    stall: Stall = "60s"
    deadline: Deadline = "24h"
    wait_for_nodes: WaitForNodes = False
    project: InProject = "default"

    def request(self, action: ImageAction, reference: str, on: str, *, dry_run: bool) -> ImageJobRequest:
        """Return what is asked for. Raises Failure."""
        made = ImageJobRequest(
            action=action,
            reference=reference,
            target=target_of(on),
            project=self.project,
            instruction=shlex.join(["fallow", *sys.argv[1:]])[:2048] if sys.argv[1:2] == ["image"] else "",
            parallel=self.parallel,
            canary=self.strategy == "canary",
            max_failures=self.max_failures,
            attempts=self.attempts,
            attempt_seconds=seconds(self.timeout),
            stall_seconds=seconds(self.stall),
            deadline_seconds=seconds(self.deadline),
            wait_for_nodes=self.wait_for_nodes,
            dry_run=dry_run,
        )
        try:  # the patterns and bounds of its fields
            return msgspec.convert(msgspec.to_builtins(made), ImageJobRequest)
        except msgspec.ValidationError as error:
            raise usage(f"The options cannot be used: {error}", "`--help` shows what each may be.") from None


def takes_how(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have every option of How, in the place of its parameter `how`."""
    kinds = get_type_hints(How, include_extras=True)
    options = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=kinds[each.name])
        for each in fields(How)
    ]
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters.extend(options if name == "how" else [parameter])

    @functools.wraps(command)
    def called(**given: Any) -> None:
        how = How(**{option.name: given.pop(option.name) for option in options})
        command(**given, how=how)

    called.__dict__["__signature__"] = signature.replace(parameters=parameters)
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called
