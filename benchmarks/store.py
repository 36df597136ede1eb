"""Transactions a second, and time from a put to its watch, with many concurrent callers on SQLite.

The peer is the same database without the store: one loop that puts one row a transaction through `sqlite3`, with the
same write-ahead log and the same `synchronous = FULL`, in the same run on the same disk.

    python benchmarks/store.py --json out.json
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from machine import describe

from fallow.store.contract import Check, Put
from fallow.store.sqlite import SqliteStore

VALUE = bytes(100)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3)}


async def store_figures(folder: Path, callers: int, seconds: float) -> dict[str, Any]:
    """Let every caller compare-and-set a key of its own over and over, while one watch reads all of it."""
    store = await SqliteStore.open(folder / "store.db")
    begun: dict[str, float] = {}
    puts: list[float] = []
    watched: list[float] = []

    async def call(key: str, until: float) -> None:
        revision = 0
        while time.perf_counter() < until:
            begun[key] = time.perf_counter()
            revision = await store.commit([Check(key, revision)], [Put(key, VALUE)])
            puts.append(time.perf_counter() - begun[key])

    async def watch() -> None:
        async with aclosing(store.watch("k/", 0)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                now = time.perf_counter()
                watched.extend(now - begun[change.key] for change in batch.changes)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    await asyncio.gather(*(call(f"k/{number}", start + seconds) for number in range(callers)))
    took = time.perf_counter() - start
    await store.close()
    await watching
    assert len(watched) == len(puts), "the watch missed or doubled a commit"
    return {
        "transactions": len(puts),
        "transactions_per_second": round(len(puts) / took),
        "put": percentiles(puts),
        "put_to_watch": percentiles(watched),
    }


def bare_figures(folder: Path, callers: int, seconds: float) -> dict[str, Any]:
    """Put one row a transaction, one after the other, over as many keys as the store has callers."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE items (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)")
    puts: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        begun = time.perf_counter()
        row = (f"k/{len(puts) % callers}", VALUE, len(puts))
        connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", row)
        puts.append(time.perf_counter() - begun)
    took = time.perf_counter() - start
    connection.close()
    return {
        "transactions": len(puts),
        "transactions_per_second": round(len(puts) / took),
        "put": percentiles(puts),
    }


def main() -> None:
    """Run both on the same disk and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here instead of printing them")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the two runs")
    parser.add_argument("--folder", type=Path, help="the disk to measure; default: the temporary folder's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bare = bare_figures(Path(name), options.callers, options.seconds)
        store = asyncio.run(store_figures(Path(name), options.callers, options.seconds))
    figures = {
        "benchmark": "store",
        "machine": describe() | {"sqlite": sqlite3.sqlite_version},
        "callers": options.callers,
        "value_bytes": len(VALUE),
        "synchronous": "FULL",
        "store": store,
        "peer": {"name": "sqlite3, one transaction a put, one caller", **bare},
    }
    text = json.dumps(figures, indent=2)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
