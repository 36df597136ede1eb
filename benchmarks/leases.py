"""Leases: how many a second at how many taken, and whether they stay unique through crashes.

Peer: a naive scan in the same run, which asks every address of the pool in turn and every member about it. One
`LeaseBook` is carried from commit to commit as the control plane does it: 32 leases a commit, every commit a new
snapshot. `--crashes` runs 10,000 joins at two processes over one store that are killed 1,000 times, before or after any
of their operations, and goes through all that was stored: no address may have been given twice.

    python benchmarks/leases.py [--crashes] [--json FILE]
"""

import argparse
import asyncio
import ipaddress
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from machine import describe

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from lease_swarm import Swarm, look_back, overlay

from fallow.decide.leases import LeaseBook, LeaseWish
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease, Member, Role
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.open import open_store

POOL = overlay("10.86.0.0/15")
BATCH, BATCHES = 32, 40
TAKEN = (0, 10_000, 60_000)
NAIVE_SECONDS = 2.0


def _member(number: int, lease: Lease) -> Member:
    return Member(
        id=f"m-{number:06}",
        created_at=0.0,
        updated_at=0.0,
        name=f"m-{number}",
        role=Role.NODE,
        key_sha256="",
        token_id="",
        certificate_expires_at=0.0,
        lease=lease,
    )


def fleet(count: int) -> dict[str, Member]:
    """Return so many members with the lowest addresses."""
    first = ipaddress.ip_address("10.86.0.2")
    lease = Lease(address="", pool="default", mode=POOL.mode, prefix_length=15)
    made = (
        _member(number, msgspec.structs.replace(lease, address=str(first + number))) for number in range(count)
    )  # fmt: skip
    return {member.id: member for member in made}


def carried(taken: int) -> dict[str, Any]:
    """Give leases in batches, with a book that is carried on, and each batch a new snapshot."""
    members, pools = fleet(taken), {"default": POOL}
    started = time.perf_counter()
    book = LeaseBook(Snapshot(members=members, pools=pools), 0.0)
    first_seconds = time.perf_counter() - started
    wish, seconds = LeaseWish(role=Role.NODE, source_address="192.0.2.1"), []
    for _ in range(BATCHES):
        started = time.perf_counter()
        book = LeaseBook(Snapshot(members=members, pools=pools), 0.0, before=book)
        given = [book.allocate(wish) for _ in range(BATCH)]
        seconds.append(time.perf_counter() - started)
        new = [_member(len(members) + number, lease) for number, lease in enumerate(given)]
        members = members | {member.id: member for member in new}
    addresses = {member.lease.address for member in members.values()}
    assert len(addresses) == taken + BATCH * BATCHES
    return {
        "leases_per_second": round(BATCH / statistics.median(seconds)),
        "batch_seconds_median": round(statistics.median(seconds[1:]), 6),
        "batch_seconds_slowest": round(max(seconds), 6),
        "first_book_seconds": round(first_seconds, 4),
    }


def naive(taken: int) -> dict[str, Any]:
    """Give leases one by one, each by looking at every member for the lowest address that nobody has."""
    members = list(fleet(taken).values())
    started, given = time.perf_counter(), 0
    while given < BATCH * BATCHES and time.perf_counter() - started < NAIVE_SECONDS:
        held = {member.lease.address for member in members}
        address = next(str(host) for host in ipaddress.ip_network(POOL.cidr).hosts() if str(host) not in held)
        members.append(_member(len(members), Lease(address=address)))
        given += 1
    return {"leases_per_second": round(given / (time.perf_counter() - started), 1), "given": given}


async def crashes(url: str, joins: int, kills: int) -> dict[str, Any]:
    """Join, crash, and look back."""
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    await Applier(store, cache).commit(Step(puts=(POOL,)))
    await cache.stop()
    started = time.perf_counter()
    outcome = await Swarm(store, crashes=kills, seed=1, fuse=12, remove_one_in=20).run(joins)
    seconds = time.perf_counter() - started
    given = await look_back(store)
    await store.close()
    unique = len({lease.address for lease in outcome.leases.values()})
    assert given == unique == joins
    return {
        "store": url.partition(":")[0],
        "joins": joins,
        "crashes": outcome.crashes,
        "removed": len(outcome.removed),
        "unique_addresses": unique,
        "seconds": round(seconds, 1),
    }


def main(arguments: Sequence[str]) -> None:
    """Run every scenario and print one JSON object."""
    parser = argparse.ArgumentParser(description="Measure leases.")
    parser.add_argument("--crashes", action="store_true", help="also 10,000 joins through 1,000 crashes: some minutes")
    parser.add_argument("--joins", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--json", type=Path, help="write there instead of standard output")
    options = parser.parse_args(arguments)
    answer: dict[str, Any] = {"benchmark": "leases", "machine": describe(), "batch": BATCH, "scenarios": []}
    for taken in TAKEN:
        fast, slow = carried(taken), naive(taken)
        ratio = round(fast["leases_per_second"] / slow["leases_per_second"], 1)
        answer["scenarios"].append({"taken": taken, **fast, "naive": slow, "ratio": ratio})
        print(f"{taken} taken: {fast['leases_per_second']:,}/s, naive {slow['leases_per_second']:,}/s", file=sys.stderr)
    if options.crashes:
        with tempfile.TemporaryDirectory() as folder:
            answer["crashes"] = [
                asyncio.run(crashes(url, options.joins, options.kills))
                for url in ("memory:", f"sqlite:{folder}/leases.db")
            ]
    text = json.dumps(answer, indent=2) + "\n"
    if options.json is None:
        sys.stdout.write(text)
    else:
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
