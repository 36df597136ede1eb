"""The audit record: who changed what, from where, and who was refused."""

import heapq
from collections.abc import Sequence
from typing import Any, Literal

from litestar import get
from litestar.params import FromQuery
from litestar.types import Guard

from fallow.api.lists import AuditList
from fallow.api.problems import problems
from fallow.api.routes.insight import Filter, Limit, Since
from fallow.api.services import Needs
from fallow.decide.audit import chosen
from fallow.model.audit import AuditEntry
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return the route of the audit record, which tells addresses and the names of tokens: admins only."""
    return (get("/v1/audit", guards=[guards[ApiRole.ADMIN]], responses=problems())(list_audit),)


async def list_audit(
    services: Needs,
    subject: Filter = None,
    who: Filter = None,
    outcome: FromQuery[Literal["done", "forbidden", "unauthorized"] | None] = None,
    since: Since = None,
    limit: Limit = 200,
) -> AuditList:
    """List the newest entries, newest last; `who` is `api:NAME`, a token's name or its id, `since` UTC seconds."""
    found = [entry for entry in services.cache.records("audit").values() if isinstance(entry, AuditEntry)]
    wanted = chosen(found, who, subject, outcome, since)
    newest = heapq.nlargest(limit, wanted, key=lambda entry: (entry.created_at, entry.revision, entry.id))
    return AuditList(revision=services.cache.revision, items=tuple(reversed(newest)))
