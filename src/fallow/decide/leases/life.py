"""What becomes of leases: in quarantine once their member is gone, and brought up to date when their pool grows."""

import msgspec

from fallow.decide.plan import Plan, Step
from fallow.decide.pools import address_of, carries, network_of
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, Role
from fallow.model.pools import LeaseView, NetworkMode, ReleasedLease

DELETION_SECONDS = 30.0


def release(snapshot: Snapshot, member: Member, now: float) -> tuple[ReleasedLease, ...]:
    """Return what to store in the commit that deletes `member`, so that nobody gets what it had for a while.

    Nothing for a lease without a pool, nor for what was not given: a gateway's own address.
    """
    lease = member.lease
    pool = snapshot.pools.get(lease.pool)
    if pool is None or pool.quarantine_seconds <= 0:
        return ()
    if lease.mode is NetworkMode.WIREGUARD:
        id_ = lease.address
    elif member.role is Role.NODE:
        id_ = f"{lease.address}-{lease.host_ports.first}"
    else:
        return ()
    before = snapshot.released_leases.get(id_)  # of an earlier holder, and not swept yet
    return (
        ReleasedLease(
            id=id_,
            created_at=now,
            updated_at=now,
            revision=before.revision if before is not None else 0,
            address=lease.address,
            pool=pool.id,
            mode=lease.mode,
            host_ports=lease.host_ports,
            agent_port=lease.agent_port,
            member=member.name,
            until=now + pool.quarantine_seconds,
        ),
    )


def follow_pools(snapshot: Snapshot, now: float) -> Plan:
    """Return the changes to leases whose pool has grown since they were given: their network is larger now.

    A pool whose deletion was begun and not finished, because who did it died, is as before.
    """
    steps = [
        Step(puts=(msgspec.structs.replace(pool, deleting=False, updated_at=now),))
        for pool in snapshot.pools.values()
        if pool.deleting and abs(now - pool.updated_at) > DELETION_SECONDS
    ]
    for member in snapshot.members.values():
        pool = snapshot.pools.get(member.lease.pool) if member.lease.pool else None
        if pool is not None and not carries(member.lease, pool):
            lease = msgspec.structs.replace(member.lease, prefix_length=network_of(pool.cidr).prefixlen)
            changed = msgspec.structs.replace(member, lease=lease, updated_at=now)
            steps.append(Step(puts=(changed,), guards=(pool,)))
    return Plan(steps=steps)


def leases_of(snapshot: Snapshot, pool: str, now: float) -> list[LeaseView]:
    """Return the leases of a pool and those of it in quarantine, by address."""
    found = [
        LeaseView(
            address=member.lease.address,
            host_ports=member.lease.host_ports,
            agent_port=member.lease.agent_port,
            member=member.name,
            member_id=member.id,
            state="leased",
        )
        for member in snapshot.members.values()
        if member.lease.pool == pool
    ]
    found += [
        LeaseView(
            address=lease.address,
            host_ports=lease.host_ports,
            agent_port=lease.agent_port,
            member=lease.member,
            state="quarantined",
            until=lease.until,
        )
        for lease in snapshot.released_leases.values()
        if lease.pool == pool and lease.until > now
    ]
    return sorted(found, key=lambda lease: (int(address_of(lease.address)), lease.host_ports.first, lease.member))
