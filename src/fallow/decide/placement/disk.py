"""Whether a node's disk is full: nothing new starts there, and what runs goes on.

A node that says so falsely gets less, so its own word is enough.
"""

from fallow.model.members import Member
from fallow.model.wire import Usage

FULL_BYTES = 64 * 2**20  # less than that, and an engine makes no container


def disk_full(node: Member, usage: Usage | None) -> bool:
    """Say whether a node has told a disk, and that nothing of it is left."""
    return usage is not None and node.facts.disk_bytes > 0 and usage.disk_free_bytes < FULL_BYTES
