"""The command `fallow`: every command by its name, and one way in which all of them fail."""

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fallow.cli import (
    cluster_host,
    cluster_life,
    clusters,
    completion,
    contexts,
    control,
    deployments,
    dns,
    harvest,
    images,
    label_sets,
    node_life,
    nodes,
    output,
    peers,
    plan,
    pools,
    processes,
    registries,
    replicas,
    routes,
    server_life,
    server_pools,
    servers,
    stores,
    tokens,
    trust,
    versions,
    vm_images,
    vm_life,
    vms,
)
from fallow.cli.deploy import deploy
from fallow.cli.doctor import doctor
from fallow.cli.events import events
from fallow.cli.explain import explain
from fallow.cli.failures import Exit, Failure, as_failure, usage
from fallow.cli.launchers import Launchers
from fallow.cli.options import JSON_WANTED
from fallow.cli.session import Connect, Session, connect
from fallow.cli.top import top
from fallow.version import VERSION

RUN, USE, SEE = "Run", "Use", "See"
DEBUG = "FALLOW_DEBUG"

_EXAMPLES = {
    "up": """Examples:

  fallow up
  fallow up --http-port 80""",
    "server": """Examples:

  fallow server
  fallow server --data /srv/fallow --host control.example
  fallow server --listen 0.0.0.0:7443 --advertise control.example:7444""",
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


class Root(TyperGroup):
    """The group of all commands; whatever goes wrong in one of them ends here, told in one block."""

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


node_life.register(nodes.app)
cluster_host.register(clusters.app)
cluster_life.register(clusters.app)
server_life.register(servers.app)
vm_life.register(vms.app)
vms.app.add_typer(vm_images.app, name="image")
servers.app.callback(invoke_without_command=True, epilog=_EXAMPLES["server"])(processes.server)


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
    for run in (processes.up, processes.join, processes.gateway):
        app.command(epilog=_EXAMPLES[run.__name__], rich_help_panel=RUN)(run)
    app.add_typer(servers.app, name="server", rich_help_panel=RUN)
    app.command(epilog=_EXAMPLES["deploy"], rich_help_panel=USE)(deploy)
    app.add_typer(stores.app, name="store", rich_help_panel=RUN)
    for name, group in (
        ("deployment", deployments.app),
        ("node", nodes.app),
        ("cluster", clusters.app),
        ("server-pool", server_pools.app),
        ("vm", vms.app),
        ("token", tokens.app),
        ("pool", pools.app),
    ):
        app.add_typer(group, name=name, rich_help_panel=USE)
    app.add_typer(images.app, name="image", rich_help_panel=USE)
    app.add_typer(label_sets.app, name="label-set", rich_help_panel=USE)
    app.add_typer(registries.app, name="registry", rich_help_panel=USE)
    app.add_typer(trust.app, name="trust", rich_help_panel=USE)
    app.add_typer(contexts.app, name="context", rich_help_panel=USE)
    app.add_typer(control.app, name="control", rich_help_panel=USE)
    for see in (replicas.logs, explain, events, top, doctor, versions.version):
        app.command(epilog=_EXAMPLES[see.__name__], rich_help_panel=SEE)(see)
    for name, group in (("replica", replicas.app), ("route", routes.app), ("dns", dns.app), ("peer", peers.app)):
        app.add_typer(group, name=name, rich_help_panel=SEE)
    app.add_typer(plan.app, name="plan", rich_help_panel=SEE)
    app.add_typer(harvest.app, name="harvest", rich_help_panel=SEE)
    return app
