"""Changing the labels of every member that a selector picks: who they are, and what becomes of each."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from fallow.decide.label_sets import chosen
from fallow.decide.matching import Sight, picks
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard, node_keys, sight_of
from fallow.model.labels import RelabelItem, Selector
from fallow.model.members import Member

MAX_LABELS = 64


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to become of whom; `revisions` None: of all that are picked, else only of those still at theirs."""

    selector: Selector
    labels: Mapping[str, str | None]
    role: str = ""
    revisions: Mapping[str, int] | None = None


def wanted(snapshot: Snapshot, wish: Wish, heard: Heard) -> list[str]:
    """Return the ids of the members that are meant, by name."""
    if wish.revisions is not None:
        return sorted(wish.revisions)
    return [found.id for found in chosen(snapshot, wish.selector, heard) if wish.role in ("", found.role)]


def relabelled(snapshot: Snapshot, member: Member, wish: Wish) -> tuple[Member, RelabelItem]:
    """Return a member as it is wished to be, and the difference. Raises ValueError when it would have too many."""
    labels = dict(member.labels)
    for key, value in wish.labels.items():
        if value is None:
            labels.pop(key, None)
        else:
            labels[key] = value
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{member.name} would have {len(labels)} labels; a member has at most {MAX_LABELS}")
    keys = [key for key in sorted(wish.labels) if member.labels.get(key) != labels.get(key)]
    # Without what it says of itself: a label that is given on somebody's own word proves nothing.
    unprompted = Sight(member.labels, {}, node_keys(member))
    item = RelabelItem(
        id=member.id,
        name=member.name,
        revision=member.revision,
        before={key: member.labels[key] for key in keys if key in member.labels},
        after={key: labels[key] for key in keys if key in labels},
        outcome="would-change" if keys else "unchanged",
        by_variables=not picks(wish.selector, unprompted, snapshot.label_sets),
    )
    return msgspec.structs.replace(member, labels=labels), item


def missed(snapshot: Snapshot, id_: str, wish: Wish, heard: Heard) -> RelabelItem | None:
    """Return why a member that was meant is left alone: it is gone, has changed or is picked no more; else None."""
    member = snapshot.members.get(id_)
    if member is None:
        return RelabelItem(id=id_, name="", revision=0, before={}, after={}, outcome="gone")
    sight = sight_of(member, heard.get(id_))
    same = wish.revisions is None or wish.revisions.get(id_) == member.revision
    if same and wish.role in ("", member.role) and picks(wish.selector, sight, snapshot.label_sets):
        return None
    # A call that is repeated because its answer was lost finds its own work done.
    done = all(member.labels.get(key) == value for key, value in wish.labels.items())
    return RelabelItem(
        id=id_,
        name=member.name,
        revision=member.revision,
        before={},
        after={},
        outcome="unchanged" if done else "conflict",
    )


def in_words(item: RelabelItem) -> str:
    """Return the difference for an event: `label zone=b, label old removed`."""
    set_ = [f"label {key}={value}" for key, value in item.after.items()]
    return ", ".join([*set_, *(f"label {key} removed" for key in item.before if key not in item.after)])
