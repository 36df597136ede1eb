"""Every failure: one block on standard error, an exit code for scripts, never a traceback."""

import json

import pytest
from cli_fake_api import FakeApi, listing
from conftest import Fallow

from fallow.cli.app import build_cli
from fallow.cli.failures import Exit
from fallow.cli.launchers import Launchers
from fallow.client.contexts import Context, save_context


def test_without_a_context_it_says_how_to_get_one(alone: Fallow) -> None:
    ran = alone("node", "list")
    assert ran.code == Exit.USAGE
    assert ran.out == ""
    assert "fallow up" in ran.err
    assert "fallow context add" in ran.err


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 6), (403, 6), (404, 3), (409, 4), (412, 4), (422, 1), (500, 1), (503, 5)],
)
def test_refusals_have_exit_codes(api: FakeApi, fallow: Fallow, status: int, code: int) -> None:
    api.refuse(
        "GET /v1/members/x",
        status,
        "It cannot be",
        detail="Because.",
        errors=("one", "two"),
        hint="Do this.",
        request_id="q-1",
    )
    ran = fallow("node", "show", "x")
    assert ran.code == code
    assert ran.out == ""
    assert ran.err == ("error: It cannot be\n  Because.\n  - one\n  - two\nnext: Do this.\n(request q-1)\n")


def test_with_json_the_problem_is_json(api: FakeApi, fallow: Fallow) -> None:
    api.refuse("GET /v1/members/x", 404, "No such member")
    ran = fallow("node", "show", "x", "--json")
    assert ran.code == Exit.NOT_FOUND
    assert json.loads(ran.err)["title"] == "No such member"


def test_an_unreachable_control_plane(alone: Fallow) -> None:
    save_context(Context(name="gone", url="http://127.0.0.1:1"))
    ran = alone("node", "list")
    assert ran.code == Exit.UNREACHABLE
    assert "http://127.0.0.1:1" in ran.err
    assert "connection refused" in ran.err


def test_an_answer_of_another_shape(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members", listing({"id": 5}))
    ran = fallow("node", "list")
    assert ran.code == Exit.FAILED
    assert "could not be read" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("node", "bogus"),
        ("--bogus",),
        ("node", "list", "--bogus"),
        ("node", "show"),
        ("logs", "x", "-n", "-1"),
    ],
)
def test_misuse(fallow: Fallow, arguments: tuple[str, ...]) -> None:
    ran = fallow(*arguments)
    assert ran.code == Exit.USAGE
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert "--help` shows" in ran.err


def test_a_fault_of_our_own_is_told_in_two_lines(alone: Fallow, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    save_context(Context(name="x", url="https://x:1"))
    monkeypatch.setattr("fallow.cli.session.resolve", broken)
    ran = alone("node", "list")
    assert ran.code == Exit.FAILED
    assert ran.err.splitlines()[0] == "error: Something went wrong in fallow itself: ZeroDivisionError: oops"
    assert len(ran.err.splitlines()) == 2
    monkeypatch.setenv("FALLOW_DEBUG", "1")
    assert "Traceback" in alone("node", "list").err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError("disk full"), 1)])
def test_launchers_may_fail(error: BaseException, code: int) -> None:
    from typer.testing import CliRunner

    def launch(_: object) -> int:
        raise error

    app = build_cli(Launchers(server=launch, join=launch, gateway=launch, up=launch, store=launch))
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    assert (result.stderr == "") == (code == Exit.INTERRUPTED)


def test_control_characters_do_not_reach_the_terminal(api: FakeApi, fallow: Fallow) -> None:
    api.refuse("GET /v1/members/x", 404, "No \x1b[31mmember")
    assert "\x1b" not in fallow("node", "show", "x").err
