"""Files of images over the API: taken in as they come, refused with words, one job an image."""

import json

from api_rig import Rig
from archive_files import docker, oci, tar
from records import member

from fallow.control import archives
from fallow.model.image_jobs import ImageAction, ImageJob

PATH = "/v1/image-archives"


async def load(rig: Rig, content: bytes, role: str = "operator", **query):
    headers = {"Idempotency-Key": query.pop("key", "")}
    return await rig.call("POST", PATH, role, content=content, params=query, headers=headers)


async def test_a_file_becomes_a_job_for_each_of_its_images(rig: Rig) -> None:
    await rig.put(member("web-1", revision=0, labels={"role": "web"}), member("web-2", revision=0))
    target = json.dumps({"selector": "role=web", "percent": 50})
    answer = await load(
        rig, tar(docker(RepoTags=["shop:1", "shop:latest"])), target=target, parallel="10%", canary="true", key="k"
    )
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told["nodes"] == ["web-1"]
    assert [each["reference"] for each in told["images"]] == [
        "docker.io/library/shop:1",
        "docker.io/library/shop:latest",
    ]
    jobs = [rig.services.cache.get("image-jobs", id_) for id_ in told["jobs"]]
    for job, image in zip(jobs, told["images"], strict=True):
        assert isinstance(job, ImageJob)
        assert (job.action, job.reference, job.parallel, job.canary) == (
            ImageAction.LOAD,
            image["reference"],
            "10%",
            True,
        )
        assert job.image is not None
        assert job.image.digest == image["digest"]
        assert (job.target.selector, job.target.percent) == ("role=web", 50)
    again = await load(rig, tar(docker(RepoTags=["shop:1", "shop:latest"])), target=target, parallel="10%", key="k")
    assert again.json()["jobs"] == told["jobs"]


async def test_whom_it_would_reach_is_told_without_a_file(rig: Rig) -> None:
    await rig.put(member("web-1", revision=0, labels={"role": "web"}), member("web-2", revision=0))
    for target, nodes in (("{}", ["web-1", "web-2"]), ('{"selector":"role=web"}', ["web-1"])):
        answer = await rig.call("GET", f"{PATH}/reach", "operator", params={"target": target})
        assert answer.json() == {"images": [], "jobs": [], "size_bytes": 0, "nodes": nodes}
    for target, status in (('{"selector":"role=none"}', 404), ('{"names":["gone"]}', 404), ("{", 400)):
        answer = await rig.call("GET", f"{PATH}/reach", "operator", params={"target": target})
        assert answer.status_code == status
    assert not rig.services.cache.snapshot().image_jobs


async def test_bad_files_and_targets_are_refused_and_leave_nothing(rig: Rig, monkeypatch) -> None:
    await rig.put(member("web-1", revision=0))
    for content, target, status, word in (
        (b"no tar", "{}", 422, "tar"),
        (tar({}), "{}", 422, "neither"),
        (tar(docker()), "{", 400, "target"),
        (tar(docker()), '{"selector":"=="}', 400, "selector"),
        (tar(docker()), '{"names":["gone"]}', 404, "gone"),
        (tar(docker()), '{"selector":"role=none"}', 404, "Nobody"),
    ):
        answer = await load(rig, content, target=target)
        assert answer.status_code == status, answer.text
        assert word in answer.text
    monkeypatch.setattr(rig.services.archives, "_max_bytes", 1000)
    assert (await load(rig, tar(docker()))).status_code == 422
    assert not list(rig.services.archives._folder.iterdir())
    assert (await load(rig, tar(docker()), "viewer")).status_code == 403
    assert not rig.services.cache.snapshot().image_jobs


async def test_what_was_taken_in_is_there_after_a_restart_and_drafts_are_not(rig: Rig, tmp_path) -> None:
    (image,) = await rig.services.archives.store(_pieces(tar(oci())))
    (rig.services.archives._folder / "draft-x").mkdir()
    again = archives.Archives(rig.services.archives._folder)
    again._load()
    platform = image.platforms[0]
    for digest in (platform.manifest.digest, platform.image_id, *(layer.digest for layer in platform.layers)):
        assert await again._blob(digest) is not None
    assert not (rig.services.archives._folder / "draft-x").exists()
    assert again.sources(platform) == ()  # it does not serve yet


async def _pieces(content: bytes):
    yield content
