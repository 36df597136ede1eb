"""What one run of `fallow` has at hand: the launchers, and the way to the control plane."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

from fallow.cli.failures import Exit, Failure
from fallow.cli.launchers import Launchers
from fallow.client.contexts import Context, resolve

if TYPE_CHECKING:
    from fallow.client.api import Client

READ_SECONDS = 30.0

Connect = Callable[[Context, float], "Client"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Made once for every run; `context_name` is what `--context` says."""

    launchers: Launchers
    connect: Connect
    context_name: str = ""

    def context(self) -> Context:
        """Return the context commands are for. Raises ContextsError."""
        return resolve(self.context_name)

    def client(self, *, seconds: float = READ_SECONDS) -> "Client":
        """Return a client for the context; the caller closes it. Raises ContextsError, Failure."""
        context = self.context()
        try:
            return self.connect(context, seconds)
        except ValueError as error:
            raise Failure(
                f"The context {context.name} cannot be used",
                detail=str(error),
                hint="Correct it with `fallow context add`.",
                code=Exit.USAGE,
            ) from error


def connect(context: Context, seconds: float) -> "Client":
    """Return a client for `context`. Raises ValueError."""
    from fallow.client.api import Client  # the HTTP library takes longer to load than all of `--help`

    return Client(context.url, context.token, context.ca_pem, seconds=seconds)


def session_of(ctx: typer.Context) -> Session:
    """Return the run's session, also while the shell completes and no callback has run."""
    root = ctx.find_root()
    session = cast(Session, root.obj)
    name = root.params.get("context") or ""
    return Session(launchers=session.launchers, connect=session.connect, context_name=name)
