"""What goes from a node, against a plain oracle; and what must never go, whatever the rules."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.image_removal import freed_bytes, matches, names_of, plan, under_pressure
from fallow.model.image_jobs import CleanRules
from fallow.model.images import NodeImage
from fallow.model.watermarks import Watermarks

NOW = 10_000.0
LAYERS = {f"sha256:l{number}": 10**number for number in range(6)}  # each sum of them says which
NAMES = [f"reg.test/{place}:{tag}" for place in ("shop/api", "shop/web", "tools") for tag in ("1", "2", "10")]
PAUSE = "registry.k8s.io/pause:3.9"


@st.composite
def inventories(draw):
    names = draw(st.permutations([*NAMES, PAUSE]))
    images = []
    for number in range(draw(st.integers(0, 6))):
        count = draw(st.integers(0, 2))
        mine, names = tuple(sorted(names[:count])), names[count:]
        layers = tuple(draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=4, unique=True)))
        images.append(
            NodeImage(
                id=f"sha256:{number:064x}",
                references=mine,
                digests=(f"reg.test/d@sha256:{number:064x}",) if draw(st.booleans()) else (),
                size_bytes=sum(LAYERS[layer] for layer in layers),
                layers=layers,
                containers=draw(st.sampled_from([0, 0, 0, 2])),
                loaded=draw(st.sampled_from([False, False, False, True])),
                pulled_at=draw(st.sampled_from([0.0, 100.0, 9000.0])),
                last_needed_at=draw(st.sampled_from([0.0, 200.0, 5000.0, 9990.0])),
            )
        )
    return images


rules = st.builds(
    CleanRules,
    keep=st.lists(st.sampled_from(["shop/*", "*:2", "reg.test/tools", "?ools:1*"]), max_size=2).map(tuple),
    needed=st.lists(st.sampled_from([*NAMES, f"sha256:{1:064x}"]), max_size=2).map(tuple),
    unused_for_seconds=st.sampled_from([0.0, 60.0, 6000.0]),
    until_free_bytes=st.sampled_from([0, 1, 1_000, 111_111]),
    keep_versions=st.integers(0, 2),
    dangling=st.booleans(),
)


def on_disk(images):
    return sum(LAYERS[layer] for layer in {layer for image in images for layer in image.layers})


def may_go(image, images, wish):
    """The rules once more, in the plainest words."""
    names = [*image.references, *image.digests]
    if image.containers or image.loaded or PAUSE in names or {*names, image.id} & set(wish.needed):
        return False
    for pattern in wish.keep:
        if any(kept_by(pattern, name) for name in names):
            return False
    since = max(image.pulled_at, image.last_needed_at)
    if wish.unused_for_seconds and (since == 0 or NOW - since < wish.unused_for_seconds):
        return False
    if not names and not wish.dangling:
        return False
    return not any(newer_versions(name, image, images) < wish.keep_versions for name in image.references)


def kept_by(pattern, name):
    place = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    rest = name.removeprefix("reg.test/")
    return any(fnmatch.fnmatchcase(each, pattern) for each in (name, place, rest, place.removeprefix("reg.test/")))


def newer_versions(name, image, images):
    place, _, tag = name.rpartition(":")
    mine = (image.pulled_at, int(tag) if tag.isdecimal() else 0)
    others = [
        (each.pulled_at, int(other.rpartition(":")[2]))
        for each in images
        for other in each.references
        if other.rpartition(":")[0] == place and other != name
    ]
    return sum(other > mine for other in others)


@given(inventories(), rules, st.sampled_from([0, 500, 200_000]))
def test_just_what_may_go_goes_and_no_more_than_is_needed(images, wish, free):
    verdicts = plan(images, wish, now=NOW, free_bytes=free, layer_bytes=LAYERS)
    gone = [image for image in images if image.id in {each.image_id for each in verdicts if each.outcome == "delete"}]
    left = [image for image in images if image not in gone]
    allowed = [image for image in images if may_go(image, images, wish)]
    assert [image for image in gone if image not in allowed] == []
    freed = on_disk(images) - on_disk(left)
    assert freed_bytes(verdicts) == freed
    if not wish.until_free_bytes:
        assert gone == allowed
        return
    assert len(gone) == len(allowed) or free + freed >= wish.until_free_bytes
    order = list(dict.fromkeys(each.image_id for each in verdicts if each.outcome == "delete"))
    if order:  # without the last one it would not have been enough
        before = [image for image in images if image.id not in order[:-1]]
        assert free + on_disk(images) - on_disk(before) < wish.until_free_bytes
        by_id = {image.id: image for image in images}
        ages = [max(by_id[id_].pulled_at, by_id[id_].last_needed_at) for id_ in order]
        assert ages == sorted(ages)
        still = [image for image in allowed if image.id not in order]
        assert all(max(image.pulled_at, image.last_needed_at) >= ages[-1] for image in still)


@given(inventories(), rules)
def test_every_image_has_a_verdict_and_every_name_of_what_goes(images, wish):
    verdicts = plan(images, wish, now=NOW, free_bytes=0, layer_bytes=LAYERS)
    assert {each.image_id for each in verdicts} == {image.id for image in images}
    for image in images:
        told = [each for each in verdicts if each.image_id == image.id]
        if told[0].outcome == "delete":
            assert tuple(each.reference for each in told) == (image.references or (*image.digests, image.id)[:1])
            deleted = [name for each in told for name in names_of(_less(image, told, each), each.reference)]
            assert set(deleted) == {*image.references, *image.digests} or deleted == [image.id]
        else:
            assert len(told) == 1


def _less(image, told, verdict):
    """Return the image as it is once the names before this one are gone."""
    gone = {each.reference for each in told[: told.index(verdict)]}
    return NodeImage(
        id=image.id,
        references=tuple(name for name in image.references if name not in gone),
        digests=image.digests,
    )


@given(inventories(), rules, st.lists(st.sampled_from([*NAMES, PAUSE, "nobody/has:it"]), min_size=1, max_size=5))
def test_what_is_asked_for_by_name_goes_unless_it_is_needed(images, wish, asked):
    wish = CleanRules(references=tuple(asked), keep=wish.keep, needed=wish.needed)
    verdicts = plan(images, wish, now=NOW, free_bytes=0, layer_bytes=LAYERS)
    by_name = {name: image for image in images for name in image.references}
    told = {each.reference: each for each in verdicts}
    gone = {name for name, each in told.items() if each.outcome == "delete"}
    for name in asked:
        image = by_name.get(name)
        if image is None:
            full = name if name in told else f"docker.io/{name}"
            assert told[full].outcome == "absent"
            continue
        names = [*image.references, *image.digests]
        held = (
            image.containers
            or PAUSE in names
            or {*names, image.id} & set(wish.needed)
            or any(kept_by(pattern, each) for pattern in wish.keep for each in names)
        )
        assert (name in gone) is not bool(held)
    left = [image for image in images if not image.references or not set(image.references) <= gone]
    assert freed_bytes(verdicts) == on_disk(images) - on_disk(left)


@given(inventories(), rules)
def test_a_dry_run_is_the_same_plan(images, wish):
    dry = CleanRules(**{name: getattr(wish, name) for name in wish.__struct_fields__} | {"dry_run": True})
    assert plan(images, dry, now=NOW, free_bytes=7) == plan(images, wish, now=NOW, free_bytes=7)


@pytest.mark.parametrize(
    ("pattern", "reference", "wanted"),
    [
        ("nginx", "docker.io/library/nginx:1.27", True),
        ("nginx:*", "docker.io/library/nginx:1.27", True),
        ("nginx:1.2?", "docker.io/library/nginx:1.27", True),
        ("nginx:1", "docker.io/library/nginx:1.27", False),
        ("shop/*", "10.0.0.1:5000/shop/api:1", True),
        ("10.0.0.1:5000/*", "10.0.0.1:5000/shop/api:1", True),
        ("api", "10.0.0.1:5000/shop/api:1", False),
        ("[n]ginx", "docker.io/library/nginx:1.27", False),
        ("shop/*", "docker.io/workshop/api:1", False),
        ("*@sha256:" + "0" * 64, "reg.test/a@sha256:" + "0" * 64, True),
    ],
)
def test_patterns(pattern, reference, wanted):
    assert matches(pattern, reference) is wanted


@pytest.mark.parametrize(("free", "until"), [(16, None), (15, 20), (0, 20)], ids=["84 % used", "85 % used", "full"])
def test_pressure_begins_at_the_upper_mark_and_ends_below_the_lower_one(free, until):
    found = under_pressure(100, free, Watermarks())
    assert (found.until_free_bytes if found else None) == until


def test_an_unknown_disk_is_under_no_pressure():
    assert under_pressure(0, 0, Watermarks()) is None


def test_without_sizes_of_layers_an_image_is_what_it_says():
    images = [NodeImage(id=f"sha256:{n:064x}", size_bytes=90, layers=("sha256:a", f"sha256:{n}")) for n in range(2)]
    assert freed_bytes(plan(images, CleanRules(), now=NOW, free_bytes=0)) == 135
