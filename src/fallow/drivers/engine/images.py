"""Images of Docker and Podman through the Docker Engine API.

Neither engine is ever asked to prune: Podman 4 goes by the date an image was built, and fails where it should delete
images that have a name. Nothing is deleted by force either: Podman before 5.6 then removes the containers too.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiodocker
from aiodocker.utils import compose_auth_header

from fallow.drivers.engine import configuration
from fallow.drivers.engine.archives import ArchiveError, unpacked
from fallow.drivers.engine.connection import DockerConnection
from fallow.drivers.engine.contract import Credentials, EngineError, Image, Progress, PullProgress, StoredImage
from fallow.drivers.engine.failures import translated
from fallow.drivers.engine.streams import PullCounter, json_lines
from fallow.model.references import qualified

_LOOKS_IN_FLIGHT = 4
_ID = configuration.IMAGE_ID
_NOT_TLS = "server gave HTTP response to HTTPS client"
_LOADED = ("Loaded image: ", "Loaded image(s): ", "Loaded image ID: ")


class DockerImages(DockerConnection):
    """The half of a driver that is about images; see the contract."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._looks = asyncio.Semaphore(_LOOKS_IN_FLIGHT)
        self._plain: set[str] = set()  # hosts that speak plain HTTP, of which the engine's settings do not know
        self._known: dict[str, StoredImage] = {}  # by id: what never changes of an image

    async def image(self, reference: str) -> Image | None:
        """Return the image if the engine has it."""
        try:
            with translated():
                raw = await self._docker.images.inspect(_name(reference))
                return Image(
                    id=configuration.image_id(raw["Id"]),
                    references=(*(raw.get("RepoTags") or ()), *(raw.get("RepoDigests") or ())),
                    architecture=configuration.architecture_name(raw["Architecture"]),
                    size_bytes=int(raw.get("Size") or 0),
                )
        except EngineError as error:
            if error.kind == "not-found":
                return None
            raise

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None = None,
        on_progress: Progress | None = None,
        insecure: bool = False,
    ) -> Image:
        """Pull an image and return it; its architecture is checked against the machine's."""
        name = qualified(reference)
        secrets = (credentials.password,) if credentials else ()
        with translated(doing="pull", secrets=secrets):
            await self._pull(name, credentials, on_progress or _nothing, insecure)
        image, machine = await self.image(reference), await self.architecture()
        if image is None:
            raise EngineError("failed", f"the pull of {reference} broke off: the engine does not have the image")
        if image.architecture != machine:
            raise EngineError(
                "wrong-platform", f"{reference} is made for {image.architecture}, and this machine is {machine}"
            )
        return image

    async def _pull(self, name: str, credentials: Credentials | None, tell: Progress, insecure: bool) -> None:
        """Pull, and over plain HTTP where Podman's settings do not say so: only its own API can be told."""
        host, counter = name.partition("/")[0], PullCounter()
        if not (insecure and host in self._plain):
            try:
                async for message in self._pulled("images/create", {"fromImage": name}, name, credentials):
                    tell(counter.add(message))
                return
            except aiodocker.DockerError as error:
                if not insecure or _NOT_TLS not in error.message:
                    raise
        params = {"reference": name, "tlsVerify": "false"}
        async for _ in self._pulled("libpod/images/pull", params, name, credentials):
            pass
        self._plain.add(host)

    async def _pulled(
        self, path: str, params: Mapping[str, str], name: str, credentials: Credentials | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a pull's stream to its end, for failures are told inside a stream that answers 200.

        Leaving it closes the connection, and only that ends the pull: aiodocker's own stream stays open then.
        """
        login = {"username": credentials.username, "password": credentials.password} if credentials else None
        headers = {"X-Registry-Auth": compose_auth_header(login, name.partition("/")[0])} if login else {}
        async with self._stream("POST", path, params=params, headers=headers) as response:
            async for message in json_lines(response.content.iter_any()):
                if message.get("error") or message.get("errorDetail"):
                    text = message.get("error") or (message.get("errorDetail") or {}).get("message")
                    raise aiodocker.DockerError(0, str(text))
                yield message

    async def images(self) -> list[StoredImage]:
        """Return every image that somebody could name or delete, sorted by id; one that vanishes meanwhile is not."""
        with translated():
            listed = await self._docker.images.list()
            async with self._stream("GET", "containers/json", params={"all": "1"}) as response:
                used = Counter(configuration.image_id(each.get("ImageID") or "") for each in await response.json())
            found = {configuration.image_id(raw["Id"]): raw for raw in listed}
        self._known = {id_: known for id_, known in self._known.items() if id_ in found}
        looked = await asyncio.gather(*(self._look(id_) for id_ in sorted(found)))
        return [
            configuration.stored_image(found[known.id], known, used[known.id]) for known in looked if known is not None
        ]

    async def _look(self, id_: str) -> StoredImage | None:
        """Return what never changes of an image; asked once for each."""
        if id_ in self._known:
            return self._known[id_]
        try:
            async with self._looks:
                with translated():
                    raw = await self._docker.images.inspect(id_)
                    history: Any = await self._docker.images.history(id_)
                    self._known[id_] = configuration.fixed_image(raw, history)
        except EngineError as error:
            if error.kind == "not-found":
                return None
            raise
        return self._known[id_]

    async def tag(self, image_id: str, reference: str) -> None:
        """Let a name with a tag stand for an image; it is taken from the image it stood for before."""
        name, _, tag = _named(reference).rpartition(":")
        with translated():
            async with self._stream("POST", f"images/{_name(image_id)}/tag", params={"repo": name, "tag": tag}):
                pass

    async def delete_image(self, name: str) -> None:
        """Take one name from its image, and delete the image with its last name; see the contract."""
        if _ID.match(name):
            await self._check_nameless(name)
        try:
            with translated():
                async with self._stream("DELETE", f"images/{_named(name)}", params={"force": "0"}):
                    pass
        except EngineError as error:
            if error.kind == "not-found":
                return
            # Podman has this as a conflict as well, without a word on containers when somebody else deletes it too.
            if error.kind == "conflict":
                raise EngineError("in-use", str(error)) from None
            raise

    async def _check_nameless(self, image_id: str) -> None:
        image = await self.image(image_id)
        if image is not None and any("@" not in name and "<none>" not in name for name in image.references):
            raise EngineError("bad-request", f"{image_id} has names: {', '.join(image.references)}; delete those")

    async def load(self, archive: AsyncIterator[bytes]) -> tuple[str, ...]:
        """Load images from a tar file, and return their names or ids; Podman takes none that is compressed."""
        broken: list[str] = []

        async def body() -> AsyncIterator[bytes]:
            try:
                async for piece in unpacked(archive):
                    yield piece
            except ArchiveError as error:
                broken.append(str(error))
                raise

        try:
            names = await self._load(body())
        except EngineError:
            if broken:
                raise EngineError("bad-request", broken[0]) from None
            raise
        if not names:
            raise EngineError("bad-request", "the archive held no image")
        return names

    async def _load(self, body: AsyncIterator[bytes]) -> tuple[str, ...]:
        names = []
        headers, params = {"Content-Type": "application/x-tar"}, {"quiet": "1"}
        with translated(doing="load"):
            async with self._stream("POST", "images/load", params=params, data=body, headers=headers) as response:
                async for message in json_lines(response.content.iter_any()):
                    if "error" in message:
                        raise aiodocker.DockerError(0, str(message["error"]))
                    names += _loaded(str(message.get("stream") or ""))
        return tuple(names)

    def image_events(self) -> AsyncIterator[str]:
        """Yield a word whenever an image came, went or got another name, from this call on."""
        return self._image_events(f"{time.time():.9f}")

    async def _image_events(self, since: str) -> AsyncIterator[str]:
        params = {"since": since, "filters": json.dumps({"type": ["image"]})}
        with translated():
            async with self._stream("GET", "events", params=params) as response:
                async for message in json_lines(response.content.iter_any()):
                    yield _action(message)
        raise EngineError("unreachable", "the engine closed the stream of events")


def _nothing(_progress: PullProgress) -> None:
    return


def _action(message: Mapping[str, Any]) -> str:
    return str(message.get("Action") or message.get("status") or "")


def _name(reference: str) -> str:
    """Return an id as it is, and a name in full: Podman would find a short one in any registry."""
    return reference if _ID.match(reference) else qualified(reference)


def _named(reference: str) -> str:
    if _name(reference) != reference:
        raise EngineError("bad-request", f"{reference!r} is no name in full; that would be {_name(reference)}")
    return reference


def _loaded(text: str) -> list[str]:
    """Return the names in what an engine says of a load; Podman puts several into one line."""
    found = [line.partition(mark)[2] for line in text.splitlines() for mark in _LOADED if line.startswith(mark)]
    names = [name.strip() for names in found for name in names.split(",")]
    return [_name(name) for name in names if name]
