"""Who holds or fetches which blobs, as nodes tell it, and so from whom a node should fetch an image.

In memory only, and only of the sessions of this process: forgotten when a session ends, told anew when it opens. With
several control-plane processes each plans for the nodes it holds, so the registry gives an image once to each.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fallow.control.hub import Link
from fallow.decide.fanout import CHILDREN, Holder, plan_sources
from fallow.model.hosts import ZONE_LABEL
from fallow.model.image_frames import BlobsChanged
from fallow.model.images import BlobSource, PlatformImage
from fallow.model.members import Member
from fallow.store.cache import Cache

MAX_BLOBS = 20_000  # of one node
MAX_IMAGES = 1000
CONSIDERED = 128  # nodes, in the zone and anywhere, among whom a source is looked for
BEGIN_SECONDS = 5.0  # so long a node that was told its sources may take to begin
SWEEP_SECONDS = 0.5

Beside = Callable[[PlatformImage], tuple[BlobSource, ...]]


def _nothing_beside(_image: PlatformImage) -> tuple[BlobSource, ...]:
    return ()


@dataclass(kw_only=True, slots=True)
class _Node:
    """What one session has told."""

    link: Link
    port: int = 0
    whole: set[str] = field(default_factory=set)
    fetching: set[str] = field(default_factory=set)


@dataclass(kw_only=True, slots=True)
class _Fetch:
    """A node that was told to fetch: from whom (empty: the registry), and when."""

    parent: str
    since: float


@dataclass(kw_only=True, slots=True)
class _Image:
    """One image: its layers, who holds it in the order they came, who fetches, and how many each serves."""

    layers: frozenset[str]
    holders: dict[str, str] = field(default_factory=dict)  # member id -> zone
    free: dict[str, dict[str, None]] = field(default_factory=dict)  # zone -> members with few to serve
    fetches: dict[str, _Fetch] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    swept_at: float = 0.0


class Blobs:
    """Plans sources; `steady` gives seconds that nobody sets.

    `beside` gives sources beside nodes, in the registry's stead: the control plane itself, for what was uploaded to it.
    """

    def __init__(self, cache: Cache, steady: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._steady = steady
        self._nodes: dict[str, _Node] = {}
        self._images: dict[str, _Image] = {}  # by the digest of the manifest
        self.beside: Beside = _nothing_beside

    def heard(self, link: Link, frame: BlobsChanged) -> None:
        """Take in what a node can serve now."""
        node = self._nodes.get(link.member_id)
        if node is None or node.link is not link:
            self._forget(link.member_id)
            node = self._nodes[link.member_id] = _Node(link=link)
        if frame.full:
            node.whole.clear()
            node.fetching.clear()
        node.port = frame.port or node.port
        node.whole.difference_update(frame.gone)
        node.fetching.difference_update(frame.gone, frame.whole)
        node.whole.update(itertools.islice(frame.whole, max(0, MAX_BLOBS - len(node.whole))))
        node.fetching.update(itertools.islice(frame.fetching, max(0, MAX_BLOBS - len(node.fetching))))
        told = self._images.keys() if frame.full else self._images.keys() & {*frame.whole, *frame.fetching, *frame.gone}
        for manifest in list(told):
            self._place(self._images[manifest], manifest, link.member_id)

    def closed(self, link: Link) -> None:
        """Forget what a session has told; whoever fetches from that node finds another by itself."""
        node = self._nodes.get(link.member_id)
        if node is not None and node.link is link:
            self._forget(link.member_id)

    def sources(self, member: Member, image: PlatformImage) -> tuple[str, tuple[BlobSource, ...]]:
        """Return no mirror, and from which members a node should fetch an image, the best first.

        None: from its registry; that is told to one node at a time. What is told is remembered, so that the next
        node hears of this one before it has begun.
        """
        manifest = image.manifest.digest
        found = self._image(image)
        self._sweep(found, manifest)
        before = found.fetches.get(member.id)
        self._end(found, member.id)
        ids = plan_sources(
            member.id, _zone(member), self._considered(found, _zone(member)), avoid=before.parent if before else ""
        )
        if member.id in self._nodes:
            self._begin(found, member, ids[0] if ids else "")
        told = tuple(source for source in map(self._source, ids) if source is not None)
        self._images[manifest] = self._images.pop(manifest)  # used last
        return "", (*told, *self.beside(image))

    # what is known of an image

    def _image(self, image: PlatformImage) -> _Image:
        found = self._images.get(image.manifest.digest)
        if found is None:
            while len(self._images) >= MAX_IMAGES:
                del self._images[next(iter(self._images))]
            found = self._images[image.manifest.digest] = _Image(
                layers=frozenset(layer.digest for layer in image.layers)
            )
            for member_id in self._nodes:
                self._place(found, image.manifest.digest, member_id)
        return found

    def _place(self, image: _Image, manifest: str, member_id: str) -> None:
        """Note whether a node holds an image: whoever pulls through its agent has the manifest first."""
        node = self._nodes[member_id]
        holds = bool(node.port) and (manifest in node.whole or manifest in node.fetching or member_id in image.fetches)
        if holds and member_id not in image.holders:
            member = self._cache.get("members", member_id)
            if isinstance(member, Member):
                self._add(image, member)
        elif not holds and member_id in image.holders:
            self._remove(image, member_id)

    def _add(self, image: _Image, member: Member) -> None:
        image.holders.setdefault(member.id, _zone(member))
        self._weigh(image, member.id, 0)

    def _remove(self, image: _Image, member_id: str) -> None:
        self._end(image, member_id)
        zone = image.holders.pop(member_id, None)
        if zone is not None:
            image.free.get(zone, {}).pop(member_id, None)

    def _begin(self, image: _Image, member: Member, parent: str) -> None:
        image.fetches[member.id] = _Fetch(parent=parent, since=self._steady())
        if self._nodes[member.id].port:
            self._add(image, member)
        if parent:
            self._weigh(image, parent, 1)

    def _end(self, image: _Image, member_id: str) -> None:
        fetch = image.fetches.pop(member_id, None)
        if fetch is not None and fetch.parent:
            self._weigh(image, fetch.parent, -1)

    def _weigh(self, image: _Image, member_id: str, more: int) -> None:
        """Count who is served by a node, and know it as free or not."""
        load = image.loads.get(member_id, 0) + more
        image.loads[member_id] = load
        if not load:
            del image.loads[member_id]
        zone = image.holders.get(member_id)
        if zone is None:
            return
        free = image.free.setdefault(zone, {})
        if load < CHILDREN:
            free[member_id] = None
        else:
            free.pop(member_id, None)

    def _sweep(self, image: _Image, manifest: str) -> None:
        """Free those whom nobody fetches from any more, and take who never began for no holder."""
        now = self._steady()
        if now - image.swept_at < SWEEP_SECONDS:
            return
        image.swept_at = now
        for member_id, fetch in list(image.fetches.items()):
            node = self._nodes.get(member_id)
            begun = node is not None and not node.fetching.isdisjoint(image.layers)
            late = now - fetch.since > BEGIN_SECONDS
            if node is None or image.layers <= node.whole or (late and not begun):
                self._end(image, member_id)
                if node is not None:
                    self._place(image, manifest, member_id)

    def _considered(self, image: _Image, zone: str) -> dict[str, Holder]:
        """Return some nodes that may serve, those who came first, and whoever is above them."""
        near = itertools.islice(image.free.get(zone, ()), CONSIDERED)
        far = itertools.islice(itertools.chain.from_iterable(image.free.values()), CONSIDERED)
        chosen = list(dict.fromkeys(itertools.chain(near, far)))
        if not chosen:
            chosen = sorted(image.holders, key=lambda id_: image.loads.get(id_, 0))[:CONSIDERED]
        found: dict[str, Holder] = {}
        for member_id in chosen:
            above = member_id
            while above in image.holders and above not in found:
                fetch = image.fetches.get(above)
                found[above] = Holder(
                    member_id=above,
                    zone=image.holders.get(above, ""),
                    parent=fetch.parent if fetch is not None else "",
                    load=image.loads.get(above, 0),
                    fetching=fetch is not None,
                )
                above = found[above].parent
        return found

    # nodes

    def _forget(self, member_id: str) -> None:
        if self._nodes.pop(member_id, None) is None:
            return
        for image in self._images.values():
            self._remove(image, member_id)
            for fetch in image.fetches.values():
                if fetch.parent == member_id:
                    fetch.parent = ""
            image.loads.pop(member_id, None)

    def _source(self, member_id: str) -> BlobSource | None:
        node, member = self._nodes.get(member_id), self._cache.get("members", member_id)
        if node is None or not node.port or not isinstance(member, Member):
            return None
        return BlobSource(member_id=member_id, address=member.lease.address, port=node.port)


def _zone(member: Member) -> str:
    return member.labels.get(ZONE_LABEL, "")
