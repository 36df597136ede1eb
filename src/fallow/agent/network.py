"""A member's own network: it has its lease's address, or says why not."""

import asyncio
import base64
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fallow.agent.folder import set_aside, write_private
from fallow.client.tasks import first_to_end
from fallow.drivers.engine.contract import Resolving
from fallow.drivers.network.contract import Network, NetworkError
from fallow.model.frames import Frame
from fallow.model.members import Lease
from fallow.model.network import NetworkPeer, NetworkReport, NetworkState
from fallow.model.pools import NetworkMode
from fallow.model.wire import ChangePeers, NetworkReported, SetNetwork, Welcome

_log = structlog.get_logger("fallow.agent.network")

FILE = "network.json"
CHECK_SECONDS = 10.0  # so often what is in place is compared with what is wanted
RETRY_SECONDS = 1.0
KEEPALIVE_SECONDS = 25  # shorter than NAT forgets a way that nothing uses, as WireGuard's authors advise
NAME_CHARS = 15  # of an interface's name in Linux
MOST_NAME_SERVERS = 2  # of the pool's, for a container: the next ones are the machine's own
MOST_RESOLVERS = 3  # that a C library asks
RESOLVER_OPTIONS = ("timeout:1", "attempts:2")  # a gateway that is away must not cost five seconds a name
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def interface_of(member_id: str) -> str:
    """Return the name of a member's interface."""
    return f"fallow-{member_id[-8:]}"[:NAME_CHARS]


