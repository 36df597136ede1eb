"""A gateway's name server: serves what the control plane sends, and what was last known when nobody sends anything."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from fallow.decide.names import changed, whole
from fallow.decide.zone import Zone
from fallow.drivers.dns.server import NameServer, report_of
from fallow.drivers.folders import write_whole
from fallow.model.labels import Variable
from fallow.model.names import DNS_PORT_VARIABLE, NamesChange, NamesReport

_log = structlog.get_logger("fallow.agent.names")

_FILE = "last-known-names.json"
SAVE_SECONDS = 2.0  # between two writes; names change more often than a disk likes


class NameService:
    """Serves names at `addresses` (host and port) and keeps the newest in `folder`.

    `told`: names have come on the session that is open now.
    """

    def __init__(self, folder: Path, addresses: Sequence[tuple[str, int]]) -> None:
        self.server = NameServer()
        self.told = False
        self._file = folder / _FILE
        self._addresses = addresses
        self._news = asyncio.Event()
        self._saving = threading.Lock()
        self._saved: Zone | None = None
        self._trouble = ""

    @property
    def variables(self) -> Sequence[Variable]:
        """Return what tells the control plane that names are served here."""
        return [Variable(name=DNS_PORT_VARIABLE, value=str(port)) for _, port in self._addresses[:1]]

    async def start(self) -> None:
        """Serve what was last known. Raises NameServerError when an address is taken."""
        for host, port in self._addresses:
            await self.server.listen(host, port)
        try:
            change = msgspec.json.decode(self._file.read_bytes(), type=NamesChange)
            self.server.set(changed(None, change))
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.DecodeError) as error:
            _log.warning("the names last known cannot be read; waiting for new ones", reason=str(error))

    async def stop(self) -> None:
        """Serve no more."""
        await self.server.close()

    def take(self, change: NamesChange) -> None:
        """Serve other names from now on. Raises ValueError when the change is to names that are not served here."""
        self.server.set(changed(self.server.zone, change))
        self.told = True
        self._news.set()

    def report(self) -> NamesReport:
        """Return what the name server does now."""
        return report_of(self.server, time.monotonic(), self._trouble)

    async def keep(self) -> None:
        """Write the newest names to disk, again and again; what is new at the end too."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await asyncio.to_thread(self._save)
                await asyncio.sleep(SAVE_SECONDS)
        finally:
            self._save()

    def _save(self) -> None:
        """Write the names that are served, unless they are on disk; a cancelled write may still be under way."""
        with self._saving:
            zone = self.server.zone
            if zone is None or zone is self._saved:
                return
            try:
                write_whole(self._file, msgspec.json.encode(whole(zone)), durable=True)
                self._saved, self._trouble = zone, ""
            except OSError as error:
                self._trouble = f"names are not kept for the next start: {error}"
                _log.warning("names not kept", reason=str(error))
