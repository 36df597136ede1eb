"""Which images of a node go, and why the others stay. A dry run and a real one are the same plan.

An image is deleted with all its names, or stays with all of them: a name less frees nothing. What a deletion frees is
counted in layers, each once: the bytes of a layer are free when the last image that has it is gone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from fallow.model.image_jobs import CleanRules, Verdict
from fallow.model.images import NodeImage
from fallow.model.references import parse_reference, qualified
from fallow.model.units import format_bytes
from fallow.model.watermarks import Watermarks

# Without their pause image neither Kubernetes nor Podman's pods start anything, and it is in no container between.
PAUSE_IMAGES = ("*/pause", "*/pause-*", "*/mirrored-pause", "*/podman-pause", "*/podman-pause-*")
MAX_TEXT = 2048
PRESSURE_UNUSED_SECONDS = 600.0  # pulled ahead of a rollout, or between a pull and its container

_Outcome = Literal["in-use", "protected", "needed", "kept", "recent"]


def plan(
    images: Sequence[NodeImage],
    rules: CleanRules,
    *,
    now: float,
    free_bytes: int,
    layer_bytes: Mapping[str, int] | None = None,
) -> tuple[Verdict, ...]:
    """Return a verdict on every image, or on every reference that is asked for, in the order of deletion.

    `layer_bytes` has unpacked sizes by diff id; without them the bytes of an image are spread evenly over its layers.
    A deleted image's verdicts name all its references; the first of them has the bytes that are freed.
    """
    shares = Shares(images, layer_bytes or {})
    judge = _Judge(images, rules, now)
    if rules.references:
        return tuple(_asked_for(images, rules, judge, shares))
    return tuple(_swept(images, rules, judge, shares, free_bytes))


def under_pressure(disk_bytes: int, free_bytes: int, marks: Watermarks) -> CleanRules | None:
    """Return what is to go when more of a disk than the high mark is used, so that the low one is; None: nothing."""
    if disk_bytes <= 0 or disk_bytes - free_bytes < marks.high * disk_bytes:
        return None
    until = disk_bytes - int(marks.low * disk_bytes)
    return CleanRules(until_free_bytes=until, unused_for_seconds=PRESSURE_UNUSED_SECONDS)


def freed_bytes(verdicts: Iterable[Verdict]) -> int:
    """Return how many bytes a plan frees, or has freed."""
    return sum(each.size_bytes for each in verdicts if each.outcome in ("delete", "deleted"))


def names_of(image: NodeImage, reference: str) -> tuple[str, ...]:
    """Return the names that have to go so that an image is rid of `reference`, or itself gone with the last one.

    Podman keeps names with a digest beside those with a tag, and an image for as long as it has any.
    """
    if not image.references:
        return image.digests or (image.id,)
    return (reference, *(image.digests if image.references == (reference,) else ()))


def matches(pattern: str, reference: str) -> bool:
    """Say whether a pattern with `*` and `?` means a reference; in doubt it does.

    It may leave out the registry, and the tag: `shop/*` is every image of shop in every registry.
    """
    wanted = re.compile("".join(_PATTERN.get(letter, re.escape(letter)) for letter in pattern), re.DOTALL)
    return any(wanted.fullmatch(spelling) for spelling in _spellings(reference))


_PATTERN = {"*": ".*", "?": "."}


def _spellings(reference: str) -> set[str]:
    try:
        parts = parse_reference(reference)
    except ValueError:
        return {reference}
    end = f"@{parts.digest}" if parts.digest else f":{parts.tag}"
    places = {parts.name, parts.repository, parts.repository.removeprefix("library/")}
    return places | {place + end for place in places}


class Shares:
    """Who has which layers: what the next deletion frees."""

    def __init__(self, images: Iterable[NodeImage], layer_bytes: Mapping[str, int]) -> None:
        self._users: Counter[str] = Counter()
        self._bytes: dict[str, int] = {}
        for image in images:
            for layer, size in _sizes(image, layer_bytes).items():
                self._users[layer] += 1
                self._bytes[layer] = max(size, self._bytes.get(layer, 0))

    def freed_by(self, image: NodeImage) -> int:
        """Return how many bytes nobody else has."""
        return sum(self._bytes[layer] for layer in _layers(image) if self._users[layer] == 1)

    def remove(self, image: NodeImage) -> int:
        """Take an image away and return how many bytes that frees."""
        freed = self.freed_by(image)
        self._users.subtract(_layers(image))
        return freed


def _layers(image: NodeImage) -> tuple[str, ...]:
    """Return an image's layers, each once; one without any is a layer of its own."""
    return tuple(dict.fromkeys(image.layers)) or (image.id,)


def _sizes(image: NodeImage, layer_bytes: Mapping[str, int]) -> dict[str, int]:
    layers = _layers(image)
    known = {layer: layer_bytes[layer] for layer in layers if layer in layer_bytes}
    rest = max(0, image.size_bytes - sum(known.values())) // max(1, len(layers) - len(known))
    return {layer: known.get(layer, rest) for layer in layers}


