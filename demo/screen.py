"""What the demo shows: a line a step with its time, and the table at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table


class Screen:
    """Writes to the terminal, or plainly to a file."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, width=None if Console().is_terminal else 120)

    @contextmanager
    def step(self, what: str, outcome: Callable[[], str] | None = None) -> Iterator[None]:
        """Announce a step, and say when it is done, how long it took and what came of it."""
        began = time.monotonic()
        self.console.print(f"[bold]>[/] {what} ...")
        yield
        told = f", {outcome()}" if outcome is not None else ""
        self.console.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s{told}")

    def say(self, text: str) -> None:
        """Show the output of a command, indented."""
        for line in text.rstrip().splitlines():
            self.console.print("    " + line, markup=False, soft_wrap=True)

    def table(self, rows: list[tuple[str, str, str]]) -> None:
        """Show the figures: what, how much, and whether it is as it must be."""
        table = Table("figure", "measured", "", title="What happened")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
