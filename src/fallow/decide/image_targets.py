"""Whom an image job is for: nodes by name or by selector, and of those a share that is the same each time."""

from zlib import crc32

from fallow.decide.placement.columns import SeeingColumns
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.image_jobs import ImageTarget
from fallow.model.members import Member


def targeted(snapshot: Snapshot, target: ImageTarget, heard: Heard) -> list[Member]:
    """Return the nodes a target means now, in an order that does not change when others come or go.

    A share of them is the first so many in that order: 30 % contain the nodes that 10 % are. A selector that cannot
    be read any more, or whose label sets are gone, means nobody.
    """
    if target.names:
        wanted = set(target.names)
        found = [node for node in snapshot.nodes.values() if node.id in wanted or node.name in wanted]
    else:
        found = _selected(snapshot, target.selector, heard)
    found.sort(key=_place)
    return found if target.percent == 100 else found[: -(-len(found) * target.percent // 100)]


def _selected(snapshot: Snapshot, text: str, heard: Heard) -> list[Member]:
    nodes = list(snapshot.nodes.values())
    try:
        selector = parse_selector(text)
    except ValueError:
        return []
    if not selector.requirements:
        return nodes
    columns = SeeingColumns(nodes, snapshot.label_sets, heard)
    if any(columns.trouble(each) for each in selector.requirements):
        return []
    return [nodes[row] for row in columns.all_of(selector).nonzero()[0]]


def _place(node: Member) -> tuple[int, str]:
    return crc32(node.id.encode()), node.id