class _Judge:
    """Says why an image has to stay."""

    def __init__(self, images: Sequence[NodeImage], rules: CleanRules, now: float) -> None:
        self._rules = rules
        self._now = now
        self._needed = {each if each.startswith("sha256:") else qualified(each) for each in rules.needed}
        self._newest = _newest(images, rules.keep_versions)

    def never(self, image: NodeImage) -> Verdict | None:
        """Return why nothing may delete it, not even being told its name."""
        names = (*image.references, *image.digests)
        if image.containers:
            users = "a container" if image.containers == 1 else f"{image.containers} containers"
            return _verdict(image, "in-use", f"{users} made from it")
        if self._needed.intersection((*names, image.id)):
            return _verdict(image, "needed", "a deployment needs it, or would when it is rolled back")
        if any(matches(pattern, name) for name in names for pattern in PAUSE_IMAGES):
            return _verdict(image, "protected", "containers cannot be started without it")
        kept = [pattern for pattern in self._rules.keep if any(matches(pattern, name) for name in names)]
        if kept:
            return _verdict(image, "protected", f"kept by {kept[0]!r}")
        since = max(image.last_needed_at, image.pulled_at)
        unused = self._rules.unused_for_seconds
        if unused and (not since or self._now - since < unused):
            text = "" if since else "it is not known since when it is unused"
            return _verdict(image, "recent", text)
        return None

    def unless_named(self, image: NodeImage) -> Verdict | None:
        """Return why it may only be deleted by its name."""
        if image.loaded:
            return _verdict(image, "protected", "it was loaded from a file, and no registry can give it back")
        if not (image.references or image.digests or self._rules.dangling):
            return _verdict(image, "kept", "it has no name, and those without stay")
        newest = self._newest.intersection(image.references)
        if newest:
            text = f"{min(newest)} is among the newest {self._rules.keep_versions} of its repository"
            return _verdict(image, "kept", text)
        return None


def _newest(images: Sequence[NodeImage], count: int) -> set[str]:
    """Return the names that are among the newest `count` of their repository, by when they were pulled."""
    by_place: defaultdict[str, list[tuple[float, tuple[tuple[int, str], ...], str]]] = defaultdict(list)
    for image in images if count else ():
        for name in image.references:
            place, _, tag = name.rpartition(":")
            by_place[place].append((image.pulled_at, _natural(tag), name))
    return {name for found in by_place.values() for _, _, name in sorted(found, reverse=True)[:count]}


def _natural(tag: str) -> tuple[tuple[int, str], ...]:
    """Return what sorts 1.10 behind 1.9."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", tag))


def _asked_for(images: Sequence[NodeImage], rules: CleanRules, judge: _Judge, shares: Shares) -> Iterable[Verdict]:
    by_name = {name: image for image in images for name in (*image.references, *image.digests, image.id)}
    left = {image.id: set(image.references) for image in images}
    gone: set[str] = set()
    for asked in dict.fromkeys(each if each.startswith("sha256:") else qualified(each) for each in rules.references):
        image = by_name.get(asked)
        if image is None:
            yield Verdict(reference=asked, outcome="absent")
            continue
        if image.id in gone:
            continue
        stays = judge.never(image)
        if stays is not None:
            yield msgspec.structs.replace(stays, reference=asked)
            continue
        left[image.id] -= {asked} if asked in image.references else set(image.references)
        names = (asked,) if asked in image.references else image.references or (_first_name(image),)
        freed = 0
        if not left[image.id]:
            gone.add(image.id)
            freed = shares.remove(image)
        text = f"its other names stay: {', '.join(sorted(left[image.id]))}"[:MAX_TEXT] if left[image.id] else ""
        yield from _deletions(image, names, freed, text)


def _swept(
    images: Sequence[NodeImage], rules: CleanRules, judge: _Judge, shares: Shares, free_bytes: int
) -> Iterable[Verdict]:
    stay, go = [], []
    for image in images:
        why = judge.never(image) or judge.unless_named(image)
        if why is None:
            go.append(image)
        else:
            stay.append(why)
    free, enough = free_bytes, rules.until_free_bytes
    for image in sorted(go, key=lambda each: (max(each.last_needed_at, each.pulled_at), -each.size_bytes, each.id)):
        if enough and free >= enough:
            stay.append(_verdict(image, "kept", f"{format_bytes(enough)} are free without it"))
            continue
        freed = shares.remove(image)
        free += freed
        yield from _deletions(image, image.references or (_first_name(image),), freed)
    yield from sorted(stay, key=lambda each: (each.reference, each.image_id))


def _deletions(image: NodeImage, names: Iterable[str], freed: int, text: str = "") -> Iterable[Verdict]:
    """Yield a verdict on each name that goes; the first one has the bytes."""
    for number, name in enumerate(names):
        size = 0 if number else freed
        yield Verdict(reference=name, image_id=image.id, outcome="delete", size_bytes=size, text=text)


def _verdict(image: NodeImage, outcome: _Outcome, text: str) -> Verdict:
    return Verdict(
        reference=_first_name(image),
        image_id=image.id,
        outcome=outcome,
        size_bytes=image.size_bytes,
        text=text[:MAX_TEXT],
    )


def _first_name(image: NodeImage) -> str:
    return next(iter((*image.references, *image.digests)), image.id)
