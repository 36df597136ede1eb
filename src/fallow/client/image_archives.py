"""The typed client's call for images from a file. It raises a `ClientError`."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fallow.client.errors import BadAnswer
from fallow.client.transport import Transport
from fallow.model.image_archives import LoadedArchive
from fallow.model.image_jobs import ImageTarget

PIECE_BYTES = 1024 * 1024
UNPACK_SECONDS = 3600.0  # the control plane answers once it has read all of it


class ArchiveCalls:
    """Files of images."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def load(self, file: Path, target: ImageTarget, *, parallel: str = "20") -> LoadedArchive:
        """Send an archive, and have its images brought to nodes. Raises OSError too."""
        query = {"target": msgspec.json.encode(target).decode(), "parallel": parallel}
        headers = {"Content-Type": "application/x-tar", "Idempotency-Key": secrets.token_hex(16)}
        answer = self._transport.upload(
            "/v1/image-archives", _pieces(file), query=query, headers=headers, seconds=UNPACK_SECONDS
        )
        try:
            return msgspec.json.decode(answer.content, type=LoadedArchive)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(self._transport.url, str(error)) from error


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            yield piece
