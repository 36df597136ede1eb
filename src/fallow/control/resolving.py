"""References resolved once, centrally: what a tag stands for, asked of its registry and remembered for a short time."""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from fallow.control.refusals import Refused
from fallow.control.registries import Registries
from fallow.decide.federation.founding import alone
from fallow.decide.snapshot import Snapshot
from fallow.decide.trust import reference_trouble, rules_of, unsigned_text
from fallow.drivers.authority import AuthorityError
from fallow.drivers.registry import Access, Registry, RegistryError
from fallow.drivers.registry.cosign import signature_troubles
from fallow.model.images import ImageErrorKind, ResolvedImage
from fallow.model.problems import Problem
from fallow.model.references import Reference, parse_reference
from fallow.model.trust import TrustPolicy
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.images")

TAG_SECONDS = 10.0  # so long a tag is taken to stand for the same: enough for many who ask at once
DIGEST_SECONDS = 3600.0
TROUBLE_SECONDS = 3.0  # so long a registry that is in trouble is not asked the same again
RESOLVE_SECONDS = 5.0  # so long others wait for us, who may reach a registry that we do not
MAX_QUIET_SECONDS = 900.0  # whatever a registry asks for
REMEMBERED = 2000
AT_ONCE = 4  # questions to one registry
DEFAULT_PROJECT = "default"

_STATUS: dict[ImageErrorKind, tuple[int, str, str]] = {
    "bad-request": (422, "Not an image", "write it as REGISTRY/REPOSITORY:TAG or with @sha256:..."),
    "not-found": (422, "No such image", "look at its name and tag"),
    "denied": (422, "Not allowed by the registry", "fallow registry add HOST --username NAME --password-stdin"),
    "rate-limited": (429, "The registry is asked too often", "try again later, or give it a login"),
    "untrusted": (403, "Not a trusted image", "fallow trust show PROJECT tells its rules"),
    "wrong-content": (502, "The registry sends what is wrong", "push the image again, or take another registry"),
    "wrong-platform": (422, "For other machines only", "build it for the nodes' architecture too"),
}
_UNREACHABLE = (502, "The registry cannot be reached", "fallow registry test HOST tells more")


