"""A network in memory, with what may go wrong as attributes that a test sets."""

from collections.abc import Iterable

from fallow.drivers.network.contract import NetworkError, checked
from fallow.model.network import NetworkPeer, NetworkReport, NetworkState

MTU = 1420


class FakeNetwork:
    """Remembers what was applied. `failing` makes every call fail with that text; `applied` counts successes."""

    def __init__(self, key: str, own: Iterable[str] = ()) -> None:
        self.key = key
        self.own = frozenset(own)
        self.failing = ""
        self.applied = 0
        self.state: NetworkState | None = None

    async def apply(self, wanted: NetworkState) -> NetworkReport:
        """Take in a state."""
        self._fail()
        wanted = checked(wanted)
        before = {peer.key: peer for peer in self.state.peers} if self.state is not None else {}
        self.state = NetworkState(
            lease=wanted.lease,
            peers=tuple(_kept(before.get(peer.key), peer) for peer in wanted.peers if peer.key != self.key),
            keepalive_seconds=wanted.keepalive_seconds,
        )
        self.applied += 1
        return NetworkReport(
            address=wanted.lease.address,
            interface="fake",
            implementation="fake",
            mtu=MTU,
            peers=len(self.state.peers),
        )

    async def read(self) -> NetworkState | None:
        """Return what was applied last."""
        self._fail()
        return self.state

    async def remove(self) -> None:
        """Forget it."""
        self._fail()
        self.state = None

    async def addresses(self) -> frozenset[str]:
        """Return the addresses the machine was made with, and the lease's."""
        self._fail()
        return self.own | ({self.state.lease.address} if self.state is not None else frozenset())

    def _fail(self) -> None:
        if self.failing:
            raise NetworkError(self.failing)


def _kept(before: NetworkPeer | None, wanted: NetworkPeer) -> NetworkPeer:
    """Return the wanted peer, where it was dialled before if nothing else is known."""
    if wanted.endpoint or before is None:
        return wanted
    return NetworkPeer(key=wanted.key, address=wanted.address, endpoint=before.endpoint)
