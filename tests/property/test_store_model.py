"""Any sequence of operations does the same to every back-end and to a model that is nothing but dictionaries."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from fallow.store.contract import Batch, Check, Compacted, Conflict, Delete, LeaseGone, Put, Store
from fallow.store.ledger import Keep
from fallow.store.memory import MemoryStore
from fallow.store.sqlite import SqliteStore

KEYS = st.sampled_from(["a", "a/1", "a/2", "b/1", "b"])
VALUES = st.binary(max_size=3)
PREFIXES = st.sampled_from(["", "a", "a/", "b/", "c"])


class Model:
    """Key -> (value, revision, created, lease index or None), and every commit's changes."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[bytes, int, int, int | None]] = {}
        self.history: list[tuple[int, dict[str, tuple[bytes, int, int, int | None] | None]]] = []
        self.revision = 0
        self.compacted = 0
        self.leases: set[int] = set()

    def apply(self, writes: dict[str, tuple[bytes, int | None] | None]) -> int:
        changes: dict[str, tuple[bytes, int, int, int | None] | None] = {}
        for key, write in writes.items():
            if write is not None:
                created = self.items[key][2] if key in self.items else self.revision + 1
                self.items[key] = changes[key] = (write[0], self.revision + 1, created, write[1])
            elif key in self.items:
                del self.items[key]
                changes[key] = None
        if changes:
            self.revision += 1
            self.history.append((self.revision, changes))
        return self.revision


class Stores(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "s.db"
        self.keep = Keep(recent_commits=4)
        self.model = Model()
        self.names: list[dict[str, str]] = []  # of every lease, what each store calls it
        self.stores: dict[str, Store] = {
            "memory": MemoryStore(),
            "sqlite": self.runner.run(SqliteStore.open(self.path, keep=self.keep)),
        }

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for store in self.stores.values():
                self.runner.run(store.close())
            self.runner.close()
            self.folder.cleanup()

    @rule(
        writes=st.dictionaries(KEYS, st.none() | VALUES, max_size=3),
        checks=st.dictionaries(KEYS, st.sampled_from([0, 0, 0, -1, 1]), max_size=2),
    )
    def commit(self, writes, checks) -> None:
        """A check's number says by how much it misses."""
        expected = {key: max(0, self._revision(key) + off) for key, off in checks.items()}
        wrong = {key for key, revision in expected.items() if revision != self._revision(key)}
        every = [Put(key, value) if value is not None else Delete(key) for key, value in writes.items()]
        if not wrong:
            self.model.apply({key: None if value is None else (value, None) for key, value in writes.items()})
        for store in self.stores.values():
            action = store.commit([Check(key, revision) for key, revision in expected.items()], every)
            if wrong:
                with pytest.raises(Conflict) as caught:
                    self.runner.run(action)
                assert set(caught.value.keys) == wrong
            else:
                assert self.runner.run(action) == self.model.revision

    @rule(target=leases)
    def grant(self) -> int:
        self.names.append({name: self.runner.run(store.grant(3600)) for name, store in self.stores.items()})
        self.model.leases.add(len(self.names) - 1)
        return len(self.names) - 1

    @rule(lease=leases, keys=st.lists(KEYS, min_size=1, max_size=2, unique=True), value=VALUES)
    def put_with_lease(self, lease, keys, value) -> None:
        alive = lease in self.model.leases
        if alive:
            self.model.apply(dict.fromkeys(keys, (value, lease)))
        for name, store in self.stores.items():
            action = store.commit([], [Put(key, value, self.names[lease][name]) for key in keys])
            if alive:
                assert self.runner.run(action) == self.model.revision
            else:
                with pytest.raises(LeaseGone):
                    self.runner.run(action)

    @rule(lease=leases)
    def revoke(self, lease) -> None:
        self.model.leases.discard(lease)
        self.model.apply({key: None for key, item in list(self.model.items.items()) if item[3] == lease})
        for name, store in self.stores.items():
            self.runner.run(store.revoke(self.names[lease][name]))

    @rule(lease=leases)
    def keep_alive(self, lease) -> None:
        for name, store in self.stores.items():
            action = store.keep_alive(self.names[lease][name])
            if lease in self.model.leases:
                self.runner.run(action)
            else:
                with pytest.raises(LeaseGone):
                    self.runner.run(action)

    @rule(back=st.integers(-2, 6))
    def compact(self, back) -> None:
        revision = self.model.revision - back
        self.model.compacted = max(self.model.compacted, min(revision, self.model.revision))
        for store in self.stores.values():
            self.runner.run(store.compact(revision))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stores["sqlite"].close())
        self.stores["sqlite"] = self.runner.run(SqliteStore.open(self.path, keep=self.keep))

    @rule(prefix=PREFIXES, back=st.integers(0, 8))
    def watch(self, prefix, back) -> None:
        after = max(0, self.model.revision - back)
        expected = [
            (revision, {key: item for key, item in changes.items() if key.startswith(prefix)})
            for revision, changes in self.model.history
            if revision > after and any(key.startswith(prefix) for key in changes)
        ]
        for name, store in self.stores.items():
            if after < self.model.compacted:
                with pytest.raises(Compacted):
                    self.runner.run(_take(store, prefix, after, 1))
                continue
            batches = self.runner.run(_take(store, prefix, after, len(expected)))
            assert [(batch.revision, self._changes(name, batch)) for batch in batches] == expected

    @invariant()
    def all_lists_agree(self) -> None:
        if not hasattr(self, "stores"):
            return
        for name, store in self.stores.items():
            items, revision = self.runner.run(store.list(""))
            assert revision == self.model.revision
            assert [(item.key, self._values(name, item)) for item in items] == sorted(self.model.items.items())

    def _revision(self, key: str) -> int:
        return self.model.items[key][1] if key in self.model.items else 0

    def _values(self, name, item):
        lease = next((number for number, names in enumerate(self.names) if names[name] == item.lease), None)
        return item.value, item.revision, item.created_revision, lease

    def _changes(self, name: str, batch: Batch):
        return {change.key: self._values(name, change.item) if change.item else None for change in batch.changes}


async def _take(store: Store, prefix: str, after: int, count: int) -> list[Batch]:
    watch = store.watch(prefix, after)
    async with asyncio.timeout(5):
        batches = [await anext(watch) for _ in range(count)]
    await watch.aclose()
    return batches


Stores.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestStoreModel = Stores.TestCase
