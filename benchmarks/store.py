"""Transactions a second, and time from a put to its watch, with many concurrent callers, on SQLite and on etcd.

The peer is the same engine without the store, in the same run on the same disk. For SQLite: one loop that puts one row
a transaction through `sqlite3`, with the same write-ahead log and the same `synchronous = FULL`. For etcd, with three
members on loopback: as many callers that compare-and-set through the client of `aetcd`, and one watch.

    python benchmarks/store.py --json out.json
    python benchmarks/store.py --engine etcd --json out-etcd.json
"""

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

import aetcd
from figures import options_of, write
from machine import describe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fallow.store.contract import Check, Put
from fallow.store.open import open_store
from testbed.etcd import EtcdCluster

VALUE = bytes(100)
END = "k/end"


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3)}


async def store_figures(url: str, callers: int, seconds: float) -> dict[str, Any]:
    """Let every caller compare-and-set a key of its own over and over, while one watch reads all of it."""
    store = await open_store(url)
    begun: dict[int, float] = {}
    puts: list[float] = []
    watched: dict[int, float] = {}

    async def call(key: str, until: float) -> None:
        revision = 0
        while time.perf_counter() < until:
            start = time.perf_counter()
            revision = await store.commit([Check(key, revision)], [Put(key, VALUE)])
            puts.append(time.perf_counter() - start)
            begun[revision] = start

    async def watch(after: int) -> None:
        async with aclosing(store.watch("k/", after)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                now = time.perf_counter()
                if batch.changes[0].key == END:
                    return
                watched[batch.revision] = now

    watching = asyncio.create_task(watch(await store.commit([], [])))
    start = time.perf_counter()
    await asyncio.gather(*(call(f"k/{number}", start + seconds) for number in range(callers)))
    took = time.perf_counter() - start
    await store.commit([], [Put(END, b"")])
    await watching
    await store.close()
    return figures_of(puts, took, begun, watched)


def figures_of(puts: list[float], took: float, begun: dict[int, float], watched: dict[int, float]) -> dict[str, Any]:
    """Return the figures of one run: `begun` and `watched` are when each revision's put began and the watch told of it.

    Raises AssertionError when the watch has not told of exactly the puts.
    """
    assert watched.keys() == begun.keys(), "the watch missed a commit or told of another"
    return {
        "transactions": len(puts),
        "transactions_per_second": round(len(puts) / took),
        "put": percentiles(puts),
        "put_to_watch": percentiles([watched[revision] - start for revision, start in begun.items()]),
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


async def bare_etcd_figures(endpoints: list[str], callers: int, seconds: float) -> dict[str, Any]:
    """Do the same through the client of `aetcd` alone."""
    hosts, _, port = ",".join(endpoints).rpartition(":")
    client = aetcd.Client(host=f"ipv4:{hosts}", port=int(port))
    begun: dict[int, float] = {}
    puts: list[float] = []
    watched: dict[int, float] = {}
    ready = asyncio.Event()

    async def call(key: bytes, until: float) -> None:
        revision = 0
        while time.perf_counter() < until:
            start = time.perf_counter()
            ok, (answer,) = await client.transaction(
                compare=[client.transactions.mod(key) == revision],
                success=[client.transactions.put(key, VALUE)],
                failure=[],
            )
            assert ok
            revision = answer.response_put.header.revision
            puts.append(time.perf_counter() - start)
            begun[revision] = start

    async def watch() -> None:
        events = await client.watch_prefix(b"bare/")
        ready.set()
        async for event in events:
            if event.kv.key == b"bare/end":
                return
            watched[event.kv.mod_revision] = time.perf_counter()

    watching = asyncio.create_task(watch())
    await ready.wait()
    start = time.perf_counter()
    await asyncio.gather(*(call(b"bare/%d" % number, start + seconds) for number in range(callers)))
    took = time.perf_counter() - start
    await client.put(b"bare/end", b"")
    await watching
    await client.close()
    return figures_of(puts, took, begun, watched)


def sqlite_run(folder: Path | None, callers: int, seconds: float) -> dict[str, Any]:
    """Return the figures of the store on SQLite and of its peer."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bare = bare_figures(Path(name), callers, seconds)
        store = asyncio.run(store_figures(f"sqlite:{name}/store.db", callers, seconds))
    return {
        "engine": "sqlite",
        "engine_version": sqlite3.sqlite_version,
        "synchronous": "FULL",
        "store": store,
        "peer": {"name": "sqlite3, one transaction a put, one caller", **bare},
    }


def etcd_run(callers: int, seconds: float) -> dict[str, Any]:
    """Return the figures of the store on three members of etcd on loopback, and of their peer."""
    with EtcdCluster() as cluster:
        bare = asyncio.run(bare_etcd_figures(cluster.endpoints, callers, seconds))
        store = asyncio.run(store_figures(cluster.url(), callers, seconds))
        version = json.loads(cluster.ctl("endpoint", "status", "-w", "json"))[0]["Status"]["version"]
    return {
        "engine": "etcd",
        "engine_version": version,
        "members": 3,
        "store": store,
        "peer": {"name": "aetcd, the same transactions without the store, as many callers", **bare},
    }


def main() -> None:
    """Run both on the same disk and write what came out."""
    parser = options_of(__doc__)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the two runs")
    parser.add_argument("--engine", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="the disk to measure SQLite on; default: the temporary folder's")
    options = parser.parse_args()
    run = (
        etcd_run(options.callers, options.seconds)
        if options.engine == "etcd"
        else sqlite_run(options.folder, options.callers, options.seconds)
    )
    figures = {
        "benchmark": "store",
        "machine": describe(),
        "callers": options.callers,
        "value_bytes": len(VALUE),
        **run,
    }
    write(figures, options)


if __name__ == "__main__":
    main()
