"""Commit what was decided from records that others may change meanwhile: decide again, a bounded number of times."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fallow.control.refusals import Refused, refuse
from fallow.decide.plan import Step
from fallow.store.applier import Applier
from fallow.store.contract import Conflict

T = TypeVar("T")

ATTEMPTS = 12
FIRST_PAUSE_SECONDS = 0.002


async def commit_again(applier: Applier, decide: Callable[[], tuple[Step | None, T]]) -> T:
    """Call `decide`, which reads the cache anew each time, until its step commits; return what it returned beside it.

    A step of None writes nothing. Raises Refused (409) after ATTEMPTS conflicts, and whatever `decide` raises.

    Whoever decides from what is old fails to commit; but to write nothing, or to refuse, never fails. So that is
    decided once more when the cache had not seen yet what another process of the control plane has stored, or what
    became of a commit with an unknown outcome.
    """
    pause, newest = FIRST_PAUSE_SECONDS, False
    for _ in range(ATTEMPTS):
        try:
            step, result = decide()
        except Refused:
            if newest or not await applier.catch_up():
                raise
            newest = True
            continue
        if step is None:
            if newest or not await applier.catch_up():
                return result
            newest = True
            continue
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
