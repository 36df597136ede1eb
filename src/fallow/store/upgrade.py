"""From the shape an older program stored to the one this program knows: step by step, whoever is killed in between.

While a step runs, the version stored reads `1>2:KEY`: from 1 to 2, all keys up to KEY are done. Each portion of keys is
one commit, which also writes how far it came and which holds only if nobody else came further: two programs that
upgrade at once divide the work, and one that is killed has lost nothing. Programs that know only the older version
refuse to start from the first portion on.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from fallow.model.audit import AuditEntry
from fallow.model.events import Event
from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.model.members import Member
from fallow.model.registrations import MemberKey
from fallow.store.contract import Check, Conflict, Item, Put, Store, StoreError, Write

# What stands for the version of the data while a restore is filling a store.
UNFINISHED = b"unfinished restore"

# Of keys in one commit. etcd refuses more than 128 checks or writes in one; a step may make two writes of a key.
PORTION = 50

_STATE = re.compile(r"([1-9]\d*)(?:>([1-9]\d*):(.*))?", re.DOTALL)
_log = structlog.get_logger("fallow.store")


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What leads from one version to the next: `change` gives the writes for each key below `prefix`.

    It is pure, and its writes may only add keys outside `prefix` or change the key itself. It need not care for being
    called twice: what it gave is committed once.
    """

    prefix: str
    change: Callable[[str, bytes], Sequence[Write]]


def _audit_of_event(key: str, value: bytes) -> Sequence[Write]:
    """Version 2 keeps what people did through the API apart, and longer; version 1 had it only among all events."""
    event = msgspec.msgpack.decode(value, type=Event)
    if not event.actor.startswith("api:"):
        return ()
    entry = AuditEntry(
        id=event.id,
        created_at=event.created_at,
        updated_at=event.updated_at,
        who=event.actor,
        operation="",
        subject_kind=event.subject_kind,
        subject_id=event.subject_id,
        subject=event.subject,
        summary=event.message,
    )
    return (Put(f"audit/{event.id}", msgspec.msgpack.encode(entry)),)


def _key_of_member(_key: str, value: bytes) -> Sequence[Write]:
    """Version 3 has a record of every key a machine joined with; version 2 told it of members alone."""
    member = msgspec.msgpack.decode(value, type=Member)
    key = MemberKey(
        id=member.key_sha256,
        created_at=member.created_at,
        updated_at=member.created_at,
        member_id=member.id,
        token_id=member.token_id,
        source_address=member.lease.address,
    )
    return (Put(f"member-keys/{key.id}", msgspec.msgpack.encode(key)),)


# By the version it begins with.
UPGRADES: dict[int, Upgrade] = {1: Upgrade("events/", _audit_of_event), 2: Upgrade("members/", _key_of_member)}


@dataclass(frozen=True, slots=True)
class _State:
    """What `meta/schema` says: at `version`, or on the way to the next with all keys up to `done` changed."""

    version: int
    under_way: bool
    done: str


async def bring_up_to_date(store: Store, keep_copy: Callable[[int], Awaitable[None]] | None = None) -> None:
    """Bring what is stored to SCHEMA_VERSION; an empty store gets that version at once.

    `keep_copy` is called with the version before anything is changed. Raises StoreError for data of a newer program, or
    of none of ours.
    """
    await upgrade(store, UPGRADES, SCHEMA_VERSION, keep_copy)


async def upgrade(
    store: Store,
    upgrades: dict[int, Upgrade],
    wanted: int,
    keep_copy: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Do what `bring_up_to_date` does, for any steps and version."""
    while True:
        item = await store.get(SCHEMA_KEY)
        try:
            if item is None:
                await store.commit([Check(SCHEMA_KEY, 0)], [Put(SCHEMA_KEY, str(wanted).encode())])
                return
            state = _state(item, wanted)
            if state.version == wanted:
                return
            if not state.under_way and keep_copy is not None:
                await keep_copy(state.version)
            await _step(store, item.revision, state, upgrades[state.version])
        except Conflict:  # another program came further meanwhile, or changed a record: look again
            continue


async def _step(store: Store, at: int, state: _State, upgrade: Upgrade) -> None:
    """Go to the next version from where it was left; `at` is the revision of what says so. Raises Conflict."""
    before, after = state.version, state.version + 1
    _log.info("the stored data is upgraded", version=before, to=after, resumed=state.under_way)
    items, _ = await store.list(upgrade.prefix)
    waiting = [item for item in items if item.key > state.done]
    for start in range(0, max(1, len(waiting)), PORTION):  # at least once, so that older programs stay out
        checks, writes = [Check(SCHEMA_KEY, at)], list[Write]()
        done = state.done
        for item in waiting[start : start + PORTION]:
            made = upgrade.change(item.key, item.value)
            checks += [Check(item.key, item.revision)] if made else []
            writes += made
            done = item.key
        at = await store.commit(checks, [*writes, Put(SCHEMA_KEY, f"{before}>{after}:{done}".encode())])
    await store.commit([Check(SCHEMA_KEY, at)], [Put(SCHEMA_KEY, str(after).encode())])
    _log.info("the stored data is upgraded", version=after)


def _state(item: Item, wanted: int) -> _State:
    if item.value == UNFINISHED:
        raise StoreError("a restore into this store did not finish: run it again, from the beginning")
    text = item.value.decode(errors="replace")
    match = _STATE.fullmatch(text)
    if match is None:
        raise StoreError(f"the stored data is of version {text[:80]}, this program knows version {wanted}")
    version, target = int(match[1]), int(match[2] or match[1])
    if target > wanted or (match[2] and target != version + 1):
        raise StoreError(
            f"the stored data is of version {target}, this program knows version {wanted}; use the newer program that "
            "wrote it, or go back to the copy that was kept before the upgrade"
        )
    return _State(version, match[2] is not None, match[3] or "")
