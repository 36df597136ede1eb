"""One pull, from the question to an image that is known to be the right one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from fallow.agent.grants import Grants
from fallow.agent.watchdog import Stalled, StallWatch
from fallow.decide.agent.images import StartPull
from fallow.decide.trust import grant_trouble
from fallow.drivers.blobs import BlobError
from fallow.drivers.engine.contract import Credentials, Engine, EngineError, Image, PullProgress
from fallow.model.image_jobs import TaskReport
from fallow.model.images import ImageErrorKind, PlatformImage, PullGrant
from fallow.model.references import parse_reference, qualified
from fallow.model.units import format_bytes

_log = structlog.get_logger("fallow.agent.pulling")

QUICK_SECONDS = 30.0  # for what an engine answers from memory
STALL_SECONDS = 60.0  # where no order says otherwise
UNPACKED_TIMES = 3  # an image's size unpacked, guessed from its size compressed
LOG_LINES = 50
T = TypeVar("T")
LINE_CHARS = 512
TEXT_CHARS = 2048

# Why a registry gives an image that is there already no name, and it may be used all the same.
_AWAY: frozenset[ImageErrorKind] = frozenset({"unreachable", "stalled", "timeout", "rate-limited"})

# What an engine calls differently than a report does.
_KINDS: dict[str, ImageErrorKind] = {
    "unreachable": "unreachable",
    "registry-unreachable": "unreachable",
    "not-found": "not-found",
    "denied": "denied",
    "rate-limited": "rate-limited",
    "no-space": "no-space",
    "in-use": "in-use",
    "bad-request": "bad-request",
    "wrong-platform": "wrong-platform",
    "wrong-content": "wrong-content",
}


class Fetcher(Protocol):
    """Offers the engine a place on this machine to pull from, behind which are the node's neighbours and the mirror."""

    async def source(self, grant: PullGrant, image: PlatformImage) -> str | None:
        """Return the name the engine is to pull, such as `127.0.0.1:40001/shop/api@sha256:...`, over plain HTTP.

        None: pull from the registry itself, with the grant's login. The name stays good until this image's next call.
        Whatever goes wrong behind it, the engine is then told to pull from the registry itself, once.
        """

    def fault(self, image: PlatformImage) -> BlobError | None:
        """Return why its registry did not give an image since `source` was called last, where that was it."""


Fetched = Callable[[PlatformImage], int]  # how many bytes of an image's layers have come, where a fetcher knows


class Store(Protocol):
    """What a pull notes of an image, and asks of those there are."""

    def note_pulled(self, image_id: str, image: PlatformImage | None, loaded: bool) -> None:
        """Note that an image is there, through us."""

    def missing_bytes(self, image: PlatformImage) -> int:
        """Return the compressed size of the layers that are not known to be there."""


