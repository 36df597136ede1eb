"""`fallow image`: what is asked for, what is shown meanwhile, and how it ends."""

import io
import json
import re
from typing import Any

import msgspec
import pytest
from cli_fake_api import Asked, FakeApi, listing
from conftest import Fallow
from rich.console import Console

from fallow.cli import image_progress, output
from fallow.cli.failures import Failure
from fallow.cli.image_targets import target_of
from fallow.model.image_jobs import CleanRules, ImageAction, ImageTarget, JobState, TaskState, Verdict
from fallow.model.image_requests import (
    DriftView,
    ImageJobRequest,
    ImageJobView,
    ImageTaskView,
    ImageView,
    JobCounts,
    NodeImagesView,
)
from fallow.model.image_schedules import ImageScheduleView
from fallow.model.images import NodeImage

REFERENCE = "docker.io/library/nginx:1.27"


def job(**more: Any) -> ImageJobView:
    given: dict[str, Any] = {
        "id": "i-1", "action": ImageAction.PULL, "reference": REFERENCE, "digest": "sha256:" + "d" * 64,
        "target": ImageTarget(), "rules": None, "instruction": "fallow image pull nginx:1.27 --on all",
        "project": "default", "parallel": "20", "canary": False, "max_failures": "10%", "attempts": 3,
        "attempt_seconds": 600.0, "stall_seconds": 60.0, "deadline_at": 0.0, "wait_for_nodes": False,
        "state": JobState.RUNNING, "reason": "", "created_at": 1000.0, "created_by": "api:ci", "ended_at": 0.0,
        "deployment": "", "schedule": "", "counts": JobCounts(nodes=2, queued=1, working=1), "fetched_bytes": 0,
        "freed_bytes": 0,
    }  # fmt: skip
    return ImageJobView(**given | more)


def task(node: str, state: TaskState = TaskState.DONE, **more: Any) -> ImageTaskView:
    given: dict[str, Any] = {
        "id": f"i-1.n-{node}", "job_id": "i-1", "node": node, "node_id": f"n-{node}", "action": ImageAction.PULL,
        "reference": REFERENCE, "instruction": "", "state": state, "attempt": 1, "created_at": 1000.0,
        "started_at": 1000.0, "ended_at": 1004.7 if state is not TaskState.WORKING else 0.0, "seconds": 4.7,
        "not_before": 0.0, "kind": "", "text": "", "current_bytes": 0, "total_bytes": 0, "fetched_bytes": 0,
        "freed_bytes": 0, "image_id": "", "unchanged": False, "verdicts": (), "log": (),
    }  # fmt: skip
    return ImageTaskView(**given | more)


class Course:
    """A job that goes one step on at every look."""

    def __init__(self, api: FakeApi, *steps: tuple[ImageJobView, list[ImageTaskView]]) -> None:
        self.steps = list(steps)
        api.on("POST /v1/image-jobs", steps[0][0])
        api.on("GET /v1/image-jobs/i-1", self.job)
        api.on("GET /v1/image-tasks", lambda _: listing(*self.steps[0][1]))

    def job(self, _: Asked) -> ImageJobView:
        if len(self.steps) > 1:
            self.steps.pop(0)
        return self.steps[0][0]


END = job(
    state=JobState.COMPLETED, reason="2 of 2 nodes are done", counts=JobCounts(nodes=2, done=2), fetched_bytes=3 << 20
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_progress, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("all", ImageTarget()),
        ("role=web,disk.free<20GiB", ImageTarget(selector="role=web,disk.free<20GiB")),
        ("@west", ImageTarget(selector="@west")),
        ("web-1", ImageTarget(names=("web-1",))),
        ("web-1,web-2,web-1", ImageTarget(names=("web-1", "web-2"))),
        ("label:gpu", ImageTarget(selector="label:gpu")),
        ("10%", ImageTarget(percent=10)),
        ("10%:zone in (a,b)", ImageTarget(percent=10, selector="zone in (a,b)")),
        ("100%:all", ImageTarget()),
    ],
)
def test_on_says_whom(text: str, meant: ImageTarget) -> None:
    assert target_of(text) == meant


