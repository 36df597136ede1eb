"""Guessed join tokens: what a control plane does while somebody tries a thousand a second, and machines join beside.

A guess is a well-formed bundle with a token that has the right form and the CA's right hash; every second one names a
token that there is, and guesses its secret only. Guessers keep their connections and send at their pace whether or not
the control plane keeps up: what is not sent in time is counted as late, not left out. After `--seconds` of it alone,
which tell the processor's share, honest machines join beside it, a few at once, on the same two processors. Rounds:
nobody guesses; all guesses come from one address; from 250.

    python benchmarks/guesses.py [--rate 1000] [--seconds 10] [--machines 200] [--json FILE]
"""

import argparse
import asyncio
import secrets
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from figures import options_of, write
from hollow import FACTS, unverified
from machine import describe
from whole import whole

from fallow.model.credentials import SERVER_NAME, JoinCredential, parse_join_credential
from fallow.model.members import JoinRequest, Role
from fallow.model.registrations import SignedBundle

CONNECTIONS = 50
AT_ONCE = 4
HEAD = b"POST /v1/join HTTP/1.1\r\nHost: fallow\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
WARM_SECONDS = 2.0


@dataclass
class Guesses:
    """What became of the guesses of one round."""

    answers: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    late: int = 0


def guess(real: JoinCredential, number: int) -> bytes:
    """Return the body of a request to join with a token that is guessed."""
    id_ = real.token_id if number % 2 else secrets.token_hex(len(real.token_id) // 2)
    token = JoinCredential(token_id=id_, secret=secrets.token_urlsafe(24), ca_sha256=real.ca_sha256)
    request = JoinRequest(token=token.text(), csr_pem="guess", role=Role.NODE, facts=FACTS, sent_at=time.time())
    return msgspec.json.encode(SignedBundle(bundle=msgspec.json.encode(request).decode(), signature="Z3Vlc3M="))


async def guesser(port: int, source: str, real: JoinCredential, pace: float, found: Guesses) -> None:
    """Send a guess every `pace` seconds until cancelled, on one connection. Raises OSError and EOFError: it was cut."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=unverified(), server_hostname=SERVER_NAME, local_addr=(source, 0)
    )
    due, number = time.monotonic() + pace * secrets.randbelow(1000) / 1000, 0
    while True:
        await asyncio.sleep(due - time.monotonic())
        begun = time.monotonic()
        found.late += begun - due > pace
        number += 1
        body = guess(real, number)
        writer.write(HEAD % len(body) + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in answer.split("\r\n") if line.startswith("content-length"))
        problem = msgspec.json.decode(await reader.readexactly(length))
        found.answers[f"{answer.split(' ', 2)[1]} {problem['type'].rpartition(':')[2]}"] += 1
        found.milliseconds.append(1000 * (time.monotonic() - begun))
        due = max(due + pace, time.monotonic() - 1)


async def one(sources: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one round, guessed from so many addresses, on a control plane of its own."""
    async with whole("") as plane, asyncio.TaskGroup() as group:
        await plane.add(options.machines)
        token = await plane.api.join_token(options.machines)
        port, real, found = int(plane.url.rpartition(":")[2]), parse_join_credential(token), Guesses()
        places = [f"127.9.{number % sources}.1" for number in range(max(CONNECTIONS, sources))] if sources else []
        pace = len(places) / options.rate
        tasks = [group.create_task(guesser(port, source, real, pace, found)) for source in places]
        await asyncio.sleep(WARM_SECONDS)
        cpu, began, answered = plane.process.cpu_seconds(), time.monotonic(), found.answers.total()
        await asyncio.sleep(options.seconds)
        seconds = time.monotonic() - began
        cores = (plane.process.cpu_seconds() - cpu) / seconds
        rate = (found.answers.total() - answered) / seconds
        joined = await plane.join(token, AT_ONCE)
        for task in tasks:
            task.cancel()
        return {
            "addresses": sources,
            "guesses_per_second": round(rate, 1),
            "late": found.late,
            "answers": dict(sorted(found.answers.items())),
            "answer_median_ms": round(statistics.median(found.milliseconds or [0.0]), 2),
            "control_plane_cores": round(cores, 3),
            "cpu_us_a_guess": round(1e6 * cores / rate, 1) if rate else 0.0,
            "honest": {key: joined[key] for key in ("agents", "failed", "joins_per_second", "join_median_ms")},
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    rounds = []
    for sources in (0, 1, 250):
        rounds.append(await one(sources, options))
        sys.stderr.write(f"{rounds[-1]}\n")
    return {"benchmark": "guesses", "machine": describe(), "rate": options.rate, "rounds": rounds}


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="guesses a second, of all together")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--machines", type=int, default=200, help="honest ones")
    options = parser.parse_args()
    write(asyncio.run(measure(options)), options)


if __name__ == "__main__":
    main()
