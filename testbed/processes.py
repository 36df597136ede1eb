"""Starting, watching and ending the processes of a testbed, by process id and never by name."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class TestbedError(Exception):
    """Something of the testbed could not be set up; the text says what and why."""

    __test__ = False  # not a test, whatever pytest makes of the name


def run(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a short command and return its standard output. Raises TestbedError with its error text."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode != 0:
        raise TestbedError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.02) -> None:
    """Return as soon as `condition()` is true, looking at it `every` so many seconds.

    Raises TestbedError naming `what` after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot: tells a process from a later one of the same id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a long-running command in a session of its own, its output appended to `log`; `env` adds to ours."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], grace_seconds: float = 5.0) -> None:
    """Ask a process to end and kill it after the grace."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait(10)


class InsideProcess(subprocess.Popen[bytes]):
    """A process inside a node. `nsenter` stands before it outside, so signals go to the one inside."""

    def send_signal(self, sig: int) -> None:
        """Send a signal to the process inside, or to `nsenter` while there is none yet."""
        if self.poll() is not None:
            return
        for pid in children(self.pid) or [self.pid]:
            try:
                os.kill(pid, signal.Signals(sig))
            except ProcessLookupError:
                continue

    @property
    def inner_pid(self) -> int:
        """Return the id, as this machine sees it, of the process inside; 0 when there is none."""
        return next(iter(children(self.pid)), 0)
