"""A control plane in a process of its own and hollow agents beside it, for benchmarks of the whole path."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from fallow.model.credentials import SERVER_NAME

READY_SECONDS = 30.0
SCRAPE_SECONDS = 0.2  # between scrapes: the control plane answers five a second of one address, and refuses the others
_TICKS = os.sysconf("SC_CLK_TCK")
_METRIC = re.compile(r"^(fallow_\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)


class Process:
    """A child's use of processor and memory."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_seconds(self) -> float:
        """Return user and system time of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> dict[str, int]:
        """Return resident bytes now and at most, and the proportional share now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8")
        return {
            "rss_bytes": _kib(status, "VmRSS"),
            "rss_peak_bytes": _kib(status, "VmHWM"),
            "pss_bytes": _kib(rollup, "Pss"),
        }


def busy_seconds() -> float:
    """Return for how long this machine's processors have worked since it started, all of them together."""
    user, nice, system, _idle, _waiting, irq, softirq = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def processes_in(folder: Path) -> list[Process]:
    """Return the processes whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                if (entry / "cwd").readlink() == folder:
                    found.append(Process(int(entry.name)))
    return found


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class Api:
    """The control plane's API, called with the admin token it printed."""

    def __init__(self, port: int, token: str, ca: Path) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            verify=ssl.create_default_context(cafile=str(ca)),
            headers={"Authorization": f"Bearer {token}"},
            timeout=120.0,
            trust_env=False,
        )
        self._scraped_at = 0.0

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the decoded answer. Raises httpx.HTTPStatusError."""
        answer = await self._http.request(method, path, json=body, extensions={"sni_hostname": SERVER_NAME})
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    async def count_changes(self, kinds: str, counts: dict[str, int]) -> None:
        """Count the records of some kinds that are written from now on, until cancelled."""
        query = {"kinds": kinds}
        async with self._http.stream("GET", "/v1/watch", params=query, extensions={"sni_hostname": SERVER_NAME}) as got:
            async for line in got.aiter_lines():
                if line.startswith("data: {") and "kind" in (change := json.loads(line[6:])):
                    counts[change["kind"]] = counts.get(change["kind"], 0) + 1

    async def join_token(self, uses: int) -> str:
        """Return a token with which so many nodes may join."""
        return str((await self.call("POST", "/v1/tokens", {"role": "node", "uses": uses}))["secret"])

    async def metrics(self) -> dict[str, float]:
        """Return every metric by name and labels, as soon as the last scrape is long enough ago.

        Raises RuntimeError for an answer that is none.
        """
        await asyncio.sleep(self._scraped_at + SCRAPE_SECONDS - time.monotonic())
        answer = await self._http.get("/metrics", extensions={"sni_hostname": SERVER_NAME})
        self._scraped_at = time.monotonic()
        if answer.is_error:
            raise RuntimeError(f"GET /metrics: {answer.status_code} {answer.text[:500]}")
        found = _METRIC.findall(answer.text)
        return {f"{name}{{{labels}}}" if labels else name: float(value) for name, labels, value in found}

    async def until(self, name: str, least: float, seconds: float, every: float = 0.1) -> float:
        """Wait until a metric has grown to `least`; return the metric. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                value = (await self.metrics()).get(name, 0.0)
                if value >= least:
                    return value
                await asyncio.sleep(every)


