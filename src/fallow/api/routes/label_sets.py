"""Label sets: named groups of members, reading, making, changing and deleting them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import LabelSetList
from fallow.api.lookups import check_match, etag
from fallow.api.problems import problems
from fallow.api.routes.members import IfMatch
from fallow.api.selecting import selector_in
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import not_found, refuse
from fallow.control.rosters import guarded
from fallow.decide.events import event
from fallow.decide.label_sets import change_trouble, label_set_view, users_of
from fallow.decide.plan import Step
from fallow.decide.selectors import format_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.events import Event
from fallow.model.labels import LabelSet, LabelSetChange, LabelSetRequest, LabelSetView
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]
ROSTER = "label-sets"  # two changes at once could close a circle that neither of them sees


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of label sets."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/label-sets/{name:str}"
    return (
        get("/v1/label-sets", guards=viewer, responses=problems())(list_label_sets),
        get(one, guards=viewer, responses=problems(404))(read_label_set),
        post("/v1/label-sets", guards=operator, responses=problems(409, body=True))(create_label_set),
        patch(one, guards=operator, responses=problems(404, 409, 412, body=True))(change_label_set),
        delete(one, guards=operator, responses=problems(404, 409, 412))(delete_label_set),
    )


async def list_label_sets(services: Needs) -> LabelSetList:
    """List label sets, by name, with the members they pick now."""
    snapshot = services.cache.snapshot()
    items = (_view(services, found) for _, found in sorted(snapshot.label_sets.items()))
    return LabelSetList(revision=services.cache.revision, items=tuple(items))


async def read_label_set(services: Needs, name: FromPath[str]) -> Response[LabelSetView]:
    """Read one label set."""
    return _answer(services, name)


async def create_label_set(services: Needs, request: Caller, data: JSONBody[LabelSetRequest]) -> Response[LabelSetView]:
    """Make a label set. Made again with the same selector and description it is the same."""
    actor, selector = actor_of(request), selector_in(data.selector)

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        known = snapshot.label_sets.get(data.name)
        if known is not None:
            if (known.selector, known.description) == (selector, data.description):
                return None, None
            raise refuse(
                409, "name-taken", "Name taken", f"there is a label set @{data.name} already",
                f"fallow label-set update {data.name} changes it",
            )  # fmt: skip
        made = LabelSet(
            id=data.name, created_at=now, updated_at=now, selector=selector, description=data.description,
            created_by=actor,
        )  # fmt: skip
        _check(snapshot, made)
        told = _event(services, now, actor, made, "LabelSetCreated", f"is {format_selector(selector)!r}")
        return guarded(services.cache, Step(puts=(made, told)), ROSTER, now), None

    await commit_again(services.applier, decide)
    return _answer(services, data.name, 201)


async def change_label_set(
    services: Needs, request: Caller, name: FromPath[str], data: JSONBody[LabelSetChange], if_match: IfMatch = None
) -> Response[LabelSetView]:
    """Change whom a label set picks; deployments that use it follow at once."""
    actor = actor_of(request)
    selector = selector_in(data.selector) if data.selector is not None else None

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        before = _called(snapshot, name)
        check_match(before, if_match)
        after = msgspec.structs.replace(
            before,
            selector=before.selector if selector is None else selector,
            description=before.description if data.description is None else data.description,
        )
        if after == before:
            return None, None
        _check(snapshot, after)
        after = msgspec.structs.replace(after, updated_at=now)
        was = f"is {format_selector(after.selector)!r}, was {format_selector(before.selector)!r}"
        told = _event(services, now, actor, after, "LabelSetChanged", was)
        return guarded(services.cache, Step(puts=(after, told)), ROSTER, now), None

    await commit_again(services.applier, decide)
    return _answer(services, name)


async def delete_label_set(services: Needs, request: Caller, name: FromPath[str], if_match: IfMatch = None) -> None:
    """Delete a label set that nothing uses."""
    actor = actor_of(request)

    def decide() -> tuple[Step, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        found = _called(snapshot, name)
        check_match(found, if_match)
        users = users_of(snapshot, name)
        if users:
            more = f" and {len(users) - 5} more" if len(users) > 5 else ""
            raise refuse(
                409, "in-use", "Still in use", f"@{name} is used by {', '.join(users[:5])}{more}",
                "deploy them without it first, or change whom it picks: fallow label-set update",
            )  # fmt: skip
        told = _event(services, now, actor, found, "LabelSetDeleted", "is deleted")
        return guarded(services.cache, Step(puts=(told,), deletes=(found,)), ROSTER, now), None

    await commit_again(services.applier, decide)


def _called(snapshot: Snapshot, name: str) -> LabelSet:
    found = snapshot.label_sets.get(name)
    if found is None:
        raise not_found(f"label set {name[:80]!r}", "fallow label-set list shows all")
    return found


def _check(snapshot: Snapshot, changed: LabelSet) -> None:
    trouble = change_trouble(snapshot, changed)
    if trouble:
        raise refuse(409, "label-set", "Not a usable label set", trouble, "change the selector; nothing was written")


def _event(services: Needs, now: float, actor: str, of: LabelSet, reason: str, words: str) -> Event:
    text = f"label set @{of.id} {words}"
    return event(services.new_id(), now, actor, "label-set", of.id, of.id, reason, text)


def _view(services: Needs, found: LabelSet) -> LabelSetView:
    return label_set_view(services.cache.snapshot(), found, services.hub.usages())


def _answer(services: Needs, name: str, status: int = 200) -> Response[LabelSetView]:
    found = _called(services.cache.snapshot(), name)
    return Response(_view(services, found), headers=etag(found.revision), status_code=status)
