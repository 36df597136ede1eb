"""The typed client's calls about images. Every method raises a `ClientError`."""

import secrets
from collections.abc import Iterator, Mapping
from typing import TypeVar

from fallow.client.listings import Listing, decoded
from fallow.client.transport import Transport, part
from fallow.model.image_requests import (
    DriftView,
    ImageJobRequest,
    ImageJobView,
    ImageTaskView,
    ImageView,
    NodeImagesView,
)
from fallow.model.image_schedules import ImageScheduleRequest, ImageScheduleView

T = TypeVar("T")


class ImageCalls:
    """What nodes have, and jobs that change it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_job(self, request: ImageJobRequest) -> ImageJobView:
        """Ask for a job, or with `dry_run` whom a pull would reach."""
        key = secrets.token_hex(16)
        return decoded(
            ImageJobView,
            self._transport.send("POST", "/v1/image-jobs", body=request, key=key),
            self._transport.url,
        )

    def jobs(self, state: str = "", action: str = "", limit: int = 100) -> Listing[ImageJobView]:
        """Return jobs, newest first."""
        return self._get(Listing[ImageJobView], "/v1/image-jobs", state=state, action=action, limit=str(limit))

    def job(self, job_id: str) -> ImageJobView:
        """Return one job."""
        return self._get(ImageJobView, f"/v1/image-jobs/{part(job_id)}")

    def change_job(self, job_id: str, change: str) -> ImageJobView:
        """Pause, resume, cancel or retry a job."""
        path = f"/v1/image-jobs/{part(job_id)}/{change}"
        return decoded(ImageJobView, self._transport.send("POST", path), self._transport.url)

    def tasks(self, filters: Mapping[str, str], after: str = "", limit: int = 1000) -> Listing[ImageTaskView]:
        """Return a page of the record, newest first; `filters`: job, node, state, image, since, until."""
        return self._get(Listing[ImageTaskView], "/v1/image-tasks", **{**filters, "after": after, "limit": str(limit)})

    def all_tasks(self, filters: Mapping[str, str]) -> Iterator[ImageTaskView]:
        """Yield the record, newest first."""
        after = ""
        while True:
            page = self.tasks(filters, after)
            yield from page.items
            after = page.next
            if not after:
                return

    def export(self, kind: str, filters: Mapping[str, str]) -> str:
        """Return the record as JSON or CSV."""
        path = "/v1/image-tasks/export" + (".csv" if kind == "csv" else "")
        return self._transport.send("GET", path, query=filters).text

    def images(self, image: str = "") -> Listing[ImageView]:
        """Return who has which images."""
        return self._get(Listing[ImageView], "/v1/images", image=image)

    def of_nodes(self, node: str = "") -> Listing[NodeImagesView]:
        """Return what every node has, or one."""
        return self._get(Listing[NodeImagesView], "/v1/node-images", node=node)

    def drift(self, *, resolve: bool = False) -> Listing[DriftView]:
        """Return nodes that have something else than they should."""
        return self._get(Listing[DriftView], "/v1/images/drift", resolve="true" if resolve else "")

    def schedules(self) -> Listing[ImageScheduleView]:
        """Return the schedules, by name."""
        return self._get(Listing[ImageScheduleView], "/v1/image-schedules")

    def create_schedule(self, request: ImageScheduleRequest) -> ImageScheduleView:
        """Make a schedule."""
        return decoded(
            ImageScheduleView, self._transport.send("POST", "/v1/image-schedules", body=request), self._transport.url
        )

    def delete_schedule(self, name: str) -> None:
        """Delete a schedule."""
        self._transport.send("DELETE", f"/v1/image-schedules/{part(name)}")

    def _get(self, kind: type[T], path: str, **query: str) -> T:
        asked = {key: value for key, value in query.items() if value}
        return decoded(kind, self._transport.send("GET", path, query=asked), self._transport.url)
