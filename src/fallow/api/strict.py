"""Bodies read to the letter: the framework takes 0 and "false" for false, and a policy must not be guessed at."""

from typing import Any

import msgspec
from litestar import Request

from fallow.control.refusals import refuse


async def check_strictly(request: Request[Any, Any, Any], kind: type[msgspec.Struct]) -> None:
    """Raise Refused (400) for a body that has the shape of `kind` only if its values are read as others."""
    try:
        msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse(400, "bad-request", "Bad request", str(error)[:500]) from None