class PullFailed(Exception):  # noqa: N818 - an outcome that is reported
    """A pull did not come to a good end; the text is the engine's or the registry's own where it has one."""

    def __init__(self, kind: ImageErrorKind, text: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.kind: ImageErrorKind = kind
        self.retry_after_seconds = retry_after_seconds


def failure_of(error: EngineError) -> PullFailed:
    """Return an engine's refusal as a report has it."""
    return PullFailed(_KINDS.get(error.kind, "failed"), str(error), error.retry_after_seconds)


@dataclass(kw_only=True)
class Pull:
    """One pull under way: what has come so far, and what there is to tell of it."""

    order: StartPull
    current_bytes: int = 0
    total_bytes: int = 0
    text: str = "waiting"
    unchanged: bool = False
    lines: list[str] = field(default_factory=list)
    begun: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def say(self, text: str) -> None:
        """Add a line to its log, with the seconds since it began."""
        self.text = text
        if len(self.lines) < LOG_LINES:
            seconds = asyncio.get_running_loop().time() - self.begun
            self.lines.append(f"+{seconds:.1f} s {text}"[:LINE_CHARS])

    def took_in(self, progress: PullProgress) -> None:
        """Take in what the engine says of its bytes."""
        self.current_bytes = progress.current_bytes
        self.total_bytes = max(self.total_bytes, progress.total_bytes)

    def done(self, image_id: str) -> TaskReport:
        """Return what to report of a good end."""
        return self._report(TaskReport(task_id="", attempt=0, state="done", image_id=image_id))

    def failed(self, error: PullFailed) -> TaskReport:
        """Return what to report of a bad end."""
        text = str(error)[:TEXT_CHARS]
        report = TaskReport(
            task_id="",
            attempt=0,
            state="failed",
            kind=error.kind,
            text=text,
            retry_after_seconds=error.retry_after_seconds,
        )
        return self._report(report)

    def _report(self, report: TaskReport) -> TaskReport:
        return TaskReport(
            task_id="",
            attempt=0,
            state=report.state,
            kind=report.kind,
            text=report.text,
            retry_after_seconds=report.retry_after_seconds,
            image_id=report.image_id,
            fetched_bytes=self.current_bytes,
            total_bytes=self.total_bytes,
            unchanged=self.unchanged,
            log=tuple(self.lines),
        )


class Puller:
    """Pulls images for replicas and for tasks alike. Each pull ends with a report, whatever happens."""

    def __init__(self, engine: Engine, grants: Grants, store: Store, fetcher: Fetcher | None = None) -> None:
        self._engine = engine
        self._grants = grants
        self._store = store
        self.fetcher = fetcher
        self.fetched: Fetched | None = None
        self._architecture = ""
        self._locks: dict[str, asyncio.Lock] = {}  # by image id: the same one may have several names
        self._unnamed: set[str] = set()  # image ids that are there, and whose digest's name their registry did not give

    async def run(self, pull: Pull) -> TaskReport:
        """Do one pull. Cancelling it stops the engine."""
        order = pull.order
        try:
            image_id = await self._pull(pull)
        except PullFailed as failed:
            return self._failed(pull, failed)
        except EngineError as error:
            return self._failed(pull, failure_of(error))
        except Exception as error:  # noqa: BLE001 - a pull without an end would hold up everybody who waits for it
            _log.error("pull failed", image=order.reference, exc_info=True)
            return self._failed(pull, PullFailed("failed", f"{type(error).__name__}: {error}"))
        pull.say(f"the engine has {image_id}" + (" already" if pull.unchanged else ""))
        seconds = round(asyncio.get_running_loop().time() - pull.begun, 1)
        _log.info("image pulled", image=order.reference, id=image_id, unchanged=pull.unchanged, seconds=seconds)
        return pull.done(image_id)

    def _failed(self, pull: Pull, error: PullFailed) -> TaskReport:
        pull.say(f"failed ({error.kind}): {error}")
        _log.warning("image not pulled", image=pull.order.reference, kind=error.kind, reason=str(error))
        return pull.failed(error)

    async def _granted(self, reference: str, replica_id: str, task_id: str) -> PullGrant | None:
        """Ask how to pull; None when nobody answers. Raises PullFailed when it is refused."""
        grant = await self._grants.ask(reference, replica_id=replica_id, task_id=task_id)
        if grant is not None and grant.kind:
            raise PullFailed(grant.kind, grant.text, grant.retry_after_seconds)
        if grant is not None and (trouble := grant_trouble(grant, reference)):
            raise PullFailed("untrusted", trouble)
        return grant

    async def found(self, reference: str, replica_id: str) -> tuple[Image | None, PlatformImage | None]:
        """Return the image a replica is to be started from when it is there, and what is known of the right one.

        A name that stands for another image than was resolved is as good as none. Raises EngineError and PullFailed.
        """
        grant = await self._granted(qualified(reference), replica_id, "")
        if grant is None or grant.image is None:
            return await quickly(self._engine.image(reference)), None
        return await self._right_one(qualified(reference), grant.image), grant.image

    async def _right_one(self, reference: str, image: PlatformImage) -> Image | None:
        """Return the image with the right id when the engine has it, and let `reference` stand for it."""
        there = await quickly(self._engine.image(image.image_id))
        if there is None:
            return None
        named = await quickly(self._engine.image(reference))
        if named is None or named.id != image.image_id:
            if "@" in reference:  # only a pull gives a name with a digest; it finds all layers there
                return there if image.image_id in self._unnamed else None
            await quickly(self._engine.tag(image.image_id, reference))
        return there

    async def _pull(self, pull: Pull) -> str:
        order, image = pull.order, pull.order.image
        reference = qualified(order.reference)
        if image is not None and await self._right_one(reference, image) is not None:
            return self._there(pull, image)
        grant = await self._granted(reference, order.replica_id, order.task_id)
        image = image or (grant.image if grant is not None else None)
        if image is None:
            return await self._pull_as_it_is(pull, grant)
        pull.total_bytes = image.size_bytes
        async with self._locks.setdefault(image.image_id, asyncio.Lock()):
            if await self._right_one(reference, image) is not None:
                return self._there(pull, image)
            await self._check_platform(reference, image)
            await self._check_space(image)
            await self._fetch(pull, grant, image)
        self._store.note_pulled(image.image_id, image, order.loading)
        return image.image_id

    def _there(self, pull: Pull, image: PlatformImage) -> str:
        pull.unchanged = True
        self._store.note_pulled(image.image_id, image, pull.order.loading)
        return image.image_id

    async def _pull_as_it_is(self, pull: Pull, grant: PullGrant | None) -> str:
        if pull.order.loading:
            raise PullFailed("failed", "the control plane does not say which image of the file is for this node")
        pull.say("pulling what the name stands for in its registry")
        before = await quickly(self._engine.image(pull.order.reference))
        way = _Way(name=pull.order.reference, login=_credentials(grant), insecure=_insecure(grant))
        image = await self._watched(pull, way, None)
        pull.unchanged = before is not None and before.id == image.id
        if not pull.unchanged:
            self._store.note_pulled(image.id, None, False)
        return image.id

    async def _check_platform(self, reference: str, image: PlatformImage) -> None:
        if not self._architecture:
            self._architecture = (await quickly(self._engine.info())).architecture
        made_for = image.platform.split("/")[1:2]
        if made_for != [self._architecture]:
            text = f"{reference} is made for {image.platform}, and this machine is {self._architecture}"
            raise PullFailed("wrong-platform", text)

    async def _check_space(self, image: PlatformImage) -> None:
        """Refuse what would fill the disk: the compressed bytes and the unpacked ones lie there at the same time."""
        size, free = await quickly(self._engine.disk())
        need = self._store.missing_bytes(image) * (1 + UNPACKED_TIMES)
        if size and free < need:
            raise PullFailed(
                "no-space",
                f"it needs about {format_bytes(need)} while it is unpacked, and {format_bytes(free)} of the engine's"
                f" disk are free; `fallow image clean` makes room",
            )

    async def _fetch(self, pull: Pull, grant: PullGrant | None, image: PlatformImage) -> None:
        """Let the engine get exactly this image, and give it its name."""
        source = await self._source(grant, image)
        near = await self._fetch_nearby(pull, source, image) if source is not None else None
        there = source is not None and near is None
        if there and ("@" not in pull.order.reference or pull.order.loading):
            return
        if pull.order.loading:
            raise PullFailed("unreachable", "no node that has the file's layers could be reached")
        try:
            await self._fetch_directly(pull, grant, image)
        except PullFailed as failed:
            if not there or failed.kind not in _AWAY:
                raise self._why(grant, image, near, failed) from None
            self._unnamed.add(image.image_id)
            pull.say(f"the image is there, without the name of its digest ({failed.kind}): {failed}")

    async def _fetch_directly(self, pull: Pull, grant: PullGrant | None, image: PlatformImage) -> None:
        exact = parse_reference(qualified(pull.order.reference)).at(image.manifest.digest)
        pull.say(f"pulling {exact} from its registry")
        await self._take(pull, _Way(name=exact, login=_credentials(grant), insecure=_insecure(grant)), image)

    def _why(
        self, grant: PullGrant | None, image: PlatformImage, near: PullFailed | None, direct: PullFailed
    ) -> PullFailed:
        """Return the failure that says why: what the registry said to us, if it did.

        Where it is spoken to without TLS, with a CA of its own or through a proxy, an engine that goes there by itself
        mostly fails for not knowing that.
        """
        fault = self.fetcher.fault(image) if self.fetcher is not None else None
        if fault is not None:
            return PullFailed(fault.kind, str(fault), fault.retry_after_seconds)
        unknown = grant is not None and (grant.insecure or grant.ca_pem or grant.proxy)
        return near if near is not None and unknown else direct

    async def _source(self, grant: PullGrant | None, image: PlatformImage) -> str | None:
        if self.fetcher is None or grant is None:
            return None
        try:
            return await self.fetcher.source(grant, image)
        except Exception:  # noqa: BLE001 - it is a shortcut: without it there is still the registry
            _log.warning("no place on this machine to pull from", exc_info=True)
            return None

    async def _fetch_nearby(self, pull: Pull, source: str, image: PlatformImage) -> PullFailed | None:
        """Pull through this machine's own place; return what went wrong. Raises what a registry cannot mend."""
        pull.say("pulling from neighbours")
        try:
            await self._take(pull, _Way(name=source, insecure=True, fetched=self.fetched), image)
            # Its place is not there for good. It is the image's only name where the wanted one is of a digest, which
            # only a pull can give: then the registry gives it to the layers that are there.
            if "@" not in pull.order.reference:
                with suppress(EngineError):
                    await quickly(self._engine.delete_image(source))
        except PullFailed as failed:
            if failed.kind == "no-space":
                raise
            pull.say(f"not from neighbours ({failed.kind}): {failed}")
            return failed
        return None

    async def _take(self, pull: Pull, way: "_Way", image: PlatformImage) -> None:
        """Pull a name, see that it is the right image, and let the wanted reference stand for it. Raises PullFailed."""
        reference = qualified(pull.order.reference)
        try:
            got = await self._watched(pull, way, image)
            if got.id != image.image_id:
                with suppress(EngineError):
                    await quickly(self._engine.delete_image(way.name))
                raise PullFailed("wrong-content", f"{way.name} gave {got.id}, not {image.image_id}")
            if "@" not in reference:
                await quickly(self._engine.tag(got.id, reference))
        except EngineError as error:
            if error.kind == "wrong-platform":  # found out once it was there
                with suppress(EngineError):
                    await quickly(self._engine.delete_image(way.name))
            raise failure_of(error) from error

    async def _watched(self, pull: Pull, way: "_Way", image: PlatformImage | None) -> Image:
        """Pull a name for as long as bytes come. Raises EngineError, and PullFailed when they do not."""
        watch = StallWatch(pull.order.stall_seconds or STALL_SECONDS, pull.total_bytes)

        def told(progress: PullProgress) -> None:
            watch.note(progress)
            pull.took_in(progress)

        def poll() -> None:
            if way.fetched is not None and image is not None:
                told(PullProgress(current_bytes=way.fetched(image), total_bytes=image.size_bytes))

        pull.text = "pulling"
        try:
            return await watch.over(self._engine.pull(way.name, way.login, told, way.insecure), poll)
        except Stalled as stalled:
            raise PullFailed("stalled", str(stalled)) from None


@dataclass(frozen=True, kw_only=True)
class _Way:
    """What the engine is told to pull, and who knows how far it is when the engine does not say."""

    name: str
    login: Credentials | None = None
    insecure: bool = False
    fetched: Fetched | None = None


def _credentials(grant: PullGrant | None) -> Credentials | None:
    if grant is None or grant.login is None:
        return None
    return Credentials(username=grant.login.username, password=grant.login.password)


def _insecure(grant: PullGrant | None) -> bool:
    return grant is not None and grant.insecure


async def quickly(work: Awaitable[T], seconds: float = QUICK_SECONDS) -> T:
    """Await what an engine answers from memory. Raises EngineError, "unreachable" when there is none in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise EngineError("unreachable", f"the engine did not answer in {seconds:g} s") from error