def test_on_is_needed() -> None:
    with pytest.raises(Failure, match="On which nodes"):
        target_of(" ")


def test_pull_asks_shows_each_node_and_sums_up(api: FakeApi, fallow: Fallow) -> None:
    Course(
        api, (job(), []), (job(), [task("a", fetched_bytes=3 << 20), task("b", TaskState.WORKING)]),
        (END, [task("a", fetched_bytes=3 << 20), task("b", unchanged=True)]),
    )  # fmt: skip
    ran = fallow("image", "pull", "nginx:1.27", "--on", "10%:role=web", "--parallel", "5", "--strategy", "canary")
    assert ran.code == 0, ran
    assert ran.err.splitlines() == ["a: done after 4.7 s, 3 MiB", "b: done after 4.7 s: it was there already"]
    assert ran.out.splitlines()[-1] == "i-1 is completed: 2 of 2 nodes are done; 3 MiB fetched"
    (asked,) = api.bodies("POST /v1/image-jobs")
    request = msgspec.convert(asked, ImageJobRequest)
    assert (request.parallel, request.canary, request.target) == (
        "5",
        True,
        ImageTarget(percent=10, selector="role=web"),
    )
    (first,) = [each for each in api.asked if each.method == "POST"]
    assert len(first.headers["Idempotency-Key"]) == 32


def test_on_a_terminal_each_node_at_work_has_a_bar_with_bytes_and_all_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "stderr", lambda: Console(file=screen, force_terminal=True, width=120))
    at_work = [
        task("a", TaskState.WORKING, current_bytes=1 << 20, total_bytes=4 << 20),
        task("b", TaskState.WORKING, text="waiting"),
        task("c"),
    ]
    with image_progress.Bars() as bars:
        bars.draw(job(counts=JobCounts(nodes=3, working=2, done=1), fetched_bytes=2 << 20), at_work)
        lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).splitlines() if line.strip()]
        assert [line.split()[0] for line in lines[-3:]] == ["all", "a", "b"]
        assert lines[-3].rstrip().endswith("1 of 3 done, 2 working, 3 MiB")
        assert lines[-2].rstrip().endswith("1 MiB of 4 MiB")
        assert lines[-1].rstrip().endswith("waiting")
        bars.draw(END, [])
    assert "2 of 2 done, 3 MiB" in screen.getvalue()


def test_nodes_that_fail_are_told_and_end_it_with_a_code(api: FakeApi, fallow: Fallow) -> None:
    failed = task("b", TaskState.FAILED, attempt=3, kind="denied", text="unauthorized: \x1b[31mno")
    end = job(state=JobState.COMPLETED, counts=JobCounts(nodes=2, done=1, failed=1))
    Course(api, (job(), []), (end, [task("a"), failed]))
    ran = fallow("image", "pull", "nginx:1.27", "--on", "all")
    assert ran.code == 1
    assert "denied: unauthorized: ?[31mno" in ran.out
    ran = fallow("image", "pull", "nginx:1.27", "--on", "all", "--json")
    assert ran.code == 1
    assert [each["state"] for each in json.loads(ran.out)["tasks"]] == ["done", "failed"]