class Fleet:
    """Hollow agents in one process."""

    def __init__(self, child: asyncio.subprocess.Process, count: int) -> None:
        self.child = child
        self.count = count

    @classmethod
    async def start(cls, url: str, first: int, count: int) -> "Fleet":
        """Start the process; its agents have their keys and have not joined yet."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("hollow.py")), url, "--first", str(first),
            "--count", str(count), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )  # fmt: skip
        fleet = cls(child, count)
        await fleet._read()
        return fleet

    async def join(self, token: str, parallel: int, steps: Sequence[str] = ("join", "open")) -> dict[str, Any]:
        """Let all of them join and open their sessions, or do one of both."""
        return await self._ask({"do": "join", "token": token, "parallel": parallel, "steps": steps})

    async def received(self) -> dict[str, Any]:
        """Return what they have received since the last call."""
        return await self._ask({"do": "received"})

    async def kill(self) -> None:
        """End all of them at once, without a goodbye."""
        if self.child.returncode is None:
            self.child.kill()
            await self.child.wait()

    async def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._read()

    async def _read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = await self.child.stdout.readline()
        if not line:
            raise RuntimeError("a process of hollow agents has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Whole:
    """A running control plane and the fleets started for it."""

    def __init__(self, url: str, api: Api, process: Process, exits: AsyncExitStack) -> None:
        self.url = url
        self.api = api
        self.process = process
        self.fleets: list[Fleet] = []
        self._exits = exits

    async def add(self, count: int) -> Fleet:
        """Start a process of `count` more hollow agents."""
        fleet = await Fleet.start(self.url, sum(other.count for other in self.fleets), count)
        self._exits.push_async_callback(fleet.kill)
        self.fleets.append(fleet)
        return fleet

    def kill(self) -> None:
        """End the control plane at once, without a word to anybody."""
        os.kill(self.process.pid, signal.SIGKILL)

    async def join(self, token: str, parallel: int, steps: Sequence[str] = ("join", "open")) -> dict[str, Any]:
        """Let everybody join; return how long it took, from the first call to the last open session."""
        cpu = self.process.cpu_seconds()
        each = parallel // len(self.fleets)
        answers = await asyncio.gather(*(fleet.join(token, each, steps) for fleet in self.fleets))
        seconds = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
        opened = sum(answer["opened"] for answer in answers)
        return {
            "agents": opened,
            "failed": sum(answer["failed"] for answer in answers),
            "first_failures": [text for answer in answers for text in answer["first_failures"]][:3],
            "seconds": round(seconds, 2),
            "joins_per_second": round(opened / seconds, 1),
            "at_a_time": parallel,
            "join_median_ms": max(answer["join_median_ms"] for answer in answers),
            "open_median_ms": max(answer["open_median_ms"] for answer in answers),
            "control_plane_cpu_ms_each": round(1000 * (self.process.cpu_seconds() - cpu) / max(1, opened), 2),
        }


def free_ports(count: int) -> list[int]:
    """Return TCP ports of the loopback address that nobody has."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@asynccontextmanager
async def whole(store: str, *more: str) -> AsyncIterator[Whole]:
    """Run `fallow server` on `store` (a URL; empty: SQLite in a temporary folder) with `more` options."""
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        api_port, session_port = free_ports(2)
        words = [
            "server", "--data", str(folder / "server"), "--listen", f"127.0.0.1:{api_port}",
            "--session-listen", f"127.0.0.1:{session_port}", "--no-write-context", "--log-level", "warning",
            *(["--store", store] if store else []), *more,
        ]  # fmt: skip
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fallow", *words, stderr=asyncio.subprocess.PIPE
        )
        exits.push_async_callback(_end, child)
        token = await _admin_token(child)
        relaying = asyncio.create_task(_relay(child))
        exits.callback(relaying.cancel)
        api = Api(api_port, token, folder / "server" / "ca" / "ca.crt")
        exits.push_async_callback(api.close)
        yield Whole(f"https://127.0.0.1:{api_port}", api, Process(child.pid), exits)


async def _admin_token(child: asyncio.subprocess.Process) -> str:
    assert child.stderr is not None
    async with asyncio.timeout(READY_SECONDS):
        while line := (await child.stderr.readline()).decode():
            if "admin token" in line:
                return line.split()[-1]
    raise RuntimeError("the control plane ended before it was ready")


async def _relay(child: asyncio.subprocess.Process) -> None:
    """Pass on what the control plane warns of."""
    assert child.stderr is not None
    while line := await child.stderr.readline():
        sys.stderr.write(line.decode(errors="replace"))


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
        try:
            async with asyncio.timeout(15):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
