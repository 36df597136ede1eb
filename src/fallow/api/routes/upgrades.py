"""Upgrades of agents: beginning, watching and stopping them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import UpgradeList
from fallow.api.lookups import member_called
from fallow.api.problems import problems
from fallow.api.selecting import usable_selector
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import not_found, refuse
from fallow.decide.events import event
from fallow.decide.label_sets import chosen
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.upgrades import allowance, ended, upgrade_view
from fallow.drivers.packages import Package
from fallow.model.tokens import ApiRole
from fallow.model.upgrades import Upgrade, UpgradeRequest, UpgradeState, UpgradeView
from fallow.version import VERSION


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of upgrades."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    return (
        get("/v1/upgrades", guards=viewer, responses=problems())(list_upgrades),
        post("/v1/upgrades", guards=operator, responses=problems(404, 409, body=True))(begin_upgrade),
        post("/v1/upgrades/{id:str}/stop", guards=operator, status_code=200, responses=problems(404, 409))(
            stop_upgrade
        ),
    )


async def list_upgrades(services: Needs) -> UpgradeList:
    """List upgrades of agents, newest first."""
    snapshot = services.cache.snapshot()
    found = sorted(snapshot.upgrades.values(), key=lambda each: (each.created_at, each.id), reverse=True)
    return UpgradeList(revision=services.cache.revision, items=tuple(upgrade_view(snapshot, each) for each in found))


async def begin_upgrade(
    services: Needs, request: Request[Any, Any, Any], data: JSONBody[UpgradeRequest]
) -> UpgradeView:
    """Swap the agents of members, a share of them at a time; no container is touched."""
    actor = actor_of(request)
    package = await _package(services, data.version or VERSION)
    id_ = services.new_id()

    def decide() -> tuple[Step | None, Upgrade]:
        snapshot = services.cache.snapshot()
        meant = _meant(services, snapshot, data)
        _check_free(snapshot, meant)
        now = services.clock()
        upgrade = Upgrade(
            id=id_, created_at=now, updated_at=now, version=package.version, sha256=package.sha256, members=meant,
            max_unavailable=allowance(data.max_unavailable, len(meant)), created_by=actor,
        )  # fmt: skip
        if data.dry_run:
            return None, upgrade
        told = event(
            services.new_id(), now, actor, "upgrade", id_, id_, "AgentUpgradeBegun",
            f"agents of {len(meant)} members become {package.version}, {upgrade.max_unavailable} at a time",
        )  # fmt: skip
        return Step(puts=(upgrade, told)), upgrade

    upgrade = await commit_again(services.applier, decide)
    return upgrade_view(services.cache.snapshot(), upgrade)


async def stop_upgrade(services: Needs, request: Request[Any, Any, Any], id: FromPath[str]) -> UpgradeView:  # noqa: A002
    """Begin with no further member; those under way go on."""
    actor = actor_of(request)

    def decide() -> tuple[Step, str]:
        found = services.cache.snapshot().upgrades.get(id)
        if found is None:
            raise not_found(f"upgrade {id[:80]!r}", "fallow node upgrades lists them")
        if found.state is not UpgradeState.RUNNING:
            raise refuse(409, "upgrade-ended", "Not under way", f"upgrade {found.id} is {found.state}")
        return ended(found, UpgradeState.STOPPED, f"by {actor}", services.clock(), services.new_id), found.id

    await commit_again(services.applier, decide)
    snapshot = services.cache.snapshot()
    return upgrade_view(snapshot, snapshot.upgrades[id])


async def _package(services: Needs, version: str) -> Package:
    found = await asyncio.to_thread(services.packages.versions)
    if version not in found:
        raise refuse(
            404,
            "no-package",
            "No such version",
            f"this control plane has packages of {', '.join(sorted(found))}, not of {version}",
            "put a wheel of fallow into the folder `packages` of its data folder",
        )
    return found[version]


def _meant(services: Needs, snapshot: Snapshot, data: UpgradeRequest) -> tuple[str, ...]:
    """Return the ids of the members meant. Raises Refused."""
    if bool(data.names) == (data.selector is not None):
        raise refuse(400, "bad-request", "Which members?", "give either names or a selector")
    if data.names:
        named = [member_called(snapshot, name) for name in data.names]
        for member in named:
            if member.id in snapshot.clusters:
                raise refuse(
                    400, "bad-request", "A cluster has no agent", f"{member.name} is a cluster",
                    "upgrade its control plane there, and the agents of its nodes from there",
                )  # fmt: skip
        return tuple(dict.fromkeys(member.id for member in named))
    picked = chosen(snapshot, usable_selector(data.selector or "", snapshot), services.hub.usages())
    found = [member for member in picked if member.id in snapshot.machines]
    if not found:
        raise refuse(404, "not-found", "Nobody is meant", f"there is no member that {data.selector!r} selects")
    return tuple(sorted(member.id for member in found))


def _check_free(snapshot: Snapshot, meant: tuple[str, ...]) -> None:
    for other in snapshot.upgrades.values():
        if other.state is UpgradeState.RUNNING and not set(meant).isdisjoint(other.members):
            raise refuse(
                409, "upgrade-running", "An upgrade is under way",
                f"upgrade {other.id} to {other.version} has members of this one",
                f"wait for it, or stop it: fallow node upgrades --stop {other.id}",
            )  # fmt: skip
