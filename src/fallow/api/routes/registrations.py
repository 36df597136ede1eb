"""Registrations: machines that wait until somebody lets them in."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import RegistrationList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.registrations import Approval, RegistrationView, Rejection
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of registrations."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/registrations/{reference:str}"
    refusals = problems(404, 409, body=True)
    return (
        get("/v1/registrations", guards=viewer, responses=problems())(list_registrations),
        post(f"{one}/approve", guards=operator, status_code=200, responses=refusals)(approve_registration),
        post(f"{one}/reject", guards=operator, status_code=204, responses=refusals)(reject_registration),
    )


async def list_registrations(services: Needs) -> RegistrationList:
    """List the machines that wait for approval, the one that waits longest first."""
    return RegistrationList(revision=services.cache.revision, items=services.registrations.pending())


async def approve_registration(
    services: Needs, request: Request[Any, Any, Any], reference: FromPath[str], data: JSONBody[Approval]
) -> RegistrationView:
    """Let a machine in, named by its id, the beginning of it, or the name it proposes."""
    return await services.registrations.approve(reference, data, actor_of(request))


async def reject_registration(
    services: Needs, request: Request[Any, Any, Any], reference: FromPath[str], data: JSONBody[Rejection]
) -> None:
    """Turn a machine away; it is told the reason."""
    await services.registrations.reject(reference, data, actor_of(request))
