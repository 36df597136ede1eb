"""The indexes of a snapshot, carried over to the next one instead of being built anew.

A snapshot builds an index when it is first asked for it, by looking at every record. The next one differs in a few, so
the cache and the applier hand on what has been built and put those few right. An index that is not named here is
built anew, no more.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

from fallow.decide.snapshot import PARTS, Snapshot
from fallow.model.deployments import Replica
from fallow.model.image_jobs import ImageTask, TaskState
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.model.shares import Share

# Index -> the field of Snapshot it is made of.
_FIELD_OF = {
    "replicas_by_deployment": "replicas",
    "replicas_by_node": "replicas",
    "shares_by_deployment": "shares",
    "shares_by_cluster": "shares",
    "shares_empty": "shares",
    "shares_leaving": "shares",
    **{name: field for field, parts in PARTS.items() for name in parts},
    "draining": "members",
    "vms_by_node": "vms",
    "vms_by_server": "vms",
    "live_gateways": "members",
    "members_by_wireguard_key": "members",
    "_deployments_by_path": "deployments",
    "revoked_members": "revocations",
    "image_tasks_by_job": "image_tasks",
    "image_tasks_open": "image_tasks",
    "image_tasks_at_work": "image_tasks",
}

R = TypeVar("R", bound=Record)

# A replica before and after; None: it was not, or is no more.
Moved = tuple[Replica | None, Replica | None]
Index = MutableMapping[str, list[Replica]]


def node_of(replica: Replica) -> str:
    """Return where `replicas_by_node` lists a replica; empty: nowhere."""
    return "" if replica.ended else replica.node_id


def deployment_of(replica: Replica) -> str:
    """Return where `replicas_by_deployment` lists a replica."""
    return replica.deployment_id


def share_of(share: Share) -> str:
    """Return where `shares_by_deployment` lists a share."""
    return share.deployment_id


def cluster_of(share: Share) -> str:
    """Return where `shares_by_cluster` lists a share."""
    return share.cluster_id


def empty_of(share: Share) -> str:
    """Return where `shares_empty` lists a share; empty: nowhere."""
    return "" if share.replicas else share.cluster_id


def leaving_of(share: Share) -> str:
    """Return where `shares_leaving` lists a share; empty: nowhere."""
    return share.cluster_id if share.reported is not None and share.reported.leaving else ""


def wireguard_key_of(member: Member) -> str:
    """Return where `members_by_wireguard_key` lists a member; empty: nowhere."""
    return member.wireguard_key


def job_of(task: ImageTask) -> str:
    """Return where `image_tasks_by_job` lists a task."""
    return task.job_id


def open_job_of(task: ImageTask) -> str:
    """Return where `image_tasks_open` lists a task; empty: nowhere."""
    return "" if task.ended else task.job_id


def worker_of(task: ImageTask) -> str:
    """Return where `image_tasks_at_work` lists a task; empty: nowhere."""
    return task.member_id if task.state is TaskState.WORKING else ""


# Field of Snapshot -> its indexes that list records -> the key under which each lists one.
LISTS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "replicas": {"replicas_by_node": node_of, "replicas_by_deployment": deployment_of},
    "shares": {
        "shares_by_deployment": share_of,
        "shares_by_cluster": cluster_of,
        "shares_empty": empty_of,
        "shares_leaving": leaving_of,
    },
    "members": {"members_by_wireguard_key": wireguard_key_of},
    "image_tasks": {
        "image_tasks_by_job": job_of,
        "image_tasks_open": open_job_of,
        "image_tasks_at_work": worker_of,
    },
}


def carry(before: Snapshot, after: Snapshot, touched: Collection[str]) -> None:
    """Give `after` what `before` has built, but for indexes of the fields in `touched`."""
    for name, field in _FIELD_OF.items():
        if field not in touched and name in vars(before):
            vars(after)[name] = vars(before)[name]


def move_all(before: Snapshot, after: Snapshot, field: str, ids: Collection[str]) -> None:
    """Give `after` the lists and parts that `before` has built of a field, put right for the records that differ."""
    for name, belongs in PARTS.get(field, {}).items():
        if name in vars(before):
            vars(after)[name] = _moved_part(vars(before)[name], getattr(after, field), ids, belongs)
    built = {name: key_of for name, key_of in LISTS.get(field, {}).items() if name in vars(before)}
    if not built:
        return
    then, now = getattr(before, field), getattr(after, field)
    moved = [(then.get(id_), now.get(id_)) for id_ in sorted(ids)]
    for name, key_of in built.items():
        index = vars(after)[name] = vars(before)[name].copy()
        move(index, moved, key_of)


def _moved_part(
    part: Mapping[str, R], now: Mapping[str, R], ids: Collection[str], belongs: Callable[[R], bool]
) -> Mapping[str, R]:
    """Return a part of a field as it is after some records changed: the same one where none of it did."""
    there = {id_: now[id_] for id_ in sorted(ids) if id_ in now and belongs(now[id_])}
    gone = [id_ for id_ in ids if id_ in part and id_ not in there]
    if not there and not gone:
        return part
    moved = {**part, **there}
    for id_ in gone:
        del moved[id_]
    return moved


def move(
    index: MutableMapping[str, list[R]], moved: Iterable[tuple[R | None, R | None]], key_of: Callable[[R], str]
) -> None:
    """Put an index right for records that changed. Its lists may be shared, so they are replaced and not changed."""
    gone: dict[str, set[str]] = {}
    come: dict[str, dict[str, R]] = {}
    for before, after in moved:
        if before is not None and key_of(before):
            gone.setdefault(key_of(before), set()).add(before.id)
        if after is not None and key_of(after):
            come.setdefault(key_of(after), {})[after.id] = after
    for key in dict.fromkeys([*gone, *come]):  # in an order that does not differ from run to run
        news, olds = come.get(key, {}), gone.get(key, set())
        listed = []
        for record in index.get(key, ()):
            if record.id not in olds:
                listed.append(record)
            elif record.id in news:
                listed.append(news.pop(record.id))
        listed += news.values()
        if listed:
            index[key] = listed
        else:
            index.pop(key, None)
