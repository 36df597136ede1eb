"""Relabelling many members: show what would change, ask, change it in portions, and try again what was in the way."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.failures import Exit, Failure, usage
from fallow.cli.session import Session
from fallow.model.labels import RelabelItem, RelabelRequest, RelabelResult

if TYPE_CHECKING:
    from fallow.client.api import Client

PORTION = 500  # members of one request
ROUNDS = 4  # so often what others change meanwhile is looked at again


def read_labels(words: Sequence[str]) -> dict[str, str | None]:
    """Read `KEY=VALUE` and `KEY-`, which stands as None. Raises Failure."""
    labels: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key:
            labels[key] = value
        elif len(word) > 1 and word.endswith("-") and not equals:
            labels[word[:-1]] = None
        else:
            raise usage(f"{word!r} is not a label", "Write KEY=VALUE to set one and KEY- to remove it.")
    return labels


def relabel(session: Session, wish: RelabelRequest, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Show what would change; then, unless it is a dry run, change it. Raises Failure."""
    with session.client() as client:
        seen = client.relabel(msgspec.structs.replace(wish, dry_run=True))
        if dry_run or not _changing(seen.items):
            _tell(seen, as_json=as_json)
            return
        if not yes:
            _tell(seen, as_json=False)
            _ask(len(_changing(seen.items)))
        done = _change(client, wish, seen.items)
    _tell(RelabelResult(items=tuple(done), dry_run=False, warnings=seen.warnings), as_json=as_json)
    left = [item.name or item.id for item in done if item.outcome == "conflict"]
    if left:
        raise Failure(
            f"{len(left)} of {len(done)} were changed by others meanwhile and are left as they are",
            detail=", ".join(left[:10]),
            hint="Run it again: what is done already is not done twice.",
            code=Exit.FAILED,
        )


def _change(client: "Client", wish: RelabelRequest, seen: Sequence[RelabelItem]) -> list[RelabelItem]:
    """Change what was seen, each member only in the way that was shown; return what became of every one."""
    done = {item.id: item for item in seen}
    shown = {item.id: (item.before, item.after) for item in _changing(seen)}
    todo = {item.id: item.revision for item in _changing(seen)}
    for _ in range(ROUNDS):
        ids = list(todo)
        for start in range(0, len(ids), PORTION):
            part = {id_: todo[id_] for id_ in ids[start : start + PORTION]}
            for item in client.relabel(msgspec.structs.replace(wish, revisions=part)).items:
                done[item.id] = item
        conflicts = {id_ for id_ in todo if done[id_].outcome == "conflict"}
        if not conflicts:
            break
        again = client.relabel(msgspec.structs.replace(wish, dry_run=True)).items
        todo = {
            item.id: item.revision
            for item in again
            if item.id in conflicts and (item.before, item.after) == shown[item.id]
        }
    return list(done.values())


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise usage("Nobody is here to be asked", "Add --yes to change them, or --dry-run to look only.")
    if not typer.confirm(f"Change {count}?", err=True):
        raise typer.Exit(Exit.FAILED)


def _changing(items: Sequence[RelabelItem]) -> list[RelabelItem]:
    return [item for item in items if item.outcome == "would-change"]


def _tell(result: RelabelResult, *, as_json: bool) -> None:
    for warning in result.warnings:
        output.warn(warning)
    if as_json:
        output.write_json(result)
        return
    told = [item for item in result.items if item.outcome != "unchanged"]
    if told:
        output.show(_table(told))
    changed = sum(item.outcome in ("would-change", "changed") for item in result.items)
    output.note(f"{changed} of {len(result.items)} {'would change' if result.dry_run else 'changed'}")


def _table(items: Sequence[RelabelItem]) -> Table:
    return output.rows(
        output.table("NAME", "BEFORE", "AFTER", "OUTCOME"),
        ((item.name or item.id, output.pairs(item.before), output.pairs(item.after), item.outcome) for item in items),
    )
