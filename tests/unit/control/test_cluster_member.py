"""What a member makes of what its host says on a session, step by step."""

import time
from pathlib import Path
from typing import Any

import msgspec
from control_rig import Stored, storing
from records import deployment, ids

from fallow.agent.cluster_member import ClusterMember, Home
from fallow.control.hub import Hub
from fallow.control.remote_services import RemoteServices
from fallow.control.replica_logs import OrderedLogs
from fallow.control.rosters import guarded
from fallow.model.cluster_frames import SetShares
from fallow.model.deployments import Origin
from fallow.model.members import Lease
from fallow.model.shares import ShareOrder
from fallow.model.wire import Welcome


async def test_a_report_speaks_of_an_order_only_once_it_is_followed(tmp_path: Path) -> None:
    web = deployment("web", 5, share=2, origin=Origin(revision=7, generation=1, taken_as=1), revision=0)
    async with storing(web) as stored:
        member = ClusterMember(home(stored, tmp_path), stored.applier)
        member.opened(Welcome(member_id="c-1", name="west", heartbeat_seconds=1.0, lease=Lease(address="")))
        (first,) = (await member.outbox.next()).reports
        assert (first.revision, first.replicas) == (7, 2)
        same = ShareOrder(
            deployment_id="d-web", project="shop", name="web", spec=web.spec, generation=1, replicas=2, revision=11
        )
        member.received(SetShares(full=True, orders=(same,)))
        assert reported(member, stored) == (11, 2)
        member.received(SetShares(full=False, orders=(msgspec.structs.replace(same, replicas=3, revision=12),)))
        assert reported(member, stored) == (7, 2)
        await member._take_in({"d-web"})
        assert reported(member, stored) == (12, 3)
        member.closed()
        assert reported(member, stored) == (12, 3)


def reported(member: ClusterMember, stored: Stored) -> tuple[int, int]:
    found = member._report_of(stored.cache.snapshot(), "d-web")
    assert found is not None
    return found.revision, found.replicas


def home(stored: Stored, folder: Path) -> Home:
    vault: Any = None
    return Home(
        cache=stored.cache, secrets=vault, folder=folder, new_id=ids(), heard=dict, most_records=100,
        guard=lambda step, now: guarded(stored.cache, step, "deployments", now),
        remotes=lambda applier, send: RemoteServices(stored.cache, applier, Hub(time.time), time.time, send),
        logs=OrderedLogs(stored.cache, Hub(time.time)).lines, errors=lambda: msgspec.UNSET,
    )  # fmt: skip