class Unresolved(Refused):
    """A reference could not be resolved; `kind` sorts it, `retry_after_seconds` is what the registry asked for."""

    def __init__(self, kind: ImageErrorKind, text: str, retry_after_seconds: float = 0.0) -> None:
        status, title, hint = _STATUS.get(kind, _UNREACHABLE)
        super().__init__(
            Problem(type=f"urn:fallow:image-{kind}", title=title, status=status, detail=text[:2000], hint=hint)
        )
        self.kind: ImageErrorKind = kind
        self.retry_after_seconds = retry_after_seconds

    def again(self) -> "Unresolved":
        """Return the same, to be raised once more."""
        return Unresolved(self.kind, str(self), self.retry_after_seconds)


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What became of a question, and until when that counts, by the steady clock."""

    found: ResolvedImage | Unresolved
    until: float


_Key = tuple[str, frozenset[str], str]


class Resolver:
    """Resolves references; see `resolve`. `clock` gives UTC seconds, `steady` seconds that nobody sets."""

    def __init__(
        self,
        cache: Cache,
        registries: Registries,
        driver: Registry,
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._registries = registries
        self._driver = driver
        self._clock = clock
        self._steady = steady
        self._remembered: OrderedDict[_Key, _Remembered] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[ResolvedImage]] = {}
        self._turns: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        # Registries that asked to be left alone, as they are known, and until when.
        self._quiet: dict[tuple[str, str], tuple[float, Unresolved]] = {}
        self._signed: OrderedDict[tuple[str, str, tuple[str, ...]], None] = OrderedDict()

    async def resolve(self, reference: str, project: str = DEFAULT_PROJECT, *, since: float = 0.0) -> ResolvedImage:
        """Return what a reference (in full or short) stands for now, for the nodes' architectures.

        An answer from before `since` (UTC seconds) does not count: who has just pushed wants what was pushed.
        It is allowed by the policy of the project, and signed if that wants it. Raises Unresolved, which is a Refused.
        """
        try:
            parsed = parse_reference(reference)
        except ValueError as error:
            raise Unresolved("bad-request", str(error)) from None
        self.check_name(parsed, project)
        found = await self._answer(parsed, since)
        await self.check_signed(found, project)
        return found

    async def check(self, reference: str, project: str) -> None:
        """Hold an image to the rules of a project before anything is done with it. Raises Unresolved.

        Its registry is asked only where the rules want a signature.
        """
        try:
            self.check_name(parse_reference(reference), project)
        except ValueError as error:
            raise Unresolved("bad-request", str(error)) from None
        policy = self.policy(project)
        if policy is not None and policy.keys:
            await self.resolve(reference, project)

    def policy(self, project: str) -> TrustPolicy | None:
        """Return the rules for a project's images, if there are any."""
        found = self._cache.get("trust-policies", project)
        return found if isinstance(found, TrustPolicy) else None

    def check_name(self, reference: Reference, project: str) -> None:
        """Hold a reference to a project's rules, as far as its name goes. Raises Unresolved."""
        policy = self.policy(project)
        trouble = reference_trouble(rules_of(policy), reference) if policy is not None else ""
        if trouble:
            raise Unresolved("untrusted", trouble)

    async def check_signed(self, image: ResolvedImage, project: str) -> None:
        """Hold an image to a project's rules on signatures. Raises Unresolved.

        A signature that was good stays good for these keys: only those that were are remembered.
        """
        policy = self.policy(project)
        if policy is None or not policy.keys:
            return
        reference = parse_reference(image.reference)
        seen = (reference.name, image.digest, policy.keys)
        if seen in self._signed:
            return
        try:
            async with self._turns[reference.registry]:
                troubles = await signature_troubles(
                    self._driver, self._access(reference), reference.repository, image.digest, policy.keys
                )
        except RegistryError as error:
            raise Unresolved(error.kind, f"its signature: {error}", error.retry_after_seconds) from None
        if troubles is not None:
            raise Unresolved("untrusted", unsigned_text(project, image.reference, troubles))
        self._signed[seen] = None
        while len(self._signed) > REMEMBERED:
            self._signed.popitem(last=False)

    async def _answer(self, reference: Reference, since: float) -> ResolvedImage:
        """Ask the registry, unless the answer is known; who asks while it is being asked shares that answer."""
        key = self._key(reference)
        known = self._remembered.get(key)
        if known is not None and self._steady() < known.until:
            if isinstance(known.found, Unresolved):
                raise known.found.again()
            if reference.digest or known.found.resolved_at >= since:
                return known.found
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(reference, key), name=f"resolve {reference.text}")
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def _asked(self, key: _Key, task: asyncio.Task[ResolvedImage]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # all who asked may be gone

    def _key(self, reference: Reference) -> _Key:
        """What an answer hangs on: also the nodes' architectures, and what is known of the registry."""
        known = self._cache.get("registries", reference.registry)
        return reference.text, self._architectures(), str(known.revision) if known is not None else ""

    async def _ask(self, reference: Reference, key: _Key) -> ResolvedImage:
        host = reference.registry
        try:
            async with self._turns[host]:
                quiet = self._quiet.get((host, key[2]))
                if quiet is not None and self._steady() < quiet[0]:
                    raise quiet[1].again()
                found = await self._driver.resolve(self._access(reference), reference, key[1])
        except RegistryError as error:
            trouble = Unresolved(error.kind, str(error), error.retry_after_seconds)
            if error.retry_after_seconds:
                until = self._steady() + min(error.retry_after_seconds, MAX_QUIET_SECONDS)
                self._quiet[host, key[2]] = (until, trouble)
            self._remember(key, trouble, TROUBLE_SECONDS)
            raise trouble from None
        found = msgspec.structs.replace(found, resolved_at=self._clock())
        self._remember(key, found, DIGEST_SECONDS if reference.digest else TAG_SECONDS)
        return found

    def _access(self, reference: Reference) -> Access:
        try:
            return self._registries.access(reference.registry)
        except AuthorityError as error:
            raise Unresolved("denied", f"the login of {reference.registry} cannot be read: {error}") from None

    def _architectures(self) -> frozenset[str]:
        """Return what the cluster's nodes are; none: not known yet, so everything is looked up."""
        nodes = self._cache.snapshot().nodes.values()
        return frozenset(node.facts.architecture for node in nodes if node.facts.architecture)

    def _remember(self, key: _Key, found: ResolvedImage | Unresolved, seconds: float) -> None:
        self._remembered[key] = _Remembered(found, self._steady() + seconds)
        self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)


async def images_for_members(
    resolver: Resolver, snapshot: Snapshot, images: Collection[str], project: str, since: float
) -> Mapping[str, ResolvedImage]:
    """Return what images stand for that member clusters will be told to run; nothing where there are none.

    What cannot be found out in time is left out: whoever pulls it asks again. A reference with a digest says it itself.
    """
    if alone(snapshot):
        return {}

    async def found(image: str) -> ResolvedImage | None:
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                return await resolver.resolve(image, project, since=since)
        except (TimeoutError, Unresolved) as error:
            _log.warning("image not resolved; each cluster finds out by itself", image=image, reason=str(error))
            return None

    asked = [image for image in images if "@" not in image]
    answers = await asyncio.gather(*map(found, asked))
    return {image: answer for image, answer in zip(asked, answers, strict=True) if answer is not None}