def own_resolvers(files: Sequence[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """Return the machine's own name servers that its containers reach, too: those of the first file that has any.

    One that listens on the machine's loopback address is not in a container; systemd's tells whom it asks itself in a
    file of its own.
    """
    for file in files:
        try:
            lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        except OSError:
            continue
        found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver" and _reachable(words[1])]
        if found:
            return tuple(found)
    return ()


def _reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)


def key_of(folder: Path, member_id: str) -> tuple[Path, str]:
    """Return the file with the member's private key, made at first use, and its public key. Raises OSError.

    A key belongs to one identity: who joins anew does not claim the key of the member it was before.
    """
    path = folder / f"wireguard-{member_id}.key"
    try:
        private = X25519PrivateKey.from_private_bytes(base64.b64decode(path.read_bytes().strip(), validate=True))
    except FileNotFoundError:
        private = _make_key(path)
    except ValueError:
        _log.error("the overlay's key cannot be read; another is made", kept_as=str(set_aside(path)))
        private = _make_key(path)
    return path, base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _make_key(path: Path) -> X25519PrivateKey:
    private = X25519PrivateKey.generate()
    write_private(path, base64.b64encode(private.private_bytes_raw()) + b"\n")
    return private


class Networking:
    """Makes the network what the control plane wants, and again after a boot, before there is a session.

    `key` is the public key of the member, `lease` the one it joined with. `steady` gives seconds that nobody sets.
    """

    def __init__(
        self,
        driver: Network,
        key: str,
        folder: Path,
        lease: Lease,
        *,
        check_seconds: float = CHECK_SECONDS,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.report = NetworkReport()
        self._driver = driver
        self._path = folder / FILE
        self._check_seconds = check_seconds
        self._steady = steady
        self._saved = self._load()
        self._wanted = self._saved or NetworkState(lease=lease)
        self._source = ""  # where our sessions come from, as the control plane sees it
        self._changed = asyncio.Event()
        self._tell = asyncio.Event()

    @property
    def bind_address(self) -> str:
        """Return where containers publish their ports: in an overlay on the lease's address alone; empty: anywhere."""
        lease = self._wanted.lease
        return lease.address if lease.mode is NetworkMode.WIREGUARD else ""

    def resolving(self, deployment: str) -> Resolving:
        """Return how containers of a deployment (`project/name`) find names: those of their project are short."""
        wanted = self._wanted
        if wanted.lease.mode is not NetworkMode.WIREGUARD or not (wanted.name_servers and wanted.domain):
            return Resolving()
        project, _, _ = deployment.partition("/")
        ours = wanted.name_servers[:MOST_NAME_SERVERS]
        behind = [server for server in own_resolvers() if server not in ours]
        return Resolving(
            servers=(*ours, *behind)[:MOST_RESOLVERS],
            search=(f"{project}.svc.{wanted.domain}",),
            options=RESOLVER_OPTIONS,
        )

    async def start(self) -> None:
        """Make the network as it was last known, so that what starts next finds its address. It may fail."""
        await self._try()

    async def run(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        """Keep the network, and tell of it, until cancelled."""
        await first_to_end(self._keep(), self._report_changes(send))

    async def forget(self) -> None:
        """Take the network away: the control plane turned us away for good."""
        try:
            await self._clear()
        except (NetworkError, OSError) as error:
            _log.warning("the network could not be taken away", reason=str(error))

    def opened(self, welcome: Welcome) -> None:
        """Take in the lease as it is now, and tell anew what the network is."""
        self._source = welcome.source_address or self._source
        if welcome.lease != self._wanted.lease:
            same = welcome.lease.pool == self._wanted.lease.pool and welcome.lease.mode is NetworkMode.WIREGUARD
            self._wanted = NetworkState(
                lease=welcome.lease,
                peers=self._wanted.peers if same else (),
                keepalive_seconds=self._wanted.keepalive_seconds,
                name_servers=self._wanted.name_servers if same else (),
                domain=self._wanted.domain if same else "",
            )
        self._changed.set()
        self._tell.set()

    def received(self, frame: SetNetwork | ChangePeers) -> None:
        """Take in what should be."""
        if isinstance(frame, SetNetwork):
            self._wanted = msgspec.structs.replace(frame.state, keepalive_seconds=self._wanted.keepalive_seconds)
        else:
            servers = self._wanted.name_servers if frame.name_servers is None else frame.name_servers
            self._wanted = msgspec.structs.replace(
                self._wanted, peers=_changed_peers(self._wanted.peers, frame), name_servers=servers
            )
        self._changed.set()

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            well = await self._try()
            pause = self._check_seconds if well else RETRY_SECONDS
            await first_to_end(self._changed.wait(), asyncio.sleep(pause))

    async def _try(self) -> bool:
        """Make the network what is wanted now; say whether it is."""
        wanted, begun = self._wanted, self._steady()
        try:
            report = await (self._overlay() if wanted.lease.mode is NetworkMode.WIREGUARD else self._direct())
        except (NetworkError, OSError) as error:
            report = NetworkReport(address=wanted.lease.address, problem=str(error)[:1024])
        if report != self.report:
            if report.problem:
                _log.error("the lease's address cannot be used", address=report.address, reason=report.problem)
            elif wanted.lease.mode is NetworkMode.WIREGUARD:
                seconds = round(self._steady() - begun, 2)
                _log.info("overlay set up", **msgspec.structs.asdict(report), seconds=seconds)
            self.report = report
            self._tell.set()
        return not report.problem

    async def _overlay(self) -> NetworkReport:
        await self._look_for_nat()
        wanted = self._wanted
        if wanted != self._saved:  # before it is applied: what is in place is always known to the next start
            await asyncio.to_thread(write_private, self._path, msgspec.json.encode(wanted))
            self._saved = wanted
        return await self._driver.apply(wanted)

    async def _look_for_nat(self) -> None:
        """Keep ways open if the control plane sees us at an address that is not ours: then nobody can dial us."""
        if not self._source:
            return
        source = ipaddress.ip_address(self._source)
        hidden = source.is_loopback or self._source not in await self._driver.addresses()
        self._wanted = msgspec.structs.replace(self._wanted, keepalive_seconds=KEEPALIVE_SECONDS if hidden else 0)

    async def _direct(self) -> NetworkReport:
        """Without an overlay nothing is made; the address must be ours, or the one we are seen at."""
        if self._saved is not None:
            await self._clear()
        address = self._wanted.lease.address
        report = NetworkReport(address=address)
        if not self._source or not address or self._source == address:
            return report
        try:
            own = await self._driver.addresses()
        except NetworkError:
            return report  # nobody can tell
        if address in own:
            return report
        text = (
            f"the lease's address {address} is on no interface of this machine, and the control plane sees it at "
            f"{self._source}: requests for its containers would go elsewhere. Give the machine that address, "
            "or remove the member and join again"
        )
        return msgspec.structs.replace(report, problem=text)

    async def _clear(self) -> None:
        await self._driver.remove()
        self._path.unlink(missing_ok=True)
        self._saved = None

    async def _report_changes(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        while True:
            await self._tell.wait()
            self._tell.clear()
            try:
                await send(NetworkReported(report=self.report))
            except OSError as error:
                _log.debug("report not sent; the next session hears it", reason=str(error))

    def _load(self) -> NetworkState | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=NetworkState)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.error("the last known network cannot be read; waiting for the control plane", reason=str(error))
            return None


def _changed_peers(peers: tuple[NetworkPeer, ...], frame: ChangePeers) -> tuple[NetworkPeer, ...]:
    found = {peer.key: peer for peer in peers}
    for key in frame.removed:
        found.pop(key, None)
    found.update((peer.key, peer) for peer in frame.changed)
    return tuple(found.values())
