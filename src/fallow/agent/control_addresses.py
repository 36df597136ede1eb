"""Where to find the control plane: the process this member joined at, and every other it has been told of."""

from collections.abc import Sequence

import msgspec
import structlog

from fallow.agent.folder import write_private
from fallow.agent.identity import IdentityStore
from fallow.model.peers import ControlAddress

_log = structlog.get_logger("fallow.agent.session")

MAX_ADDRESSES = 16
_decoder = msgspec.json.Decoder(tuple[ControlAddress, ...])


class ControlAddresses:
    """Addresses to dial in turn. Those learnt are kept in `control.json` beside the identity, which has the first."""

    def __init__(self, identity: IdentityStore) -> None:
        self._identity = identity
        self._path = identity.folder / "control.json"
        self._learnt = self._load()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._all())

    @property
    def current(self) -> ControlAddress:
        """Return the one to dial now. Raises IdentityError."""
        found = self._all()
        return found[self._turn % len(found)]

    def move_on(self) -> None:
        """Dial another one next."""
        self._turn += 1

    def learn(self, others: Sequence[ControlAddress]) -> None:
        """Keep what the process that is dialled now says of the other processes."""
        current, first = self.current, self._first()
        learnt = tuple(address for address in (current, *others) if address != first)[:MAX_ADDRESSES]
        if learnt == self._learnt:
            return
        self._learnt = learnt
        self._turn = self._all().index(current)
        try:
            write_private(self._path, msgspec.json.encode(learnt))
        except OSError as error:  # we know them for as long as we live
            _log.warning("addresses of the control plane not kept", reason=str(error))

    def _first(self) -> ControlAddress:
        host, port = self._identity.session_address()
        return ControlAddress(url=self._identity.saved.url, session_host=host, session_port=port)

    def _all(self) -> list[ControlAddress]:
        return list(dict.fromkeys((self._first(), *self._learnt)))

    def _load(self) -> tuple[ControlAddress, ...]:
        try:
            return _decoder.decode(self._path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return ()  # they are told again with the next session
