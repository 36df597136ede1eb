"""Relabelling: the labels of every member that a selector picks, with a dry run that tells what would change."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, post
from litestar.params import JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.problems import problems
from fallow.api.selecting import usable_selector
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import refuse
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.relabelling import Wish, in_words, missed, relabelled, wanted
from fallow.model.labels import RelabelItem, RelabelRequest, RelabelResult, is_label
from fallow.model.members import Member, Role
from fallow.model.meta import Record
from fallow.model.tokens import ApiRole

PORTION = 32  # members in one commit: a record, an event and an audit entry each
_SPARE = 2  # operations left for what else a commit checks


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return the route."""
    operator = [guards[ApiRole.OPERATOR]]
    return (post("/v1/relabel", guards=operator, status_code=200, responses=problems(409, body=True))(relabel),)


async def relabel(services: Needs, request: Request[Any, Any, Any], data: JSONBody[RelabelRequest]) -> RelabelResult:
    """Change the labels of every member that the selector picks; with `dry_run` only tell what would change.

    Written in portions, each whole or not at all; asked again, it goes on where it was interrupted.
    """
    wish = _wish(services, data)
    ids = wanted(services.cache.snapshot(), wish, services.hub.usages())
    if data.dry_run:
        items = [_look(services, wish, id_)[1] for id_ in ids]
        return RelabelResult(items=tuple(items), dry_run=True, warnings=_warnings(items))
    actor, done = actor_of(request), list[RelabelItem]()
    portion = max(1, min(PORTION, (services.store.max_operations - _SPARE) // 3))
    for start in range(0, len(ids), portion):
        done += await _change(services, wish, ids[start : start + portion], actor)
    return RelabelResult(items=tuple(done), dry_run=False, warnings=_warnings(done))


async def _change(services: Needs, wish: Wish, ids: Sequence[str], actor: str) -> list[RelabelItem]:
    """Change some members in one commit, decided anew as often as somebody else is quicker."""

    def decide() -> tuple[Step | None, list[RelabelItem]]:
        now, puts, items = services.clock(), list[Record](), list[RelabelItem]()
        for id_ in ids:
            changed, item = _look(services, wish, id_)
            if changed is not None:
                puts.append(msgspec.structs.replace(changed, updated_at=now))
                puts.append(
                    event(services.new_id(), now, actor, "member", changed.id, changed.name, "MemberChanged",
                          f"{changed.role} {changed.name}: {in_words(item)}")
                )  # fmt: skip
                item = msgspec.structs.replace(item, outcome="changed")
            items.append(item)
        return Step(puts=tuple(puts)) if puts else None, items

    return await commit_again(services.applier, decide)


def _look(services: Needs, wish: Wish, id_: str) -> tuple[Member | None, RelabelItem]:
    """Return a member as it is to be, None when it is left alone, and what to tell. Raises Refused (400)."""
    snapshot = services.cache.snapshot()
    lost = missed(snapshot, id_, wish, services.hub.usages())
    if lost is not None:
        return None, lost
    try:
        changed, item = relabelled(snapshot, snapshot.members[id_], wish)
    except ValueError as error:
        raise refuse(400, "bad-request", "Too many labels", str(error), "nothing of this portion was changed") from None
    return (changed if item.outcome == "would-change" else None), item


def _wish(services: Needs, data: RelabelRequest) -> Wish:
    if data.role and data.role not in tuple(Role):
        raise refuse(400, "bad-request", "Not a role", f"{data.role!r}", f"one of {', '.join(Role)}")
    for key, value in data.labels.items():
        if not is_label(key, value or ""):
            raise refuse(
                400, "bad-request", "Not a usable label", f"{key[:80]!r}={(value or '')[:80]!r}",
                "a key has 1 to 63 letters, digits and . _ / -, a value up to 63 without /; both begin and end plainly",
            )  # fmt: skip
    selector = usable_selector(data.selector, services.cache.snapshot())
    return Wish(selector=selector, labels=data.labels, role=data.role, revisions=data.revisions)


def _warnings(items: Sequence[RelabelItem]) -> tuple[str, ...]:
    told = [item.name for item in items if item.by_variables and item.outcome in ("would-change", "changed")]
    if not told:
        return ()
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    return (
        f"{len(told)} of {len(items)} are picked only by what they say of themselves ({', '.join(told[:5])}{more}): "
        "labels they get by it prove nothing",
    )
