"""A member cluster behind a session with its control plane."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.cluster_frames import AskRoom, SetShares, Withdrawn
from fallow.model.portions import portions
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import ShareOrder
from fallow.model.wire import OpenLog, ToMember

MOST_ORDERS = 500  # of one frame
MOST_BYTES = 2 * 1024 * 1024  # of the orders in one frame, but for a single one that is larger
MOST_IDS = 10_000
MOST_WORDS = 500  # characters of why a log broke off

Logs = Callable[[OpenLog], AsyncGenerator[str, None]]  # raises LogsRefused


class SessionCluster:
    """Sends what a cluster is told as frames of a bounded size. `logs` asks it for lines, if it understands that."""

    def __init__(self, send: Callable[[ToMember], None], logs: Logs | None = None) -> None:
        self._send = send
        self._logs = logs

    def order(self, orders: Sequence[ShareOrder], removed: Sequence[str] = (), full: bool = False) -> None:
        """Tell it what to run; see `contract.Cluster`."""
        parts = list(portions(orders, MOST_ORDERS, MOST_BYTES))
        if not parts and (removed or full):
            parts = [()]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            gone = tuple(removed) if last else ()
            self._send(SetShares(full=full, orders=part, removed=gone, more=full and not last))

    def ask(self, questions: Sequence[RoomQuestion]) -> None:
        """Ask what it has room for."""
        self._send(AskRoom(questions=tuple(questions)))

    def withdrawn(self, replica_ids: Sequence[str]) -> None:
        """Let leaving replicas stop."""
        for start in range(0, len(replica_ids), MOST_IDS):
            self._send(Withdrawn(replica_ids=tuple(replica_ids[start : start + MOST_IDS])))

    def logs(self, wanted: OpenLog) -> AsyncGenerator[str, None] | None:
        """Ask for lines; see `contract.Cluster`."""
        return _checked(self._logs(wanted)) if self._logs is not None else None


async def _checked(lines: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Yield what a cluster calls lines as lines: one that held several could look like those of another cluster."""
    async with aclosing(lines):
        try:
            async for line in lines:
                yield _one_line(line)
        except LogsRefused as error:
            raise LogsRefused(_one_line(str(error))[:MOST_WORDS]) from error


def _one_line(text: str) -> str:
    return text.replace("\r\n", " ").replace("\n", " ")
