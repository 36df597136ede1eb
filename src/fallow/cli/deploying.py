"""Waiting for deployments to become what was asked, and telling why when they do not."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fallow.cli import output
from fallow.cli.explain import explained
from fallow.cli.failures import Failure
from fallow.cli.watching import wait_until
from fallow.client.errors import ClientError
from fallow.model.deployments import DeploymentView
from fallow.model.updates import UpdateState

if TYPE_CHECKING:
    from fallow.client.api import Client


def settled(view: DeploymentView, generation: int = 0) -> bool:
    """Say whether a deployment is what its owner asked for; with a `generation`, also that its update is not paused."""
    counts = view.counts
    if view.spec.replicas == 0:
        return counts.running == 0 and counts.leaving == 0
    good = ("serving",) if generation else ("serving", "paused")
    return view.state in good and counts.healthy >= view.spec.replicas


def progress(view: DeploymentView) -> tuple[object, ...]:
    """Return one deployment's line: path, state, healthy of wanted, what is under way."""
    counts = view.counts
    under_way = (
        (counts.pending, "pending"),
        (counts.placed, "starting"),
        (counts.leaving, "leaving"),
        (counts.failed, "failed"),
    )
    return (
        f"{view.project}/{view.name}",
        view.state,
        f"{counts.healthy}/{view.spec.replicas} healthy",
        ", ".join(f"{count} {name}" for count, name in under_way if count),
        view.reason,
    )


def failed_update(view: DeploymentView, generation: int) -> str:
    """Return why an update to `generation` (0: none is waited for) has failed; empty when it has not."""
    status = view.update
    if status is None or not generation:
        return ""
    if status.state is UpdateState.PAUSED and generation == status.generation:
        return f"{view.project}/{view.name} is paused: {status.paused_because}"
    if status.rollback and 0 < generation < status.generation:
        done = "went" if status.state is UpdateState.ROLLED_BACK else "goes"
        return f"{view.project}/{view.name} {done} back to generation {status.from_generation}: {status.reason}"
    return ""


def wait_for(client: "Client", project: str, serving: Mapping[str, int], gone: Collection[str], timeout: float) -> None:
    """Wait until the deployments named in `serving` are settled and those in `gone` are gone.

    `serving` gives the generation that each is waited for, 0: whichever. Raises Failure when an update fails, and,
    after telling why of each that is not as asked, when `timeout` seconds have passed.
    """
    unsettled: list[str] = []
    failed: list[str] = []

    def look() -> tuple[bool, Table]:
        found = {view.name: view for view in client.deployments(project).items}
        why = {name: failed_update(found[name], serving[name]) for name in serving if name in found}
        failed[:] = [text for text in why.values() if text]
        unsettled[:] = [
            name
            for name in serving
            if name not in found
            or (not settled(found[name], serving[name]) and not (why[name] and found[name].state != "rolling-back"))
        ]
        unsettled.extend(name for name in gone if name in found)
        lines: list[Sequence[object]] = [progress(found[name]) for name in (*serving, *gone) if name in found]
        lines += [(f"{project}/{name}", "deleted", "", "", "") for name in gone if name not in found]
        made = output.table("", "", "", "", "")
        made.show_header = False
        return not unsettled, output.rows(made, ([value or Text("") for value in line] for line in lines))

    in_time = wait_until(look, timeout)
    if failed:
        raise Failure(
            "The update failed",
            detail="; ".join(failed),
            hint=f"`fallow deployment show {project}/{next(iter(serving))}` and `fallow events` tell more.",
        )
    if in_time:
        return
    for name in unsettled:
        _tell_why(client, f"{project}/{name}")
    raise Failure(
        f"Not everything is as asked after {timeout:g} seconds: {', '.join(unsettled)}",
        detail="It goes on without this command.",
        hint=f"`fallow explain {project}/{unsettled[0]}` and `fallow logs {project}/{unsettled[0]}` tell more.",
    )


def _tell_why(client: "Client", subject: str) -> None:
    try:
        told: RenderableType = explained(client.explain(subject))
    except ClientError as error:
        told = f"{subject}: {error}"
    output.stderr().print(told, soft_wrap=True, markup=False)
