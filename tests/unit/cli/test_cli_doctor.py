"""`fallow doctor` and `fallow control`: what is wrong with a control plane, and what the exit code says."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from cli_fake_api import FakeApi, problem
from conftest import Fallow, Ran
from typer.testing import CliRunner

from fallow.cli import checks
from fallow.cli.app import build_cli
from fallow.cli.launchers import DoctorOptions, Launchers
from fallow.client.errors import ApiError, Unreachable, Untrusted
from fallow.model.control import ControlStatus, StoreMember
from fallow.model.doctor import Finding
from fallow.version import VERSION

URL = "https://control.example:7443"
STORE_MEMBERS = (
    StoreMember(address="10.0.0.1:2379", region="west", zone="a", answers=True),
    StoreMember(address="10.0.0.2:2379", answers=False),
)


def status(**more: Any) -> ControlStatus:
    given: dict[str, Any] = {
        "version": VERSION, "schema": 2, "now": time.time(), "log_level": "info", "store_revision": 7,
        "store_seconds": 0.0005, "records": {"members": 2, "events": 10}, "loops": {"members": 0.5, "garbage": 50.0},
        "sessions": 2, "leads": True, "leader": "one https://control.example:7443",
    }  # fmt: skip
    return ControlStatus(**(given | more))


def verdicts(found: Sequence[Finding]) -> dict[str, str]:
    return {one.check: one.verdict for one in found if one.verdict != "ok"}


def judged(expires_in: float | None = 90 * 86400.0, **more: Any) -> dict[str, str]:
    now = 1_900_000_000.0
    given = status(**({"now": now} | more))
    return verdicts(checks.control(URL, given, None if expires_in is None else now + expires_in, (now, now)))


def test_a_healthy_control_plane_has_nothing_to_mend() -> None:
    assert judged() == {}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"now": 1_900_000_003.0}, {"clock": "warning"}),
        ({"now": 1_899_999_000.0}, {"clock": "broken"}),
        ({"expires_in": 86400.0}, {"certificate": "warning"}),
        ({"expires_in": None}, {"certificate": "warning"}),
        ({"version": "99.0"}, {"version": "warning"}),
        ({"not_ready": "the control loops have ended"}, {"ready": "broken"}),
        ({"store_seconds": 0.5}, {"store": "warning"}),
        ({"cache_behind": 5000}, {"store": "warning"}),
        ({"store_members": STORE_MEMBERS}, {"store": "warning"}),
        ({"store_members": STORE_MEMBERS[:1]}, {}),
        ({"loops": {"members": 1.0, "placement": 600.0}}, {"loops": "broken"}),
        ({"loops": {}}, {"loops": "note"}),
        ({"leads": False, "leader": "another https://control-2.example:7443", "peers": 2}, {}),
        ({"leads": False, "leader": ""}, {"leader": "broken"}),
        ({"silent": {"node-1": 90.0, "node-2": -1.0}}, {"members": "warning"}),
        ({"records": {"audit": 300_000}}, {"records": "warning"}),
    ],
)
def test_what_is_wrong_is_found_by_its_own_check(more: dict[str, Any], wanted: dict[str, str]) -> None:
    assert judged(**more) == wanted


def test_a_slow_answer_is_no_difference_of_clocks() -> None:
    found = checks.control(URL, status(now=105.0), None, (100.0, 110.0))
    assert "clock" not in verdicts(found)


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (Unreachable(URL, "nothing listens"), "reachable"),
        (Untrusted(URL, "unknown CA"), "trust"),
        (ApiError(problem(401, "Unauthorized")), "token"),
        (ApiError(problem(404, "Not found")), "version"),
        (ApiError(problem(503, "starting")), "reachable"),
    ],
)
def test_no_answer_says_why_and_what_to_do(error: Any, check: str) -> None:
    found = checks.unanswered(URL, error)
    assert (found.check, found.verdict) == (check, "broken")
    assert found.mend


def run(found: Sequence[Finding], *arguments: str) -> Ran:
    def nothing(_: object) -> int:
        return 0

    def diagnose(_: DoctorOptions) -> Sequence[Finding]:
        return found

    starters = dict.fromkeys(("server", "join", "gateway", "up", "store"), nothing)
    app = build_cli(Launchers(**starters, doctor=diagnose))
    result = CliRunner().invoke(app, ["doctor", *arguments], prog_name="fallow")
    return Ran(result.exit_code, result.stdout, result.stderr)


OK = Finding(check="python", verdict="ok", text="3.11")
WARNING = Finding(check="clock", verdict="warning", text="nobody keeps it right", mend="install chrony")
BROKEN = Finding(check="disk", verdict="broken", text="2 MiB free", mend="make room")


@pytest.mark.parametrize(("found", "code"), [((), 0), ((OK,), 0), ((OK, WARNING), 0), ((WARNING, BROKEN, OK), 1)])
def test_only_what_is_broken_gives_an_exit_code(found: Sequence[Finding], code: int) -> None:
    assert run(found).code == code
    ran = run(found, "--json")
    assert ran.code == code
    assert len(json.loads(ran.out)["machine"]) == len(found)


def test_every_problem_is_told_with_what_to_mend() -> None:
    ran = run((OK, WARNING, BROKEN))
    for told in ("nobody keeps it right", "-> install chrony", "-> make room", "3 checks, 1 broken, 1 with a warning"):
        assert told in ran.out


def test_without_a_context_only_the_machine_is_checked() -> None:
    assert run((OK,)).code == 0
    ran = run((OK,), "--only", "control")
    assert ran.code == 2
    assert "no control plane" in ran.err.lower()


def test_the_control_plane_of_the_context_is_checked(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/control/status", lambda _: status())
    ran = fallow("doctor", "--json")
    assert ran.code == 0, ran
    told = {one["check"]: one["verdict"] for one in json.loads(ran.out)["control"]}
    assert told.pop("certificate") == "warning", "the fake is plain HTTP"
    assert set(told.values()) == {"ok"}
    api.refuse("GET /v1/control/status", 401, "Unauthorized")
    assert fallow("doctor", "--only", "control").code == 1


def test_control_status_and_log_level(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/control/status", status(silent={"node-9": 4.0}))
    ran = fallow("control", "status")
    assert "info" in ran.out
    assert "node-9" in ran.out
    assert json.loads(fallow("control", "status", "--json").out)["store_revision"] == 7
    api.on("PUT /v1/control/log-level", {"level": "debug"})
    assert fallow("control", "log-level", "debug").out == "logs from debug on\n"
    assert api.bodies("PUT /v1/control/log-level") == [{"level": "debug"}]
    assert fallow("control", "log-level", "loud").code == 2


def test_the_status_shows_who_keeps_the_store_and_who_does_not_answer(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/control/status", status(store_members=STORE_MEMBERS))
    told = fallow("control", "status").out
    assert "10.0.0.1:2379 (west/a), 10.0.0.2:2379 does not answer" in told
    api.on("GET /v1/control/status", status())
    assert "store members" not in fallow("control", "status").out
