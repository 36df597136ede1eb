"""HAProxy's command sockets: what is said to them, and what their answers mean."""

import asyncio
import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fallow.drivers.proxy.config import MASTER_SOCKET, worker_socket
from fallow.drivers.proxy.contract import ProxyError

TIMEOUT_SECONDS = 5.0
_SERVER_STATISTICS = "show stat -1 4 -1"
_PAYLOAD_BYTES = 8000  # a command must fit HAProxy's buffer of 16 KiB
_WORD = re.compile(r"[A-Za-z0-9@!._~%+:=,/$&()*\[\]-]+")
_SESSION = re.compile(r"(?P<id>0x[0-9a-f]+): .* be=(?P<backend>\S+) srv=(?P<server>\S+) ")
_VERSION = re.compile(r"New version created: (\d+)")
_MAINTENANCE_OR_DRAIN = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20  # SRV_ADMF_* in HAProxy's server-t.h


class Drift(ProxyError):  # noqa: N818 - it names what was found, and is mended before anybody sees it
    """HAProxy does not have what we remember of it."""


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One line of `show servers state`."""

    backend: str
    name: str
    address: str
    port: int
    weight: int
    ready: bool  # neither in maintenance nor draining


@dataclass(frozen=True, slots=True)
class Processes:
    """What `show proc` tells: process ids, and how often the master reloaded and failed to."""

    master: int
    failed: int
    workers: tuple[int, ...]
    old_workers: tuple[int, ...]


def command(*words: str) -> str:
    """Return one command. Raises ProxyError for a word that could end it, begin another, or carry a payload."""
    for word in words:
        if not _WORD.fullmatch(word):
            raise ProxyError(f"{word!r} cannot be said to HAProxy")
    return " ".join(words)


def payloads(entries: Iterable[str]) -> Iterator[str]:
    """Yield the map entries in blocks that each fit one command."""
    block: list[str] = []
    size = 0
    for entry in entries:
        line = command(*entry.split(" ", 1))
        if block and size + len(line) + 1 > _PAYLOAD_BYTES:
            yield "\n".join(block)
            block, size = [], 0
        block.append(line)
        size += len(line) + 1
    if block:
        yield "\n".join(block)


class Runtime:
    """Talks to the worker of one generation, and to the master."""

    def __init__(self) -> None:
        self.generation = 0
        self._folder = -1

    def open(self, folder: Path) -> None:
        """Use the sockets of a folder. Raises OSError."""
        self.close()
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY)

    def close(self) -> None:
        """Use them no longer."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    async def ask(self, *commands: str) -> str:
        """Say commands to the current worker and return all answers together. Raises ProxyError."""
        return await self._exchange(worker_socket(self.generation), ";".join(commands) + "\n")

    async def ask_old(self, pid: int, line: str) -> str:
        """Say one command to a worker from before a reload, which only tells and ends sessions. Raises ProxyError."""
        return await self._exchange(MASTER_SOCKET, f"@!{pid} {line}\n")

    async def ask_master(self, line: str) -> str:
        """Say one command to the master. Raises ProxyError."""
        return await self._exchange(MASTER_SOCKET, f"{line}\n")

    async def processes(self) -> Processes:
        """Return the processes that the master knows. Raises ProxyError."""
        return parse_processes(await self.ask_master("show proc"))

    async def statistics(self) -> list[dict[str, str]]:
        """Return the rows of `show stat` of the current worker. Raises ProxyError."""
        return parse_statistics(await self.ask("show stat"))

    async def servers(self) -> list[ServerRow]:
        """Return the servers of the current worker. Raises ProxyError."""
        return parse_servers(await self.ask("show servers state"))

    async def sessions(self, old_workers: Iterable[int]) -> Mapping[tuple[str, str], int]:
        """Return how many sessions each server has, those in old workers added. Raises ProxyError."""
        answers = [await self.ask(_SERVER_STATISTICS)]
        answers += [await self.ask_old(pid, _SERVER_STATISTICS) for pid in old_workers]
        found: dict[tuple[str, str], int] = {}
        for row in (row for answer in answers for row in parse_statistics(answer)):
            key = (row["pxname"], row["svname"])
            found[key] = found.get(key, 0) + int(row["scur"] or 0) + int(row["qcur"] or 0)
        return found

    async def end_old_sessions(self, backend: str, server: str, old_workers: Iterable[int]) -> None:
        """End a server's sessions in old workers. Raises ProxyError."""
        for pid in old_workers:
            for line in (await self.ask_old(pid, "show sess")).splitlines():
                found = _SESSION.match(line)
                if found and found["backend"] == backend and found["server"] == server:
                    await self.ask_old(pid, command("shutdown", "session", found["id"]))

    async def swap_map(self, name: str, entries: Iterable[str]) -> None:
        """Replace the whole map in one step. Raises ProxyError, then the map is as it was."""
        answer = await self.ask(command("prepare", "map", name))
        made = _VERSION.search(answer)
        if made is None:
            raise Drift(f"HAProxy began no new version of its routes: {answer.strip()}")
        version = f"@{made[1]}"
        commands = [f"{command('add', 'map', version, name)} <<\n{block}\n" for block in payloads(entries)]
        for line in [*commands, command("commit", "map", version, name)]:
            answer = await self.ask(line)
            if answer.strip():
                raise Drift(f"HAProxy refused new routes: {answer.strip()}")

    async def _exchange(self, name: str, text: str) -> str:
        # The path of a socket may have 107 bytes at most, that of a folder more: hence the way by its descriptor.
        path = f"/proc/self/fd/{self._folder}/{name}"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(text.encode("ascii"))
                    writer.write_eof()
                    return (await reader.read()).decode("utf-8", "replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise ProxyError(f"HAProxy does not answer: {error or 'timed out'}") from error


def parse_statistics(text: str) -> list[dict[str, str]]:
    """Read the table that `show stat` gives."""
    lines = text.lstrip("# \n").splitlines()
    return [row for row in csv.DictReader(lines) if row.get("svname")]


def parse_servers(text: str) -> list[ServerRow]:
    """Read the table that `show servers state` gives. Raises ProxyError."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[1].startswith("# "):
        raise ProxyError("HAProxy gave no list of its servers")
    names = lines[1][2:].split()
    rows = [dict(zip(names, line.split(), strict=False)) for line in lines[2:]]
    return [
        ServerRow(
            backend=row["be_name"],
            name=row["srv_name"],
            address=row["srv_addr"],
            port=int(row["srv_port"]),
            weight=int(row["srv_uweight"]),
            ready=not int(row["srv_admin_state"]) & _MAINTENANCE_OR_DRAIN,
        )
        for row in rows
    ]


def parse_processes(text: str) -> Processes:
    """Read the table that the master's `show proc` gives. Raises ProxyError."""
    master, failed = 0, 0
    found: dict[str, list[int]] = {"workers": [], "old workers": []}
    section = ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith("# "):
            section = line[2:].strip()
        elif len(words) > 2 and words[0].isdigit():
            if words[1] == "master":
                master = int(words[0])
                told = re.search(r"\[failed: (\d+)\]", line)
                failed = int(told[1]) if told else 0
            elif section in found:
                found[section].append(int(words[0]))
    if not master:
        raise ProxyError("HAProxy's master told nothing of its processes")
    return Processes(master, failed, tuple(found["workers"]), tuple(found["old workers"]))
