"""`fallow store`: back up, restore and move what a control plane has stored, without any control plane."""

import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fallow.cli import output
from fallow.cli.launchers import BackupOptions, MigrateOptions, RestoreOptions, StoreCopied, StoreTask
from fallow.cli.options import Json
from fallow.cli.session import session_of

app = typer.Typer(
    no_args_is_help=True,
    help="Back up, restore and move what is stored. Works on the store itself; no control plane is asked.",
)

Replace = Annotated[bool, typer.Option("--replace", help="Delete what the store holds, if it holds anything.")]
_URL = "sqlite:/PATH or etcd://HOST:2379,HOST:2379/PREFIX; user and password come from FALLOW_STORE_USER and "
_URL += "FALLOW_STORE_PASSWORD."


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied: how many records, as they were at the `revision` of the store they come from."""

    records: int
    revision: int
    seconds: float


@app.command(
    epilog="""Examples:

  fallow store backup --store sqlite:/var/lib/fallow/fallow.db fallow.backup
  fallow store backup --store etcd://10.0.0.1,10.0.0.2,10.0.0.3 /backup/fallow-$(date +%F)"""
)
def backup(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What to write; only its owner may read it.", show_default=False)
    ],
    store: Annotated[str, typer.Option("--store", metavar="URL", help=f"What to read: {_URL}")],
    as_json: Json = False,
) -> None:
    """Write everything stored to a file. Control planes may be running.

    The file holds no plain secrets, but what tells them apart: keep it as you keep the store. It does not hold the
    CA in a control plane's data folder: keep a copy of that, too.
    """
    _run(ctx, BackupOptions(store=store, file=file), f"in {file}", as_json)


@app.command(
    epilog="""Examples:

  fallow store restore fallow.backup --store sqlite:/var/lib/fallow/fallow.db
  fallow store restore fallow.backup --store etcd://10.0.0.1,10.0.0.2,10.0.0.3 --replace"""
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What fallow store backup wrote.", show_default=False)],
    store: Annotated[str, typer.Option("--store", metavar="URL", help=f"What to fill: {_URL}")],
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Fill a store from a file. Stop every control plane that uses the store first.

    A store that was not filled to the end is refused by every control plane, until a restore has finished.
    """
    task = RestoreOptions(file=file, store=store, replace=replace, progress=_Progress())
    _run(ctx, task, f"from {file}", as_json)


@app.command(
    epilog="""Examples:

  fallow store migrate --from sqlite:/var/lib/fallow/fallow.db --to etcd://10.0.0.1,10.0.0.2,10.0.0.3
  fallow store migrate --from etcd://10.0.0.1 --to sqlite:/srv/fallow/fallow.db --replace"""
)
def migrate(
    ctx: typer.Context,
    source: Annotated[str, typer.Option("--from", metavar="URL", help=f"What to read: {_URL}")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="What to fill, named the same way.")],
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Copy everything from one store to another. Stop every control plane that uses either of them first.

    What a control plane writes to the old store meanwhile would be lost.
    """
    task = MigrateOptions(source=source, target=target, replace=replace, progress=_Progress())
    _run(ctx, task, "to the other store", as_json)


def _run(ctx: typer.Context, task: StoreTask, where: str, as_json: bool) -> None:
    began = time.monotonic()
    copied: StoreCopied = session_of(ctx).launchers.store(task)
    done = Done(records=copied.records, revision=copied.revision, seconds=round(time.monotonic() - began, 3))
    if as_json:
        output.write_json(done)
        return
    output.write(f"{done.records} records of revision {done.revision} {where}, in {done.seconds:.1f} s.")


class _Progress:
    """Tells a person on a terminal how far it is, once a second."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told_at >= 1 and output.on_terminal(sys.stderr):
            self._told_at = now
            output.stderr().print(f"{done} of {total} writes")
