"""Batches of one session: each is taken in once, and none after a newer one."""

import asyncio

from fallow.control.intake import Unstored


class Line:
    """What was submitted and what was acknowledged, by numbers of batches; stored when told."""

    def __init__(self) -> None:
        self.unstored = Unstored()
        self.submitted: list[int] = []
        self.acknowledged: list[int] = []
        self.storing: dict[int, asyncio.Future[None]] = {}

    async def say(self, batch: int) -> None:
        def submit() -> asyncio.Future[None]:
            self.submitted.append(batch)
            self.storing[batch] = asyncio.get_running_loop().create_future()
            return self.storing[batch]

        await self.unstored.take_in(batch, submit, lambda: self.acknowledged.append(batch))

    async def stored(self, batch: int) -> None:
        self.storing[batch].set_result(None)
        await asyncio.sleep(0)

    async def lost(self, batch: int) -> None:
        self.storing[batch].cancel()
        await asyncio.sleep(0)


async def test_a_batch_on_its_way_is_taken_in_once() -> None:
    line = Line()
    await line.say(1)
    await line.say(1)
    await line.stored(1)
    assert (line.submitted, line.acknowledged) == ([1], [1])


async def test_a_batch_that_arrives_again_after_a_newer_one_says_nothing_any_more() -> None:
    line = Line()
    for batch in (1, 2):
        await line.say(batch)
        await line.stored(batch)
    await line.say(1)
    await line.say(2)  # its acknowledgement was lost
    assert (line.submitted, line.acknowledged) == ([1, 2], [1, 2, 1, 2])


async def test_what_could_not_be_taken_in_may_be_said_again() -> None:
    line = Line()
    await line.say(1)
    await line.lost(1)
    assert line.acknowledged == []
    await line.say(1)
    await line.stored(1)
    assert (line.submitted, line.acknowledged) == ([1, 1], [1])
