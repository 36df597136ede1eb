"""How far what is stored of clusters counts, by what the process that decides has heard of them itself."""

from dataclasses import dataclass

from fallow.model.members import Member

SILENT_SECONDS = 600.0  # a cluster that is back for so long, and says nothing of a share, has nothing else to say


def said_all(cluster: Member) -> bool:
    """Say whether it is on record that a cluster has said all there is to say since it was last dead or away.

    Revisions of the store tell that: unlike times, they are never set back.
    """
    return cluster.spoken_at_revision >= max(cluster.died_at_revision, cluster.opened_at_revision)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What was heard, by ids of clusters that are ready as it is stored.

    `unheard`: not on a session since this process leads; they may long be gone, or others. `mute`: back for
    `SILENT_SECONDS`, by a clock that nobody sets, without having said all there is to say.
    """

    unheard: frozenset[str] = frozenset()
    mute: frozenset[str] = frozenset()

    def count(self, cluster: Member) -> bool:
        """Say whether what a cluster said counts: it has said all, or had long the time to, and was heard."""
        return cluster.id not in self.unheard and (said_all(cluster) or cluster.id in self.mute)


ALL_HEARD = Words()
