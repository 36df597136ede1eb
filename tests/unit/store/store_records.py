"""Records and waiting, for the tests of the cache and the applier."""

import asyncio
from collections.abc import Callable

import msgspec

from fallow.model.deployments import Replica, ReplicaState
from fallow.model.events import Event
from fallow.model.kinds import key_of
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.meta import Record
from fallow.model.shares import Share, ShareReport, share_id
from fallow.model.tokens import ApiRole, ApiToken
from fallow.store.contract import Delete, Put, Store


def replica(id_: str, *, node: str = "", revision: int = 0, slot: int = 0) -> Replica:
    return Replica(
        id=id_,
        created_at=1.0,
        updated_at=1.0,
        revision=revision,
        deployment_id="d-1",
        project="default",
        deployment="web",
        slot=slot,
        generation=1,
        template_id="t-1",
        node_id=node,
        state=ReplicaState.PLACED if node else ReplicaState.PENDING,
    )


def member(id_: str, role: Role = Role.NODE, wireguard_key: str = "") -> Member:
    return Member(
        id=id_,
        created_at=1.0,
        updated_at=1.0,
        name=id_,
        role=role,
        key_sha256="",
        token_id="",
        certificate_expires_at=0.0,
        lease=Lease(address=""),
        state=MemberState.READY,
        wireguard_key=wireguard_key,
    )


def share(deployment_id: str, cluster_id: str, leaving: tuple[str, ...] | None = None, replicas: int = 1) -> Share:
    """Return a share; `leaving` is what its cluster says, None: nothing yet."""
    said = None if leaving is None else ShareReport(deployment_id=deployment_id, leaving=leaving)
    return Share(
        id=share_id(deployment_id, cluster_id),
        created_at=1.0,
        updated_at=1.0,
        deployment_id=deployment_id,
        cluster_id=cluster_id,
        replicas=replicas,
        reported=said,
    )


def event(id_: str) -> Event:
    return Event(
        id=id_,
        created_at=1.0,
        updated_at=1.0,
        actor="loop:test",
        subject_kind="replica",
        subject_id="r",
        subject="r",
        reason="Tested",
        message="",
    )


def api_token(id_: str) -> ApiToken:
    return ApiToken(id=id_, created_at=1.0, updated_at=1.0, name=id_, secret_sha256="0" * 64, role=ApiRole.VIEWER)


async def put(store: Store, *records: Record) -> int:
    return await store.commit([], [Put(key_of(record), msgspec.msgpack.encode(record)) for record in records])


async def delete(store: Store, *records: Record) -> int:
    return await store.commit([], [Delete(key_of(record)) for record in records])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)
