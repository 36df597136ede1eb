"""On a real terminal: pictures that replace each other, colours, and an end by Ctrl-C that is quiet."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cli_fake_api import Asked, FakeApi, deployment, listing, member, problem, route
from cli_servers import server

from fallow.client.contexts import Context, save_context
from fallow.model.deployments import DeployedItem, DeployResult

# Whoever is started in the background of a script ignores Ctrl-C, and so would what it starts.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from fallow.cli import top
from fallow.cli.app import build_cli
from fallow.cli.launchers import Launchers
top.LOOK_SECONDS = 0.05
build_cli(Launchers(server=None, join=None, gateway=None, up=None, store=None))()
"""


class Terminal:
    """A command on a terminal of 80 columns."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process, self._side = process, side
        self.seen = ""

    def until(self, done: Callable[[str], bool], seconds: float = 20) -> None:
        """Read until `done` is true of everything seen, or the command has ended."""
        end = time.monotonic() + seconds
        while not done(self.seen):
            assert time.monotonic() < end, self.seen
            if select.select([self._side], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._side, 65536).decode()
                except OSError:  # the other side is closed
                    return


@contextmanager
def _terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm", **environment},
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture(autouse=True)
def context(api: FakeApi) -> None:
    save_context(Context(name="test", url=api.url))


def test_a_deploy_shows_its_progress_in_place(api: FakeApi) -> None:
    healthy = iter([0, 1, 2])

    def deployments(_: Asked) -> object:
        count = next(healthy)
        return listing(deployment(healthy=count, state="serving" if count == 2 else "waiting"))

    item = DeployedItem(path="shop/web", action="create", replicas=2)
    api.on("POST /v1/deploy", DeployResult(project="shop", items=(item,)))
    api.on("GET /v1/deployments", deployments)
    api.on("GET /v1/routes", listing(route()))
    with open("compose.yaml", "w") as file:
        file.write("services: {}")
    with _terminal("deploy") as terminal:
        terminal.until(lambda seen: "http://shop.example" in seen)
        assert terminal.process.wait(10) == 0
    assert "0/2 healthy" in terminal.seen
    assert "2/2 healthy" in terminal.seen
    assert "\x1b[2K" in terminal.seen  # a line was erased to be drawn anew
    assert "\x1b[32mcreate\x1b[0m" in terminal.seen


def test_a_watched_list_is_drawn_anew_and_ends_quietly(api: FakeApi) -> None:
    names = iter(["before", "after"])
    shown = iter([iter([b"event: bookmark\nid: 7\n\n", _member_changed()])])

    def watch(_: Asked) -> object:
        return next(shown, None) or iter([b": nothing\n\n"])

    api.on("GET /v1/members", lambda _: listing(member(next(names, "after"))))
    api.on("GET /v1/watch", watch)
    with _terminal("node", "list", "--watch", NO_COLOR="1") as terminal:
        terminal.until(lambda seen: "after" in seen)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(lambda _: terminal.process.poll() is not None)
        assert terminal.process.wait(10) == 130
    assert "before" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert "\x1b[32m" not in terminal.seen


def test_top_is_drawn_anew_also_while_nobody_answers(api: FakeApi) -> None:
    looks = iter([listing(server("first")), problem(503, "not ready"), listing(server("second"))])
    api.on("GET /v1/servers", lambda _: next(looks, listing(server("last"))))
    with _terminal("top", NO_COLOR="1", COLUMNS="100") as terminal:
        terminal.until(lambda seen: "last" in seen, 60)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(lambda _: terminal.process.poll() is not None)
        assert terminal.process.wait(10) == 130
    assert terminal.seen.index("first") < terminal.seen.index("second") < terminal.seen.index("last")
    assert "\x1b[2K" in terminal.seen
    assert "Traceback" not in terminal.seen


def _member_changed() -> bytes:
    return b'id: 8\nevent: change\ndata: {"kind":"members","id":"n","revision":8,"record":null}\n\n'


def test_a_reader_that_goes_away_ends_it_quietly(api: FakeApi) -> None:
    api.on("GET /v1/replicas/r-1/logs", lambda _: iter([b"line\n" * 1000] * 200))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "logs", "r-1", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(10) == 1
