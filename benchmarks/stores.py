"""The store of a benchmark of the whole path: SQLite in a folder, a URL that is given, or an etcd of its own."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testbed.etcd import EtcdCluster


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told its store."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--store", default="", help="URL of a store; default: SQLite in a temporary folder")
    choice.add_argument("--etcd", action="store_true", help="three members of etcd on loopback, of its own")


@contextmanager
def store_of(options: argparse.Namespace) -> Iterator[str]:
    """Run the store meanwhile; `options.store` becomes its URL, and what the figures call it is returned."""
    with EtcdCluster() if options.etcd else contextlib.nullcontext() as cluster:
        if cluster is not None:
            options.store = cluster.url()
            yield "etcd, three members on loopback"
        else:
            yield options.store or "sqlite, synchronous=FULL"
