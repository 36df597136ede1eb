"""What a host needs of a member cluster: that it takes orders, answers questions of room, and reports.

A cluster is told all of it again whenever it is opened, so nothing of this has to be kept by who implements it. Calls
come from the event loop and return at once. The first implementation is a session with a control plane of ours; the
host's own nodes are another. Back-ends pass `tests/contract/test_clusters.py`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from fallow.model.cluster_frames import RoomReported, SharesReported
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import ShareOrder
from fallow.model.wire import OpenLog


class LogsRefused(Exception):  # noqa: N818 - an outcome, not an error of ours
    """Lines of a log cannot be had, or no more of them; the text says why."""


class Cluster(Protocol):
    """A member cluster that can be told something just now."""

    def order(self, orders: Sequence[ShareOrder], removed: Sequence[str] = (), full: bool = False) -> None:
        """Run so many replicas of each deployment from now on, and forget those `removed`, by their ids.

        `full`: there are no others; what runs of any other goes. An order for 0 replicas keeps the deployment, and
        reports of it, until it is removed. A cluster retires replicas that are not ready before those that are, and
        of those that are it keeps `ShareOrder.keep`, though they be more than ordered. It runs the bytes that `digest`
        names, and pulls with what `registry` says nothing but what is ordered. What it cannot run it reports with the
        state `refused` and the reason, and goes on trying.
        """

    def ask(self, questions: Sequence[RoomQuestion]) -> None:
        """Answer these questions, and no others, at once and whenever an answer, or what is free in all, changes.

        Replicas that were ordered and have no place yet count as used.
        """

    def withdrawn(self, replica_ids: Sequence[str]) -> None:
        """Stop these leaving replicas: no gateway outside the cluster asks them any more."""

    def logs(self, wanted: OpenLog) -> AsyncGenerator[str, None] | None:
        """Yield lines of what runs of an order, no faster than they are read; None: this cluster cannot be asked.

        Of one replica, the lines as they are; of all of an ordered deployment that it has now, each line as
        `replica | line`, in whatever order they come. A line has no end of line in it. Raises LogsRefused when there
        is no such order or replica, when it breaks, and when the cluster is not reached any more; its words are one
        line. Whoever stops before the end closes the generator.
        """


class Listener(Protocol):
    """Whom clusters tell. What is said of shares that are not that cluster's is not heard."""

    def shared(self, cluster_id: str, frame: SharesReported) -> "asyncio.Future[None]":
        """Take in reports; done once they are stored, cancelled when they cannot be.

        A cluster reports each share when it has changed, its newest report is repeated until it is stored, and a full
        set of reports comes first after it was opened.
        """

    def roomed(self, cluster_id: str, frame: RoomReported) -> None:
        """Take in all answers to the questions that stand."""
