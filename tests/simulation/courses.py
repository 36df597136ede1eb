"""What the courses of all kinds of runs have in common: how they end, and a time in which anything may happen."""

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

from simulation.faults import Faults
from simulation.workload import People
from simulation.world import Outcome, World


async def play_out(
    world: World, course: Coroutine[Any, Any, None], found: Outcome, longest_seconds: float | None = None
) -> None:
    """Play a course up to its end or to the first violation, and note in `found` what happened in its world."""
    broken, story = asyncio.Event(), world.story
    story.on_violation = broken.set
    playing = asyncio.get_running_loop().create_task(course)
    waiting = asyncio.get_running_loop().create_task(broken.wait())
    await asyncio.wait([playing, waiting], timeout=longest_seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not playing.done():
        if longest_seconds is not None:
            story.broke("a run ends", f"not within {longest_seconds:.0f} s")
        playing.cancel()
    elif (error := playing.exception()) is not None:
        story.broke("people are answered or refused", "".join(traceback.format_exception(error)))
    found.commits, found.planes = world.truth._feed.newest, world.started
    found.answered, found.refused = world.requests["answered"], world.requests["refused"]


async def chaos(
    people: People,
    faults: Faults,
    chance: Random,
    seconds: tuple[float, float],
    calms: Sequence[float],
    busies: Sequence[float] = (1.0, 2.0, 5.0),
) -> None:
    """Let people and faults do as they like, for so long; `calms` and `busies` are seconds from one act to the next."""
    world = people.world
    until = world.now() + chance.uniform(*seconds)
    calm, busy = chance.choice(calms), chance.choice(busies)

    async def break_things() -> None:
        while True:
            await asyncio.sleep(chance.expovariate(1 / calm))
            faults.begin()

    breaking = asyncio.get_running_loop().create_task(break_things())
    while world.now() < until:
        await asyncio.sleep(people.chance.expovariate(1 / busy))
        await people.act()
    breaking.cancel()
