"""Showing something that changes: lists with `--watch`, and waiting for a wish to come true."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

from rich.console import RenderableType
from rich.live import Live

from fallow.cli import output
from fallow.cli.session import Session
from fallow.client.errors import ClientError, Unreachable, WatchLost

if TYPE_CHECKING:
    from fallow.client.api import Client
    from fallow.client.listings import Listing

T = TypeVar("T")

REDRAW_SECONDS = 5.0  # ages and use of processors change without an event
FIRST_POLL_SECONDS = 0.05
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0  # how long the control plane may be away while somebody watches


class Changes:
    """Says when records of some kinds have changed; level-triggered, so several changes are one."""

    def __init__(self, session: Session, kinds: Sequence[str], revision: int) -> None:
        self._client = session.client()
        self._kinds = tuple(kinds)
        self._revision = revision
        self._changed = threading.Event()
        self._closed = False
        self._failure: ClientError | None = None
        threading.Thread(target=self._read, name="watch", daemon=True).start()

    def _read(self) -> None:
        while not self._closed:
            try:
                for change in self._client.watch(self._kinds, self._revision, patience_seconds=PATIENCE_SECONDS):
                    self._revision = change.revision
                    self._changed.set()
            except WatchLost:
                self._changed.set()
                time.sleep(POLL_SECONDS)  # the next list brings a revision that is kept
            except (ClientError, RuntimeError) as error:  # RuntimeError: the client was closed
                self._failure = error if isinstance(error, ClientError) else None
                self._changed.set()
                return

    def wait(self, seconds: float) -> bool:
        """Return True when something has changed since the last call, False after `seconds`. Raises ClientError."""
        changed = self._changed.wait(seconds)
        self._changed.clear()
        if self._failure is not None:
            raise self._failure
        return changed

    def seen(self, revision: int) -> None:
        """Note the revision of a newer list."""
        self._revision = max(self._revision, revision)

    def close(self) -> None:
        """Stop reading."""
        self._closed = True
        self._client.close()


class Display:
    """Shows a picture that is replaced on a terminal; elsewhere every different picture is printed below the last."""

    def __init__(self, stack: ExitStack, *, to_stderr: bool = False) -> None:
        self._stream = sys.stderr if to_stderr else sys.stdout
        self._last = ""
        self._live: Live | None = None
        if output.on_terminal(self._stream):
            console = output.stderr() if to_stderr else output.stdout()
            self._live = stack.enter_context(Live(console=console, auto_refresh=False))

    @property
    def live(self) -> bool:
        """Say whether pictures replace each other."""
        return self._live is not None

    def draw(self, picture: RenderableType) -> None:
        """Show the newest picture."""
        if self._live is not None:
            self._live.update(picture, refresh=True)
            return
        text = output.rendered(picture)
        if text != self._last:
            self._stream.write(text + "\n")
            self._stream.flush()
            self._last = text


def show_list(
    session: Session,
    fetch: Callable[["Client"], "Listing[T]"],
    draw: Callable[[Sequence[T]], RenderableType],
    *,
    as_json: bool,
    watch: Sequence[str] = (),
    note: Callable[["Client"], None] = lambda _: None,
) -> None:
    """Print what `fetch` lists, once, or with `watch` (kinds of records) again on every change until interrupted.

    `note` tells what else is worth knowing, below a table that is printed once.
    """
    with ExitStack() as stack:
        client = stack.enter_context(session.client())
        found = fetch(client)
        if not watch:
            if as_json:
                output.write_json(found)
            else:
                output.show(draw(found.items))
                note(client)
            return
        changes = Changes(session, watch, found.revision)
        stack.callback(changes.close)
        display = None if as_json else Display(stack)
        while True:
            if display is None:
                output.write_json(found, one_line=True)
            else:
                display.draw(draw(found.items))
            while not changes.wait(REDRAW_SECONDS) and (display is None or not display.live):
                pass
            with suppress(Unreachable):  # it may be restarting; `wait` gives up after a while
                found = fetch(client)
                changes.seen(found.revision)


def wait_until(look: Callable[[], tuple[bool, RenderableType]], seconds: float) -> bool:
    """Look again and again until `look()` says done, showing its picture; False when `seconds` have passed."""
    end = time.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    with ExitStack() as stack:
        display = Display(stack, to_stderr=True)
        while True:
            done, picture = look()
            display.draw(picture)
            left = end - time.monotonic()
            if done or left <= 0:
                return done
            time.sleep(min(pause, left))
            pause = min(pause * 2, POLL_SECONDS)
