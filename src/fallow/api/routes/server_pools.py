"""Server pools: which servers lend by which policy, reading, making, changing and deleting them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import ServerPoolList
from fallow.api.lookups import check_match, etag
from fallow.api.problems import problems
from fallow.api.routes.members import IfMatch
from fallow.api.selecting import usable_selector
from fallow.api.services import Needs
from fallow.api.strict import check_strictly
from fallow.control.commits import commit_again
from fallow.control.refusals import not_found, refuse
from fallow.control.rosters import guarded
from fallow.decide.events import event
from fallow.decide.harvest.policy import changed_policy, policy_trouble
from fallow.decide.harvest.views import pool_views, servers_of, standing_default
from fallow.decide.matching import untrusted_keys
from fallow.decide.plan import Step
from fallow.decide.selectors import format_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.events import Event
from fallow.model.labels import Selector
from fallow.model.server_pools import (
    DEFAULT_POOL,
    LendingPolicy,
    ServerPool,
    ServerPoolChange,
    ServerPoolRequest,
    ServerPoolView,
)
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]
ROSTER = "server-pools"
MAX_POOLS = 256


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of server pools."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/server-pools/{name:str}"
    return (
        get("/v1/server-pools", guards=viewer, responses=problems())(list_server_pools),
        get(one, guards=viewer, responses=problems(404))(read_server_pool),
        post("/v1/server-pools", guards=operator, responses=problems(409, body=True))(create_server_pool),
        patch(one, guards=operator, responses=problems(404, 409, 412, body=True))(change_server_pool),
        delete(one, guards=operator, responses=problems(404, 409, 412))(delete_server_pool),
    )


async def list_server_pools(services: Needs) -> ServerPoolList:
    """List server pools, `default` among them also when nobody has changed it, with the servers in each."""
    return ServerPoolList(revision=services.cache.revision, items=_views(services))


async def read_server_pool(services: Needs, name: FromPath[str]) -> Response[ServerPoolView]:
    """Read one server pool."""
    return _answer(services, name)


async def create_server_pool(
    services: Needs, request: Caller, data: JSONBody[ServerPoolRequest]
) -> Response[ServerPoolView]:
    """Make a server pool. Made again with the same selector and policy it is the same."""
    await check_strictly(request, ServerPoolRequest)
    actor = actor_of(request)
    if data.name == DEFAULT_POOL:
        raise refuse(
            409, "is-default", "It is there already", "the pool default is for all servers that no other picks",
            "fallow server-pool policy set default changes how they lend",
        )  # fmt: skip

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        selector = _selector(data.selector, snapshot)
        policy = changed_policy(LendingPolicy(), data.policy)
        _check(policy)
        known = snapshot.server_pools.get(data.name)
        if known is not None:
            if (known.selector, known.policy) == (selector, policy):
                return None, None
            raise refuse(
                409, "name-taken", "Name taken", f"there is a server pool {data.name} already",
                f"fallow server-pool policy set {data.name} changes how it lends",
            )  # fmt: skip
        if len(snapshot.server_pools) >= MAX_POOLS:
            raise refuse(409, "too-many", "Too many server pools", f"there are {MAX_POOLS}, and there may be no more")
        made = ServerPool(
            id=data.name, created_at=now, updated_at=now, selector=selector, policy=policy, created_by=actor
        )
        told = _event(services, now, actor, made, "ServerPoolCreated", f"picks {format_selector(selector)!r}")
        return guarded(services.cache, Step(puts=(made, told)), ROSTER, now), None

    await commit_again(services.applier, decide)
    return _answer(services, data.name, 201)


async def change_server_pool(
    services: Needs, request: Caller, name: FromPath[str], data: JSONBody[ServerPoolChange], if_match: IfMatch = None
) -> Response[ServerPoolView]:
    """Change whom a server pool picks, or how its servers lend; they follow at once. What is not named stays."""
    await check_strictly(request, ServerPoolChange)
    actor = actor_of(request)

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        before = _called(snapshot, name)
        check_match(before, if_match)
        if data.selector is not None and before.id == DEFAULT_POOL:
            raise refuse(
                409, "is-default", "It picks nobody itself", "the pool default is for all servers that no other picks",
                "fallow server-pool create makes one with a selector",
            )  # fmt: skip
        selector = before.selector if data.selector is None else _selector(data.selector, snapshot)
        policy = changed_policy(before.policy, data.policy)
        if (selector, policy) == (before.selector, before.policy):
            return None, None
        _check(policy)
        after = msgspec.structs.replace(
            before,
            selector=selector,
            policy=policy,
            updated_at=now,
            created_at=before.created_at or now,
            created_by=before.created_by or actor,
        )
        words = ", ".join(_differences(before.policy, policy)) or f"picks {format_selector(selector)!r}"
        told = _event(services, now, actor, after, "ServerPoolChanged", words)
        return guarded(services.cache, Step(puts=(after, told)), ROSTER, now), None

    await commit_again(services.applier, decide)
    return _answer(services, name)


async def delete_server_pool(services: Needs, request: Caller, name: FromPath[str], if_match: IfMatch = None) -> None:
    """Delete a server pool that no server belongs to; of `default`, what was changed of it."""
    actor = actor_of(request)

    def decide() -> tuple[Step | None, None]:
        snapshot, now = services.cache.snapshot(), services.clock()
        found = _called(snapshot, name)
        check_match(found, if_match)
        servers = servers_of(snapshot, found.id)
        if servers:
            more = f" and {len(servers) - 5} more" if len(servers) > 5 else ""
            raise refuse(
                409, "in-use", "Still in use",
                f"{', '.join(server.name for server in servers[:5])}{more} would lend by another policy at once",
                "label them otherwise, or change whom it picks: fallow server-pool update --on",
            )  # fmt: skip
        if not found.revision:
            return None, None
        told = _event(services, now, actor, found, "ServerPoolDeleted", "is deleted")
        return guarded(services.cache, Step(puts=(told,), deletes=(found,)), ROSTER, now), None

    await commit_again(services.applier, decide)


def _called(snapshot: Snapshot, name: str) -> ServerPool:
    found = snapshot.server_pools.get(name)
    if found is None and name == DEFAULT_POOL:
        return standing_default()
    if found is None:
        raise not_found(f"server pool {name[:80]!r}", "fallow server-pool list shows all")
    return found


def _selector(text: str, snapshot: Snapshot) -> Selector:
    """Read a selector over assigned labels. Raises Refused (400)."""
    found = usable_selector(text, snapshot)
    hidden = untrusted_keys(found)
    if hidden:
        raise refuse(
            400, "bad-selector", "Not a usable selector", f"a server says {hidden[0]} of itself",
            "pools pick servers by the labels that tokens and operators give them",
        )  # fmt: skip
    return found


def _check(policy: LendingPolicy) -> None:
    trouble = policy_trouble(policy)
    if trouble:
        raise refuse(
            400, "bad-policy", "The policy contradicts itself or what there is", trouble,
            "nothing was written; fallow server-pool policy show shows what there is now",
        )  # fmt: skip


def _differences(before: LendingPolicy, after: LendingPolicy) -> list[str]:
    old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    return [
        f"{name.replace('_', ' ')} {_text(new[name])}, was {_text(old[name])}" for name in old if old[name] != new[name]
    ]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value)) or "always"
    if isinstance(value, msgspec.Struct):
        return " ".join(f"{name}={field}" for name, field in msgspec.structs.asdict(value).items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _event(services: Needs, now: float, actor: str, of: ServerPool, reason: str, words: str) -> Event:
    text = f"server pool {of.id} {words}"
    return event(services.new_id(), now, actor, "server-pool", of.id, of.id, reason, text)


def _views(services: Needs) -> tuple[ServerPoolView, ...]:
    return pool_views(services.cache.snapshot(), services.hub.servers())


def _answer(services: Needs, name: str, status: int = 200) -> Response[ServerPoolView]:
    found = next((view for view in _views(services) if view.name == name), None)
    if found is None:
        raise not_found(f"server pool {name[:80]!r}", "fallow server-pool list shows all")
    return Response(found, headers=etag(found.revision), status_code=status)
