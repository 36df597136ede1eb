"""The control plane itself: how it is, and how much it logs."""

import time
from collections.abc import Sequence
from typing import Any

import structlog
from litestar import Request, get, put
from litestar.params import JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.logs import level, set_level
from fallow.control.runner import LAST_RUN
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.model.control import ControlStatus, LogLevel
from fallow.model.kinds import KINDS, SCHEMA_KEY, SCHEMA_VERSION
from fallow.model.members import MemberState
from fallow.model.tokens import ApiRole
from fallow.version import VERSION

_log = structlog.get_logger("fallow.api")


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of the control plane itself."""
    viewer, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.ADMIN]]
    return (
        get("/v1/control/status", guards=viewer, responses=problems())(control_status),
        put("/v1/control/log-level", guards=admin, responses=problems(body=True))(set_log_level),
    )


async def control_status(services: Needs) -> ControlStatus:
    """Say how this control plane is: its clock, its store, its loops, and the members that are silent."""
    began = time.perf_counter()
    await services.store.get(SCHEMA_KEY)
    spent = time.perf_counter() - began
    newest = await services.store.commit((), ())
    store_members = await services.store.members()
    now = services.clock()
    members = services.cache.snapshot().members.values()
    heard = services.hub.silences()
    leader = services.leadership.leader
    return ControlStatus(
        version=VERSION,
        schema=SCHEMA_VERSION,
        now=now,
        log_level=level(),
        not_ready=services.ready() or "",
        leads=services.leadership.leads,
        leader=f"{leader.hostname} {leader.address.url}" if leader is not None else "",
        peers=len(services.cache.records("peers")),
        store_revision=services.cache.revision,
        store_seconds=round(spent, 6),
        store_members=tuple(store_members),
        cache_behind=max(0, newest - services.cache.revision),
        records={kind: len(services.cache.records(kind)) for kind in KINDS},
        loops={name: round(max(0.0, now - at), 3) for name, at in _loops(services).items()},
        silent={
            found.name: round(heard.get(found.id, -1.0), 1) for found in members if found.state is not MemberState.READY
        },
        sessions=len(services.hub.links()),
    )


async def set_log_level(services: Needs, request: Request[Any, Any, Any], data: JSONBody[LogLevel]) -> LogLevel:
    """Log from another level on, in this process and until it ends; one that starts has what `--log-level` says."""
    before = level()
    told = event(
        services.new_id(), services.clock(), actor_of(request), "control", "log-level", "log-level",
        "LogLevelChanged", f"logs from {data.level} on, was {before}",
    )  # fmt: skip
    await services.applier.commit(Step(puts=(told,)))
    set_level(data.level)
    _log.info("log level set", level=data.level, before=before)
    return data


def _loops(services: Needs) -> dict[str, float]:
    """Return when each control loop of this process last ran through."""
    found = services.registry.restricted_registry([LAST_RUN]).collect()
    return {sample.labels["loop"]: sample.value for metric in found for sample in metric.samples}
