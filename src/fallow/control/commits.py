"""Commit what was decided from records that others may change meanwhile: decide again, a bounded number of times."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fallow.control.refusals import refuse
from fallow.decide.plan import Step
from fallow.store.applier import Applier
from fallow.store.contract import Conflict

T = TypeVar("T")

ATTEMPTS = 12
FIRST_PAUSE_SECONDS = 0.002


async def commit_again(applier: Applier, decide: Callable[[], tuple[Step | None, T]]) -> T:
    """Call `decide`, which reads the cache anew each time, until its step commits; return what it returned beside it.

    A step of None writes nothing. Raises Refused (409) after ATTEMPTS conflicts, and whatever `decide` raises.
    """
    pause = FIRST_PAUSE_SECONDS
    for _ in range(ATTEMPTS):
        step, result = decide()
        if step is None:
            return result
        try:
            await applier.commit(step)
        except Conflict:
            await asyncio.sleep(pause)  # the cache may not have seen yet what we collided with
            pause = min(pause * 2, 0.25)
        else:
            return result
    raise refuse(
        409, "conflict", "Changed meanwhile", "others keep changing the same records; nothing was written", "try again"
    )