def test_detach_says_where_to_look_and_a_dry_run_whom_it_would_reach(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/image-jobs", job())
    ran = fallow("image", "pull", "nginx:1.27", "--on", "all", "--detach")
    assert (ran.code, ran.out) == (0, "i-1: begun on 2 nodes; fallow image job show i-1\n")
    api.on("POST /v1/image-jobs", job(id="", nodes=("a", "b")))
    ran = fallow("image", "pull", "nginx:1.27", "--on", "all", "--dry-run")
    assert ran.out.splitlines() == [f"would pull {REFERENCE} (sha256:dddddddddddd...) on 2 nodes:", "  a", "  b"]


def test_delete_dry_run_says_for_each_node_what_would_happen(api: FakeApi, fallow: Fallow) -> None:
    verdicts = (
        Verdict(reference=REFERENCE, outcome="delete", size_bytes=1 << 20),
        Verdict(reference=REFERENCE, outcome="in-use", text="web-0 uses it"),
        Verdict(reference=REFERENCE, outcome="absent"),
        Verdict(reference=REFERENCE, outcome="protected", text="loaded from a file"),
    )
    tasks = [task(name, verdicts=(verdict,)) for name, verdict in zip("abcd", verdicts, strict=True)]
    end = job(action=ImageAction.DELETE, state=JobState.COMPLETED, counts=JobCounts(nodes=4, done=4))
    Course(api, (job(), []), (end, tasks))
    ran = fallow("image", "delete", "nginx:1.27", "--on", "all", "--dry-run")
    assert ran.code == 0, ran
    rows = [line.split(None, 2) for line in ran.out.splitlines()[1:5]]
    assert rows[0] == ["a", REFERENCE, "would delete   1 MiB   -"]
    assert rows[1][2] == "in use         -       web-0 uses it"
    assert (rows[2][2].split()[0], rows[3][2].split()[0]) == ("absent", "protected")
    assert api.bodies("POST /v1/image-jobs")[0]["dry_run"] is True


def test_clean_sends_its_rules(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/image-jobs", job())
    ran = fallow(
        "image", "clean", "--on", "disk.free<20GiB", "--keep", "shop/*", "--keep", "x", "--unused-for", "7d",
        "--until-free", "40GiB", "--keep-versions", "2", "--no-dangling", "--detach",
    )  # fmt: skip
    assert ran.code == 0, ran
    rules = msgspec.convert(api.bodies("POST /v1/image-jobs")[0], ImageJobRequest).rules
    assert rules == CleanRules(
        keep=("shop/*", "x"), unused_for_seconds=604800.0, until_free_bytes=40 << 30, keep_versions=2, dangling=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "nginx"),
        ("pull", "nginx", "--on", "all", "--parallel", "none"),
        ("pull", "nginx", "--on", "all", "--timeout", "soon"),
        ("pull", "nginx", "--on", "all", "--max-failures", "-1"),
        ("clean", "--on", "all", "--until-free", "much"),
        ("schedule", "create", "x", "--cron", "* * * * *", "--on", "all"),
        ("schedule", "create", "x", "--cron", "* * * * *", "--on", "all", "--pull", "a", "--clean"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_asked(
    api: FakeApi, fallow: Fallow, arguments: tuple[str, ...]
) -> None:
    ran = fallow("image", *arguments)
    assert ran.code == 2, ran
    assert not api.asked


def test_update_has_the_deployments_rolled_that_use_it_whoever_waits(api: FakeApi, fallow: Fallow) -> None:
    Course(api, (job(), []), (msgspec.structs.replace(END, renewed=("shop/web",)), [task("a")]))
    ran = fallow("image", "update", "nginx:1.27", "--on", "all", "--roll")
    assert ran.code == 0, ran
    assert ran.out.splitlines()[-1] == "shop/web: its replicas are renewed"
    assert fallow("image", "update", "nginx:1.27", "--on", "all", "--roll", "--detach").code == 0
    assert fallow("image", "update", "nginx:1.27", "--on", "all").code == 0
    assert [body.get("roll", False) for body in api.bodies("POST /v1/image-jobs")] == [True, True, False]


def test_a_dry_run_of_a_roll_says_what_would_be_renewed(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/image-jobs", job(id="", nodes=("a",), renewed=("shop/web",)))
    ran = fallow("image", "update", "nginx:1.27", "--on", "all", "--roll", "--dry-run")
    assert ran.out.splitlines()[1:] == ["  a", "would then renew shop/web"]


def test_who_has_what_and_what_drifted(api: FakeApi, fallow: Fallow) -> None:
    id_ = "sha256:" + "1" * 64
    view = ImageView(
        id=id_, references=(REFERENCE,), digests=(), architecture="amd64", size_bytes=1 << 20, layers=3,
        shared_layers=2, nodes=("a", "b", "c", "d"), in_use_on=("a",),
    )  # fmt: skip
    api.on("GET /v1/images", listing(view))
    ran = fallow("image", "list", "--image", "nginx")
    assert "2 of 3" in ran.out
    assert "4: a, b, c ..." in ran.out
    assert api.asked[-1].query == {"image": "nginx"}
    node = NodeImagesView(
        node="a", node_id="n-a", images=(NodeImage(id=id_, references=(REFERENCE,)),), omitted=0, image_bytes=0,
        disk_bytes=0, disk_free_bytes=5 << 30, seen_at=1.0,
    )  # fmt: skip
    api.on("GET /v1/node-images", listing(node))
    assert "1 images on a, 5 GiB free" in fallow("image", "list", "--node", "a").out
    api.on("GET /v1/images/drift", listing())
    assert fallow("image", "drift").code == 0
    moved = DriftView(node="a", reference=REFERENCE, kind="other-image", wanted=id_, found="x", because="image job i-1")
    api.on("GET /v1/images/drift", listing(moved))
    ran = fallow("image", "drift", "--resolve")
    assert (ran.code, "other-image" in ran.out, api.asked[-1].query) == (1, True, {"resolve": "true"})


@pytest.mark.parametrize("change", ["pause", "resume", "cancel", "retry"])
def test_jobs_are_changed(api: FakeApi, fallow: Fallow, change: str) -> None:
    api.on(f"POST /v1/image-jobs/i-1/{change}", job())
    ran = fallow("image", "job", change, "i-1")
    assert ran.out == "i-1 is running: 0 of 2 done, 1 working\n"
    assert json.loads(fallow("image", "job", change, "i-1", "--json").out)["id"] == "i-1"


def test_jobs_are_listed_shown_and_their_record_is_read(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/image-jobs", listing(job()))
    assert "0 of 2 done, 1 working" in fallow("image", "job", "list", "--state", "running").out
    assert api.asked[-1].query == {"state": "running", "limit": "100"}
    api.on("GET /v1/image-jobs/i-1", END)
    pages: dict[str, Any] = {
        "": listing(task("b", log=("T two",))) | {"next": "9-x"}, "9-x": listing(task("a", log=("T one", "T \x07"))),
    }  # fmt: skip
    api.on("GET /v1/image-tasks", lambda asked: pages[asked.query.get("after", "")])
    ran = fallow("image", "job", "show", "i-1")
    assert "fallow image pull nginx:1.27 --on all" in ran.out
    assert "i-1 is completed" in ran.out
    ran = fallow("image", "job", "logs", "i-1", "--node", "a", "--since", "2h", "--state", "done", "--image", "x")
    assert ran.out.splitlines() == ["a i-1 | T one", "a i-1 | T ?", "b i-1 | T two"]
    asked = api.asked[-1].query
    assert {key: asked[key] for key in ("job", "node", "state", "image")} == {
        "job": "i-1", "node": "a", "state": "done", "image": "x",
    }  # fmt: skip
    assert float(asked["since"]) > 1_000_000
    api.on("GET /v1/image-tasks/export.csv", "id,job_id\n")
    assert fallow("image", "job", "export", "--format", "csv").out == "id,job_id\n"


def test_schedules(api: FakeApi, fallow: Fallow) -> None:
    request = ImageJobRequest(action=ImageAction.UPDATE, reference="shop/api:prod", target=ImageTarget())
    view = ImageScheduleView(
        name="nightly", cron="30 3 * * *", request=request, next_at=1.0, last_at=0.0, last_job="", problem="",
        created_at=1.0, created_by="api:ci",
    )  # fmt: skip
    api.on("POST /v1/image-schedules", view)
    ran = fallow(
        "image", "schedule", "create", "nightly", "--cron", "30 3 * * *", "--update", "shop/api:prod", "--on", "all"
    )
    assert ran.out.startswith("nightly: first at ")
    body = api.bodies("POST /v1/image-schedules")[0]
    assert (body["cron"], body["request"]["action"]) == ("30 3 * * *", "update")
    api.on("GET /v1/image-schedules", listing(view))
    assert "30 3 * * *" in fallow("image", "schedule", "list").out
    api.on("DELETE /v1/image-schedules/nightly", "")
    assert fallow("image", "schedule", "delete", "nightly").out == "nightly: deleted\n"
