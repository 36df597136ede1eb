"""`fallow doctor`: what is wrong here, and how to mend it."""

import time
from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.text import Text

from fallow.cli import checks, output
from fallow.cli.failures import Exit
from fallow.cli.launchers import DoctorOptions
from fallow.cli.options import Json
from fallow.cli.process_options import Engine, Haproxy
from fallow.cli.processes import data_folder
from fallow.cli.session import Session, session_of
from fallow.client.contexts import ContextsError, NoContext
from fallow.client.errors import ClientError
from fallow.model.doctor import Diagnosis, Finding, Verdict

PATIENCE_SECONDS = 10.0
_WORST: tuple[Verdict, ...] = ("ok", "note", "warning", "broken")
_STYLE = {"ok": "green", "note": "dim", "warning": "yellow", "broken": "bold red"}


def doctor(
    ctx: typer.Context,
    only: Annotated[
        Literal["all", "machine", "control"],
        typer.Option("--only", help="This machine, or the control plane of the context; all: both, if there is one."),
    ] = "all",
    engine: Engine = None,
    haproxy: Haproxy = "haproxy",
    as_json: Json = False,
) -> None:
    """Check this machine and the control plane, and say what to mend.

    Ends with 1 when something is broken; warnings and notes alone end with 0.
    """
    session = session_of(ctx)
    machine: Sequence[Finding] = ()
    if only != "control":
        options = DoctorOptions(data=data_folder(""), engine=engine, haproxy=haproxy)
        machine = session.launchers.doctor(options)
    control = _control(session, wanted=only == "control") if only != "machine" else ()
    worst = max((_WORST.index(found.verdict) for found in (*machine, *control)), default=0)
    diagnosis = Diagnosis(verdict=_WORST[worst], machine=tuple(machine), control=tuple(control))
    if as_json:
        output.write_json(diagnosis)
    else:
        _show(diagnosis)
    raise typer.Exit(Exit.FAILED if diagnosis.verdict == "broken" else Exit.OK)


def _control(session: Session, *, wanted: bool) -> Sequence[Finding]:
    """Check the control plane of the context; without one there is nothing to check unless it is `wanted`."""
    try:
        context = session.context()
    except NoContext:
        if wanted:
            raise
        return ()
    except ContextsError as error:
        return (Finding(check="context", verdict="broken", text=str(error), mend="fallow context list"),)
    with session.client(seconds=PATIENCE_SECONDS) as client:
        try:
            began = time.time()
            status = client.status()
            ended = time.time()
            expires_at = client.certificate_expires_at()
        except ClientError as error:
            return (checks.unanswered(context.url, error),)
    return checks.control(context.url, status, expires_at, (began, ended))


def _show(diagnosis: Diagnosis) -> None:
    for title, found in (("This machine", diagnosis.machine), ("Control plane", diagnosis.control)):
        if not found:
            continue
        table = output.table(title.upper(), "", "WHAT WAS FOUND")
        for one in found:
            told = Text(output.clean(one.text))
            for line in one.mend.splitlines():
                told.append(f"\n-> {output.clean(line)}", "cyan")
            table.add_row(output.clean(one.check), Text(one.verdict, _STYLE[one.verdict]), told)
        output.show(table)
        output.write("")
    every = (*diagnosis.machine, *diagnosis.control)
    counts = {verdict: sum(one.verdict == verdict for one in every) for verdict in ("broken", "warning")}
    output.write(f"{len(every)} checks, {counts['broken']} broken, {counts['warning']} with a warning")
