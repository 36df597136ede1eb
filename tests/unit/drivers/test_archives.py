"""Archives of images, as `docker save`, `podman save` and people with bad intentions write them."""

import gzip
import json
import tarfile

import pytest
from archive_files import CONFIG, LAYERS, docker, oci, tar

from fallow.drivers.archives import ArchiveError, Limits, read_archive
from testbed.blobs import digest_of

ROOMY = Limits(keep_free_bytes=0)


@pytest.fixture
def read(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()

    def reading(content: bytes, limits: Limits = ROOMY):
        path = tmp_path / "upload"
        path.write_bytes(content)
        found = read_archive(path, blobs, limits)
        for image in found:
            for platform in image.platforms:
                for blob in (platform.manifest, *platform.layers):
                    assert digest_of((blobs / blob.digest[7:]).read_bytes()) == blob.digest
                assert digest_of((blobs / platform.image_id[7:]).read_bytes()) == platform.image_id
        return found

    return reading


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_docker_saves_becomes_an_image_with_the_same_id(read, pack):
    (image,) = read(pack(tar(docker())))
    assert image.reference == "docker.io/library/shop:1"
    found = image.for_architecture("amd64")
    assert found.image_id == digest_of(CONFIG)
    assert [layer.digest for layer in found.layers] == [digest_of(each) for each in LAYERS]
    assert image.digest == found.manifest.digest


def test_an_image_of_several_names_is_there_under_each(read):
    assert [each.reference for each in read(tar(docker(RepoTags=["shop:1", "registry.test:5000/shop:2"])))] == [
        "docker.io/library/shop:1",
        "registry.test:5000/shop:2",
    ]


def test_a_layer_that_docker_linked_is_found(read):
    files = docker(Layers=["a/layer.tar", "b/layer.tar"])
    del files["b/layer.tar"]
    config = json.loads(CONFIG)
    config["rootfs"]["diff_ids"] = [digest_of(LAYERS[0])] * 2
    files["c.json"] = json.dumps(config).encode()
    (image,) = read(tar(files, links=[("b/layer.tar", "../a/layer.tar")]))
    assert [layer.digest for layer in image.platforms[0].layers] == [digest_of(LAYERS[0])] * 2


def test_an_oci_layout_keeps_its_digests(read):
    (image,) = read(tar(oci()))
    assert image.reference == "registry.test/shop/api:1"
    assert image.platforms[0].image_id == digest_of(CONFIG)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "neither"),
        ({"manifest.json": b"{"}, "cannot be read"),
        ({"manifest.json": b"[]"}, "no image"),
        (docker(RepoTags=None), "no image"),
        (docker(RepoTags=["shop:1\n"]), "reference"),
        (docker(Layers=["a/layer.tar"]), "not those"),
        (docker(Layers=["a/layer.tar", "../../etc/passwd"]), "not in it"),
        (docker(Config="gone.json"), "not in it"),
        (docker() | {"../../outside": b"x"}, "leads out"),
        (docker() | {"/etc/cron.d/x": b"x"}, "leads out"),
        (oci() | {f"blobs/sha256/{'0' * 64}": b"x"}, "not what its name"),
        (oci({}), "no image"),
    ],
)
def test_what_cannot_be_used_is_refused_with_words(read, tmp_path, files, why):
    with pytest.raises(ArchiveError, match=why):
        read(tar(files))
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("content", [b"", b"not a tar", tar(docker())[:1500], gzip.compress(tar(docker()))[:-20]])
def test_what_is_no_whole_tar_is_refused(read, content):
    with pytest.raises(ArchiveError):
        read(content)


def test_devices_and_hard_links_are_refused_and_links_lead_nowhere(read):
    for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE):
        with pytest.raises(ArchiveError, match="neither"):
            read(tar(docker(), links=[("x", "a/layer.tar")], kind=kind))
    files = docker()
    del files["c.json"]
    with pytest.raises(ArchiveError, match="not in it"):
        read(tar(files, links=[("c.json", "/etc/passwd")]))


def test_a_bomb_is_noticed_before_it_fills_the_disk(read):
    bomb = gzip.compress(tar({"manifest.json": b"[]", "big": bytes(10_000_000)}))
    assert len(bomb) < 100_000
    with pytest.raises(ArchiveError, match="unpacks to more"):
        read(bomb, Limits(total_bytes=1_000_000, keep_free_bytes=0))
    with pytest.raises(ArchiveError, match="more than 3 files"):
        read(tar(docker()), Limits(files=3, keep_free_bytes=0))
    with pytest.raises(ArchiveError, match="no room"):
        read(tar(docker()), Limits(keep_free_bytes=2**60))
    with pytest.raises(ArchiveError, match="too large"):
        read(tar({"manifest.json": b" " * 5_000_000}))
