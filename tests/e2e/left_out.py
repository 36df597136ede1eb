"""What a run leaves out because it is slow is told at its end, file by file, with the command that runs it.

Hooks for a conftest. With xdist it is the workers that leave out, and the one who started them that tells.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

KEY = "left_out"
WHY = "left out: silences and fences have to pass there, or emulated machines to boot; `make faults` runs them"
_found = pytest.StashKey[dict[str, tuple[int, str]]]()


def by_file(items: Sequence[pytest.Item]) -> dict[str, tuple[int, str]]:
    """Return how many slow tests there are of each file, and what the file is about."""
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    about = {item.location[0]: _first_line(item) for item in slow}
    return {file: (count, about[file]) for file, count in Counter(item.location[0] for item in slow).items()}


def lines(found: dict[str, tuple[int, str]]) -> list[str]:
    """Return them for people, a file a line."""
    return [f"{count:3} {file}: {about}" for file, (count, about) in sorted(found.items())]


def _first_line(item: pytest.Item) -> str:
    module = item.getparent(pytest.Module)
    text = (module.obj.__doc__ or "") if module is not None else ""
    return str(text).strip().partition("\n")[0]


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note what is left out."""
    if items:
        items[0].config.stash.setdefault(_found, {}).update(by_file(items))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker hand over what it noted."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[KEY] = session.config.stash.get(_found, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker noted; all of them leave out the same."""
    found = {file: tuple(told) for file, told in getattr(node, "workeroutput", {}).get(KEY, {}).items()}
    node.config.stash.setdefault(_found, {}).update(found)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell it."""
    found = config.stash.get(_found, {})
    if found:
        terminalreporter.write_sep("=", f"{sum(count for count, _ in found.values())} slow tests")
        terminalreporter.write_line(WHY)
        for line in lines(found):
            terminalreporter.write_line(line)
