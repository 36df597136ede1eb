"""Bodies that come in time: a caller that stops in the middle is refused, and keeps nothing waiting."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from litestar.exceptions import HTTPException

if TYPE_CHECKING:
    from litestar.types import HTTPReceiveMessage, Receive

BODY_SECONDS = 30.0


class Body:
    """Wraps the `receive` of one request; `answered` says whether its answer has begun, when nothing is left to refuse.

    The whole body must arrive within BODY_SECONDS of the first look at it; of a `long` one, each part after the one
    before. What comes after the body, which is only that the caller goes away, may take as long as it likes.
    """

    def __init__(self, receive: "Receive", answered: Callable[[], bool], long: bool = False) -> None:
        self._receive = receive
        self._answered = answered
        self._long = long
        self._complete = False
        self._ends_at = 0.0

    async def receive(self) -> "HTTPReceiveMessage":
        """Return the next part. Raises HTTPException: 408 when it is late, 400 when the caller went away before."""
        if self._complete:
            return await self._receive()  # type: ignore[return-value]
        if self._long or not self._ends_at:
            self._ends_at = asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(self._ends_at):
                message = await self._receive()
        except TimeoutError:
            if self._answered():
                return {"type": "http.disconnect"}
            raise HTTPException(
                status_code=408,
                detail=f"the body did not arrive within {BODY_SECONDS:g} s",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.disconnect" and not self._answered():
            raise HTTPException(status_code=400, detail="the caller went away before the end of the body")
        self._complete = message["type"] != "http.request" or not message["more_body"]
        return message  # type: ignore[return-value]
