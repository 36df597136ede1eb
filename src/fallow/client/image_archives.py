"""The typed client's call for images from a file. It raises a `ClientError`."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fallow.client.listings import decoded
from fallow.client.transport import Transport
from fallow.model.image_archives import LoadedArchive
from fallow.model.image_jobs import ImageTarget

PATH = "/v1/image-archives"
PIECE_BYTES = 1024 * 1024
UNPACK_SECONDS = 3600.0  # the control plane answers once it has read all of it


class ArchiveCalls:
    """Files of images."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def load(self, file: Path, target: ImageTarget, *, parallel: str = "20", canary: bool = False) -> LoadedArchive:
        """Send an archive, and have its images brought to nodes. Raises OSError too."""
        query = _query(target) | {"parallel": parallel} | ({"canary": "true"} if canary else {})
        headers = {"Content-Type": "application/x-tar", "Idempotency-Key": secrets.token_hex(16)}
        answer = self._transport.upload(PATH, _pieces(file), query=query, headers=headers, seconds=UNPACK_SECONDS)
        return decoded(LoadedArchive, answer, self._transport.url)

    def reach(self, target: ImageTarget) -> LoadedArchive:
        """Return whom an archive would reach; nothing is sent."""
        answer = self._transport.send("GET", f"{PATH}/reach", query=_query(target))
        return decoded(LoadedArchive, answer, self._transport.url)


def _query(target: ImageTarget) -> dict[str, str]:
    return {"target": msgspec.json.encode(target).decode()}


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            yield piece
