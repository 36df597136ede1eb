"""What survives us on disk: the state last asked for, and how it was laid out in HAProxy."""

from pathlib import Path

import msgspec

from fallow.drivers.folders import write_whole
from fallow.drivers.proxy.config import Layout
from fallow.model.routes import ProxyState

_FILE = "last-known.json"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The state, the HTTP backend (by number) of each backend key, and the layout of the configuration."""

    state: ProxyState
    slots: dict[str, int]
    generation: int
    backends: int
    listens: tuple[int, ...]

    @property
    def layout(self) -> Layout:
        """Return the layout."""
        return Layout(generation=self.generation, backends=self.backends, listens=self.listens)


def save(folder: Path, state: ProxyState, slots: dict[str, int], layout: Layout) -> None:
    """Write it so that a power cut leaves either the old file or the new one. Raises OSError."""
    saved = Saved(
        state=state, slots=slots, generation=layout.generation, backends=layout.backends, listens=layout.listens
    )
    write_whole(folder / _FILE, msgspec.json.encode(saved), durable=True)


def load(folder: Path) -> Saved | None:
    """Return what was saved; None when there is nothing, or nothing that can be read."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Saved)
    except (OSError, msgspec.DecodeError):
        return None
