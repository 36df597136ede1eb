"""The control plane itself: its status, how much it logs, and request ids in all it logs."""

import io
from collections.abc import Iterator

import pytest
import structlog
from api_rig import NOW, Rig, node, problem

from fallow.cli.launchers import LogOptions
from fallow.control.logs import level, set_level
from fallow.model.control import Level
from fallow.model.kinds import SCHEMA_VERSION
from fallow.model.members import MemberState
from fallow.wiring.logs import configure_logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logs(LogOptions(level="info", format="json"))
    return written


async def test_control_status(rig: Rig) -> None:
    await rig.put(node(), node("web-2", "n-2", MemberState.SUSPECT), node("web-3", "n-3", MemberState.DEAD))
    rig.link("n-2")
    answer = await rig.call("GET", "/v1/control/status", "viewer")
    told = answer.json()
    assert (told["now"], told["schema"], told["not_ready"], told["sessions"]) == (NOW, SCHEMA_VERSION, "", 1)
    assert told["records"]["members"] == 3
    assert told["silent"] == {"web-2": 0.0, "web-3": -1.0}
    assert 0 < told["store_seconds"] < 1
    assert told["cache_behind"] == 0


async def test_log_level_changes_at_run_time(rig: Rig, log: io.StringIO) -> None:
    await rig.call("GET", "/v1/members")
    assert '"route": "/v1/members"' not in log.getvalue()
    answer = await rig.call("PUT", "/v1/control/log-level", json={"level": "debug"})
    assert (answer.status_code, answer.json()) == (200, {"level": "debug"})
    assert (await rig.call("GET", "/v1/control/status")).json()["log_level"] == "debug"
    await rig.call("GET", "/v1/members")
    assert '"route": "/v1/members"' in log.getvalue()
    (told,) = (await rig.call("GET", "/v1/audit")).json()["items"]
    assert (told["operation"], told["summary"]) == ("set_log_level", "logs from debug on, was info")
    for body in ({"level": "loud"}, {}, {"level": "info", "for": "ever"}):
        problem(await rig.call("PUT", "/v1/control/log-level", json=body), 400, "bad-request")
    assert level() == "debug"


@pytest.mark.parametrize("wanted", ["debug", "info", "warning", "error"])
def test_log_level_is_told_as_it_was_set(wanted: Level) -> None:
    set_level(wanted)
    assert level() == wanted


async def test_every_line_of_a_request_has_its_id(rig: Rig, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens_of_somebody() -> None:
        structlog.get_logger("elsewhere").warning("deep inside")
        raise RuntimeError

    monkeypatch.setattr(rig.services.tokens, "list", tokens_of_somebody)
    await rig.call("GET", "/v1/tokens?query=not-logged", headers={"X-Request-Id": "call-me-by-this"})
    structlog.get_logger("elsewhere").warning("outside")
    lines = log.getvalue().splitlines()
    assert len(lines) == 4, "deep inside, the fault, the access line, outside"
    assert [line.count('"request_id": "call-me-by-this"') for line in lines] == [1, 1, 1, 0]
    for said in (
        '"method": "GET"',
        '"route": "/v1/tokens"',
        '"status": 500',
        '"who": "api:a-admin"',
        '"ms":',
        "10.0.0.5",
    ):
        assert said in lines[2]
    assert "not-logged" not in log.getvalue()
    assert rig.credentials["admin"].split(".")[2] not in log.getvalue()


async def test_a_request_id_that_is_not_plain_is_not_taken_over(rig: Rig, log: io.StringIO) -> None:
    for bad in ("short", "x" * 65, "with space in", 'quote"quote'):
        answer = await rig.call("DELETE", "/v1/members/none", headers={"X-Request-Id": bad})
        assert answer.headers["x-request-id"] != bad
    assert "quote" not in log.getvalue()
