"""The command `fallow`: every command by its name, and one way in which all of them fail."""

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fallow.cli import completion, output
from fallow.cli.catalogue import Commands
from fallow.cli.failures import Exit, Failure, as_failure, usage
from fallow.cli.launchers import Launchers
from fallow.cli.options import JSON_WANTED
from fallow.cli.session import Connect, Session, connect
from fallow.version import VERSION

DEBUG = "FALLOW_DEBUG"


class Root(TyperGroup):
    """The group of all commands; whatever goes wrong in one of them ends here, told in one block."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**(named | {"commands": Commands()}))

    def make_context(self, *given: Any, **named: Any) -> Any:
        """Read the options before the command. Raises typer.Exit with the exit code of a failure."""
        with _told({}):
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Raises typer.Exit with the exit code of a failure."""
        with _told(ctx.meta):
            return super().invoke(ctx)


@contextmanager
def _told(meta: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        raise typer.Exit(Exit.INTERRUPTED) from None
    except (typer.Exit, BrokenPipeError):
        raise  # when the reader of a pipe has gone, typer ends quietly
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        if os.environ.get(DEBUG):
            traceback.print_exception(error)
        failure = as_failure(error) or _misuse(error) or _surprise(error)
        output.show_problem(failure.problem, as_json=bool(meta.get(JSON_WANTED)))
        raise typer.Exit(failure.code) from error


def _misuse(error: Exception) -> Failure | None:
    """Return what to tell of arguments that Typer refuses; its exceptions have no public class in every release."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    where = getattr(getattr(error, "ctx", None), "command_path", "fallow")
    return usage(message().rstrip("."), f"`{where} --help` shows how it is called.")


def _surprise(error: Exception) -> Failure:
    return Failure(
        f"Something went wrong in fallow itself: {type(error).__name__}: {error}",
        hint=f"Set {DEBUG}=1 to see where, and please report it.",
    )


def _tell_version(wanted: bool) -> None:
    if wanted:
        output.write(VERSION)
        raise typer.Exit


def _callback(
    context: Annotated[
        str,
        typer.Option(
            "--context",
            metavar="NAME",
            help="The control plane to use; else FALLOW_CONTEXT, or the one chosen by fallow context use.",
            show_default=False,
            autocompletion=completion.contexts,
        ),
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Fallow runs containers on the capacity that your servers leave idle."""


def build_cli(launchers: Launchers, connect: Connect = connect) -> typer.Typer:
    """Return the command line; calling it runs the process's arguments and exits.

    `connect` makes the client for a context.
    """
    session = Session(launchers=launchers, connect=connect)
    app = typer.Typer(
        name="fallow",
        cls=Root,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"obj": session, "help_option_names": ["-h", "--help"]},
        epilog="Begin with:\n\n  fallow up\n  fallow deploy compose.yaml\n  fallow token create --role node",
    )
    app.callback()(_callback)
    return app
