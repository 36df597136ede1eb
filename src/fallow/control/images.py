"""All that sessions say and are told of images: orders out, outcomes, progress and inventories in."""

import asyncio
from collections.abc import Callable

from fallow.control.hub import Hub, Link
from fallow.control.image_inventory import ImageInventory
from fallow.control.image_orders import ImageOrders
from fallow.control.image_reports import ImageReports
from fallow.control.intake import Unstored
from fallow.model.image_frames import ImageProgressed, ImagesReported, ImageTasksReported, ImageTasksStored
from fallow.model.image_jobs import TaskReport
from fallow.store.applier import Applier
from fallow.store.cache import Cache

ImageFrame = ImageTasksReported | ImageProgressed | ImagesReported


class Images:
    """One for each process: it serves the sessions that process holds. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, applier: Applier, hub: Hub, clock: Callable[[], float]) -> None:
        self.reports = ImageReports(cache, applier, clock)
        self.inventory = ImageInventory(cache, applier, clock, hub.steady)
        self.orders = ImageOrders(cache, hub, self._refuse)
        self._unstored: dict[Link, Unstored] = {}

    def greet(self, link: Link) -> None:
        """Tell a session that has just opened what its node is to do."""
        self.orders.greet(link)

    def closed(self, link: Link) -> None:
        """Forget a session that has ended."""
        self.orders.closed(link)
        self._unstored.pop(link, None)

    async def heard(self, link: Link, frame: ImageFrame) -> None:
        """Take in what a node says; waits only for one that sends more than can be stored."""
        if isinstance(frame, ImageProgressed):
            self.reports.progressed(link.member_id, frame.tasks)
        elif isinstance(frame, ImagesReported):
            self.inventory.heard(link.member_id, frame)
        else:
            await self._take_in(link, frame)

    async def run(self) -> None:
        """Store and send until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reports.run())
            group.create_task(self.inventory.run())
            group.create_task(self.orders.run())

    async def _take_in(self, link: Link, frame: ImageTasksReported) -> None:
        await self._unstored.setdefault(link, Unstored()).take_in(
            frame.batch,
            lambda: self.reports.submit(link.member_id, frame.reports),
            lambda: link.send(ImageTasksStored(batch=frame.batch)),
        )

    def _refuse(self, member_id: str, report: TaskReport) -> None:
        self.reports.submit(member_id, (report,))
