"""Starts the version of the agent that is to run, and goes back to the one before when a new one gets no session.

It is what `fallow join` and `fallow gateway` become on a machine whose agent was upgraded: a parent that knows nothing
but this file's words. The installed version is the launcher for good; only the agents below it are swapped.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from fallow.agent.versions import Versions, VersionState

_log = structlog.get_logger("fallow.agent.launcher")

CHILD = "FALLOW_AGENT_CHILD"
SWAPPED = 75  # exit code of an agent that wants the next version to be started
REFUSED = 77
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


def is_child() -> bool:
    """Say whether a launcher started this process."""
    return CHILD in os.environ


def wanted(versions: Versions) -> bool:
    """Say whether this process should be a launcher: there is a version beside the installed one, or was."""
    return not is_child() and versions.state is not None


class Launcher:
    """Runs one agent after the other with `arguments`, those of `python` itself left out."""

    def __init__(self, versions: Versions, arguments: Sequence[str]) -> None:
        self._versions = versions
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Supervise until the agent ends for another reason than a swap; return its exit code. Raises OSError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        while True:
            state = self._versions.state or VersionState()
            code = self._run_once(state)
            if self._stopping:  # an agent that had not yet learnt to stop in good order did as it was told, too
                return 0 if code in (None, -signal.SIGTERM) else code or 0
            if code == REFUSED:
                return code
            if code == SWAPPED:
                continue
            now = self._versions.state or VersionState()
            if now.trial and now.current == state.current:
                error = f"it {_ended(code)} before it had a session" if code is not None else (
                    f"it had no session within {state.trial_seconds:g} s"
                )  # fmt: skip
                _log.error("the new version is given up", version=state.version, reason=error)
                self._versions.go_back(error)
                continue
            return code if code is not None else 1

    def _run_once(self, state: VersionState) -> int | None:
        """Run one agent to its end; return its exit code, None when it was under trial and had to be ended."""
        environment = {**self._versions.environment(state.current), CHILD: state.current or "-"}
        _log.info("agent started", version=state.version or "as installed", trial=state.trial)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "fallow", *self._arguments],
            env=environment,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
        if self._stopping:
            self._child.terminate()
        deadline = time.monotonic() + state.trial_seconds
        while state.trial:
            try:
                return self._child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            now = self._versions.state
            if now is None or not now.trial:
                break
            if time.monotonic() > deadline and not self._stopping:
                self._end()
                return None
        return self._child.wait()

    def _end(self) -> None:
        assert self._child is not None
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def _die_with_parent() -> None:
    """An agent without its launcher would keep the next one from its folder."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
