"""Image jobs over the API: whom they reach, what is refused, what is kept, and what nodes have."""

import csv
import io
from typing import Any

import msgspec
import pytest
from api_rig import NOW, Rig, node, problem

from fallow.control.refusals import Refused, refuse
from fallow.model.image_jobs import ImageJob, ImageTask, TaskProgress, TaskState, Verdict
from fallow.model.images import Blob, NodeImage, NodeImages, PlatformImage, ResolvedImage
from fallow.model.members import Facts

ID, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
DIGEST = "sha256:" + "d" * 64


class Registry:
    """What references stand for; `trouble` is raised instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.trouble: Refused | None = None
        self.rules: object | None = None
        self.id = ID

    async def resolve(self, reference: str, project: str, *, since: float) -> ResolvedImage:
        self.asked.append((reference, project))
        if self.trouble is not None:
            raise self.trouble
        manifest = Blob(digest=DIGEST, size_bytes=9)
        return ResolvedImage(
            reference=reference, digest=DIGEST, resolved_at=NOW,
            platforms=(PlatformImage(platform="linux/amd64", manifest=manifest, image_id=self.id),),
        )  # fmt: skip

    def policy(self, project: str) -> object | None:
        return self.rules


@pytest.fixture
async def registry(rig: Rig) -> Registry:
    facts = Facts(architecture="amd64")
    for name, role in (("a", "web"), ("b", "web"), ("c", "db")):
        await rig.put(node(name, f"n-{name}", labels={"role": role}, facts=facts, key_sha256=name * 64))
    found = Registry()
    rig.services.image_requests.resolver = found
    return found


def pull(**more: Any) -> dict[str, Any]:
    return {"action": "pull", "reference": "nginx:1.27", "target": {"selector": "role=web"}} | more


def task(job: str, name: str, **more: Any) -> ImageTask:
    values: dict[str, Any] = {
        "id": f"{job}.n-{name}", "created_at": NOW, "updated_at": NOW, "job_id": job, "member_id": f"n-{name}",
        "member_name": name, "state": TaskState.DONE, "started_at": NOW, "ended_at": NOW + 2,
    }  # fmt: skip
    return ImageTask(**values | more)


async def test_a_job_is_resolved_once_and_kept_with_who_when_whom_and_what(rig: Rig, registry: Registry) -> None:
    made = await rig.call("POST", "/v1/image-jobs", json=pull(instruction="image pull nginx:1.27"), role="operator")
    assert made.status_code == 201, made.text
    body = made.json()
    assert registry.asked == [("docker.io/library/nginx:1.27", "default")]
    assert (body["reference"], body["digest"]) == ("docker.io/library/nginx:1.27", DIGEST)
    assert (body["created_by"], body["created_at"], body["instruction"]) == (
        "api:a-operator", NOW, "image pull nginx:1.27",
    )  # fmt: skip
    assert body["counts"]["nodes"] == body["counts"]["queued"] == 2
    assert body["deadline_at"] == NOW + 86400
    (stored,) = rig.services.cache.snapshot().image_jobs.values()
    assert stored.image is not None
    assert (await rig.call("GET", f"/v1/image-jobs/{stored.id}", role="viewer")).json() == body
    assert (await rig.call("GET", "/v1/image-jobs?state=running&action=pull")).json()["items"] == [body]
    assert (await rig.call("GET", "/v1/image-jobs?state=paused")).json()["items"] == []


async def test_a_repeated_request_with_its_key_makes_one_job(rig: Rig, registry: Registry) -> None:
    headers = {"Idempotency-Key": "key-1234"}
    first, second = [await rig.call("POST", "/v1/image-jobs", json=pull(), headers=headers) for _ in range(2)]
    assert first.json()["id"] == second.json()["id"]
    other = await rig.call("POST", "/v1/image-jobs", json=pull(), headers=headers, role="operator")
    assert other.json()["id"] != first.json()["id"], "another's key is another key"
    assert len(rig.services.cache.snapshot().image_jobs) == 2
    problem(await rig.call("POST", "/v1/image-jobs", json=pull(), headers={"Idempotency-Key": "x"}), 400, "bad-request")


async def test_a_dry_run_says_whom_a_pull_would_reach_and_writes_nothing(rig: Rig, registry: Registry) -> None:
    told = (await rig.call("POST", "/v1/image-jobs", json=pull(dry_run=True))).json()
    assert (told["id"], told["nodes"], told["digest"]) == ("", ["a", "b"], DIGEST)
    half = pull(dry_run=True, target={"percent": 34})
    assert len((await rig.call("POST", "/v1/image-jobs", json=half)).json()["nodes"]) == 2
    assert not rig.services.cache.snapshot().image_jobs
    delete = {"action": "delete", "reference": "nginx:1.27", "target": {}, "dry_run": True}
    made = (await rig.call("POST", "/v1/image-jobs", json=delete)).json()
    assert (made["rules"]["dry_run"], made["rules"]["references"]) == (True, ["docker.io/library/nginx:1.27"])


async def test_what_cannot_be_is_refused_with_what_to_do(rig: Rig, registry: Registry) -> None:
    async def refused(status: int, code: str, **body: Any) -> str:
        return str(problem(await rig.call("POST", "/v1/image-jobs", json=pull(**body)), status, code)["detail"])

    assert "of 3 nodes there is none that 'role=gpu' selects" in await refused(
        404, "nobody-meant", target={"selector": "role=gpu"}
    )
    await refused(404, "not-found", target={"names": ["a", "nobody"]})
    await refused(400, "bad-selector", target={"selector": "role in ("})
    await refused(400, "bad-selector", target={"selector": "@gone"})
    await refused(400, "bad-request", target={"names": ["a"], "selector": "x"})
    for reference in ("Nginx:1", "nginx:1\u0007", "a b", "nginx@sha256:12", "../x", "x" * 500):
        await refused(422, "bad-reference", reference=reference)
    await refused(400, "bad-request", reference="")
    await refused(400, "bad-request", action="load")
    await refused(400, "bad-request", action="clean")
    await refused(400, "bad-request", rules={})
    await refused(400, "bad-request", roll=True)
    await refused(400, "bad-request", parallel="0")
    await refused(400, "bad-request", attempts=1000)
    registry.trouble = refuse(422, "image-not-found", "No such image", "manifest unknown")
    assert await refused(422, "image-not-found") == "manifest unknown"
    assert not rig.services.cache.snapshot().image_jobs


async def test_a_registry_that_cannot_be_asked_leaves_it_to_the_nodes_unless_rules_demand_to_know(
    rig: Rig, registry: Registry
) -> None:
    class Away(Refused):
        kind = "unreachable"

    registry.trouble = Away(refuse(502, "image-unreachable", "The registry cannot be reached", "no route").problem)
    made = await rig.call("POST", "/v1/image-jobs", json=pull())
    assert (made.status_code, made.json()["digest"]) == (201, "")
    registry.rules = object()
    problem(await rig.call("POST", "/v1/image-jobs", json=pull()), 502, "image-unreachable")


async def test_a_selector_that_picks_nobody_may_wait(rig: Rig, registry: Registry) -> None:
    made = await rig.call("POST", "/v1/image-jobs", json=pull(target={"selector": "role=gpu"}, wait_for_nodes=True))
    assert (made.status_code, made.json()["state"], made.json()["counts"]["nodes"]) == (201, "running", 0)


async def test_a_job_is_paused_resumed_cancelled_and_tried_again(rig: Rig, registry: Registry) -> None:
    id_ = (await rig.call("POST", "/v1/image-jobs", json=pull())).json()["id"]

    async def do(what: str, role: str = "operator") -> Any:
        return await rig.call("POST", f"/v1/image-jobs/{id_}/{what}", role=role)

    for what, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert (await do(what)).json()["state"] == state
    problem(await do("pause"), 409, "job-ended")
    problem(await do("resume"), 409, "job-ended")
    assert (await do("cancel")).status_code == 200
    rig.clock.now += 100
    again = (await do("retry")).json()
    assert (again["state"], again["reason"], again["ended_at"]) == ("running", "", 0)
    assert again["deadline_at"] == NOW + 100 + 86400
    problem(await do("retry"), 409, "nothing-failed")
    problem(await rig.call("POST", "/v1/image-jobs/none/pause"), 404, "not-found")
    told = [each["reason"] for each in (await rig.call("GET", f"/v1/events?subject={id_}")).json()["items"]]
    assert told == [
        "ImageJobCreated", "ImageJobPaused", "ImageJobResumed", "ImageJobCancelled", "ImageJobRetried",
    ]  # fmt: skip


async def test_the_record_is_searched_paged_and_exported(rig: Rig, registry: Registry) -> None:
    id_ = (await rig.call("POST", "/v1/image-jobs", json=pull())).json()["id"]
    failed = task(id_, "a", state=TaskState.FAILED, kind="denied", text="=cmd|'/c calc'!A1", created_at=NOW + 1)
    await rig.put(failed, task(id_, "b", image_id=ID, log=("one", "two")), task(id_, "c", created_at=NOW - 500))
    rig.services.image_progress  # noqa: B018

    async def names(query: str) -> list[str]:
        answer = await rig.call("GET", f"/v1/image-tasks?{query}", role="viewer")
        assert answer.status_code == 200, answer.text
        return [each["node"] for each in answer.json()["items"]]

    assert await names("") == ["a", "b", "c"]
    assert await names("node=b") == await names("node=n-b") == ["b"]
    assert await names("state=failed") == ["a"]
    assert await names(f"since={NOW + 1}") == ["a"]
    assert await names(f"until={NOW - 1}") == ["c"]
    assert await names("image=nginx:1.27") == await names(f"image={DIGEST}") == ["a", "b", "c"]
    assert await names(f"image={ID}") == ["b"]
    assert await names("image=other") == []
    assert await names(f"job={id_}&limit=2") == ["a", "b"]

    page = (await rig.call("GET", f"/v1/image-jobs/{id_}/tasks?limit=2")).json()
    rest = (await rig.call("GET", f"/v1/image-jobs/{id_}/tasks?limit=2&after={page['next']}")).json()
    assert ([each["node"] for each in rest["items"]], rest["next"]) == (["c"], "")
    problem(await rig.call("GET", "/v1/image-tasks?after=nowhere"), 400, "bad-request")
    problem(await rig.call("GET", "/v1/image-jobs/none/tasks"), 404, "not-found")
    (one,) = (await rig.call("GET", "/v1/image-tasks?node=b")).json()["items"]
    assert (one["instruction"], one["seconds"], one["log"]) == (
        "image pull nginx:1.27 --on role=web", 2.0, ["one", "two"],
    )  # fmt: skip

    exported = await rig.call("GET", "/v1/image-tasks/export.csv?state=failed", role="viewer")
    assert exported.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(exported.text))
    assert (row["node"], row["kind"], row["text"]) == ("a", "denied", "'=cmd|'/c calc'!A1")
    as_json = await rig.call("GET", "/v1/image-tasks/export")
    assert [each["node"] for each in as_json.json()] == ["a", "b", "c"]


async def test_progress_is_shown_while_a_node_works(rig: Rig, registry: Registry) -> None:
    id_ = (await rig.call("POST", "/v1/image-jobs", json=pull())).json()["id"]
    await rig.put(task(id_, "a", state=TaskState.WORKING, ended_at=0.0))
    told = TaskProgress(task_id=f"{id_}.n-a", current_bytes=5, total_bytes=10)
    object.__setattr__(rig.services, "image_progress", {told.task_id: told}.get)
    (one,) = (await rig.call("GET", f"/v1/image-jobs/{id_}/tasks")).json()["items"]
    assert (one["state"], one["current_bytes"], one["total_bytes"]) == ("working", 5, 10)


def has(node_id: str, *images: NodeImage, **more: Any) -> NodeImages:
    return NodeImages(id=node_id, created_at=NOW, updated_at=NOW, images=images, seen_at=NOW + 10, **more)


NGINX = NodeImage(
    id=ID, references=("docker.io/library/nginx:1.27",), architecture="amd64", size_bytes=100, layers=("l1", "l2")
)


async def test_who_has_what(rig: Rig, registry: Registry) -> None:
    old = msgspec.structs.replace(NGINX, id=OTHER, layers=("l1",), containers=1)
    await rig.put(has("n-a", NGINX), has("n-b", NGINX), has("n-c", old), has("n-gone", NGINX))

    async def images(query: str = "") -> list[dict[str, Any]]:
        return list((await rig.call("GET", f"/v1/images{query}", role="viewer")).json()["items"])

    first, second = await images()
    assert (first["id"], first["nodes"], first["layers"], first["shared_layers"]) == (ID, ["a", "b"], 2, 1)
    assert (second["id"], second["in_use_on"]) == (OTHER, ["c"])
    assert [each["id"] for each in await images("?image=nginx")] == [ID, OTHER]
    assert [each["id"] for each in await images(f"?image={OTHER[7:19]}")] == [OTHER]
    assert await images("?image=nginx:1.28") == []
    (only,) = (await rig.call("GET", "/v1/node-images?node=c")).json()["items"]
    assert (only["node"], only["image_bytes"]) == ("c", 100)
    assert len((await rig.call("GET", "/v1/node-images")).json()["items"]) == 3
    problem(await rig.call("GET", "/v1/node-images?node=nobody"), 404, "not-found")


async def test_drift_is_another_image_or_a_missing_one(rig: Rig, registry: Registry) -> None:
    id_ = (await rig.call("POST", "/v1/image-jobs", json=pull())).json()["id"]
    await rig.put(
        task(id_, "a", image_id=ID), task(id_, "b", image_id=ID),
        has("n-a", msgspec.structs.replace(NGINX, id=OTHER)), has("n-b"), has("n-c", NGINX),
    )  # fmt: skip

    async def drift(query: str = "") -> list[tuple[str, str, str]]:
        items = (await rig.call("GET", f"/v1/images/drift{query}", role="viewer")).json()["items"]
        return [(each["node"], each["kind"], each["found"]) for each in items]

    assert await drift() == [("a", "other-image", OTHER), ("b", "missing", "")]
    # The tag moves: what was right before is not any more.
    registry.id = OTHER
    assert await drift("?resolve=true") == [("b", "missing", ""), ("c", "other-image", ID)]
    # What we deleted ourselves is not missing.
    gone = Verdict(reference="docker.io/library/nginx:1.27", outcome="deleted")
    delete = (await rig.call("POST", "/v1/image-jobs", json=pull(action="delete"))).json()["id"]
    await rig.put(task(delete, "b", ended_at=NOW + 5, verdicts=(gone,)))
    assert await drift() == [("a", "other-image", OTHER)]


async def test_schedules_are_made_listed_and_deleted(rig: Rig, registry: Registry) -> None:
    body = {"name": "nightly", "cron": "30 3 * * *", "request": pull(target={"selector": "role=gpu"})}
    made = await rig.call("POST", "/v1/image-schedules", json=body, role="operator")
    assert made.status_code == 201, made.text
    assert NOW < made.json()["next_at"] <= NOW + 86400
    assert (await rig.call("POST", "/v1/image-schedules", json=body, role="operator")).json() == made.json()
    problem(await rig.call("POST", "/v1/image-schedules", json=body | {"cron": "0 0 * * *"}), 409, "name-taken")
    for cron in ("now", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "LW/2 * * * *", "," * 100):
        problem(await rig.call("POST", "/v1/image-schedules", json=body | {"cron": cron}), 422, "bad-cron")
    bad = body | {"request": pull(reference="A B")}
    problem(await rig.call("POST", "/v1/image-schedules", json=bad), 422, "bad-reference")
    (one,) = (await rig.call("GET", "/v1/image-schedules", role="viewer")).json()["items"]
    assert one == made.json()
    assert (await rig.call("DELETE", "/v1/image-schedules/nightly")).status_code == 204
    problem(await rig.call("DELETE", "/v1/image-schedules/nightly"), 404, "not-found")


async def test_a_thousand_open_jobs_are_enough(rig: Rig, registry: Registry) -> None:
    one = (await rig.call("POST", "/v1/image-jobs", json=pull())).json()["id"]
    job = rig.services.cache.snapshot().image_jobs[one]
    assert isinstance(job, ImageJob)
    for start in range(0, 1000, 100):
        await rig.put(*(msgspec.structs.replace(job, id=f"j{n}", revision=0) for n in range(start, start + 100)))
    problem(await rig.call("POST", "/v1/image-jobs", json=pull()), 409, "too-many-jobs")
