"""Tokens: for machines that join, and for people and programs that use the API."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import TokenList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.tokens import ApiRole, TokenChange, TokenRequest, TokenView


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of tokens."""
    admin = [guards[ApiRole.ADMIN]]
    return (
        get("/v1/tokens", guards=admin, responses=problems())(list_tokens),
        post("/v1/tokens", guards=admin, responses=problems(404, 409, body=True))(create_token),
        get("/v1/tokens/{token_id:str}", guards=admin, responses=problems(404))(read_token),
        patch("/v1/tokens/{token_id:str}", guards=admin, responses=problems(404, 409, body=True))(extend_token),
        delete("/v1/tokens/{token_id:str}", guards=admin, responses=problems(404, 409))(revoke_token),
    )


async def list_tokens(services: Needs) -> TokenList:
    """List tokens, without secrets."""
    return TokenList(revision=services.cache.revision, items=services.tokens.list())


async def read_token(services: Needs, token_id: FromPath[str]) -> TokenView:
    """Read one token, with those who used it, the latest first."""
    return services.tokens.show(token_id)


async def extend_token(
    services: Needs, request: Request[Any, Any, Any], token_id: FromPath[str], data: JSONBody[TokenChange]
) -> TokenView:
    """Let a join token last for so many seconds from now; also one that has expired and has uses left."""
    return await services.tokens.extend(token_id, data, actor_of(request))


async def create_token(services: Needs, request: Request[Any, Any, Any], data: JSONBody[TokenRequest]) -> TokenView:
    """Create a token. The answer holds its secret, which is never shown again."""
    return await services.tokens.create(data, actor_of(request))


async def revoke_token(services: Needs, request: Request[Any, Any, Any], token_id: FromPath[str]) -> None:
    """Revoke a token at once. Members that joined with it stay."""
    await services.tokens.revoke(token_id, actor_of(request))
