"""Counters by backend key that go on where HAProxy begins at zero: after a reload or a restart."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fallow.model.routes import BackendStats

_RESPONSES = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")


class Counters:
    """Adds up differences between one reading of `show stat` and the next."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, int]] = {}
        self._totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._now: dict[str, dict[str, int]] = {}

    def update(self, rows: Iterable[Mapping[str, str]], keys: Mapping[str, str]) -> None:
        """Take in one reading; `keys` are backend keys by HAProxy's name of the backend."""
        now: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for row in rows:
            key = keys.get(row["pxname"])
            if key is None or row["svname"] != "BACKEND":
                continue
            counted = _counted(row)
            last = self._last.get(row["pxname"], {})
            for name, value in counted.items():
                before = last.get(name, 0)
                self._totals[key][name] += value - before if value >= before else value
            self._last[row["pxname"]] = counted
            now[key]["active"] += _number(row, "scur")
            now[key]["endpoints_up"] += _number(row, "act") + _number(row, "bck")
        self._now = now
        for gone in set(self._totals) - set(keys.values()):
            del self._totals[gone]

    def begin_anew(self) -> None:
        """Note that HAProxy counts from zero again."""
        self._last = {}

    def stats(self) -> tuple[BackendStats, ...]:
        """Return the counters as of the last update, sorted by key."""
        return tuple(
            BackendStats(key=key, **totals, **self._now.get(key, {})) for key, totals in sorted(self._totals.items())
        )


def _counted(row: Mapping[str, str]) -> dict[str, int]:
    web = row.get("mode") == "http"
    return {
        "requests": sum(_number(row, name) for name in _RESPONSES) if web else _number(row, "stot"),
        "errors_5xx": _number(row, "hrsp_5xx"),
        "connection_errors": _number(row, "econ"),
        "retries": _number(row, "wretr"),
        "bytes_in": _number(row, "bin"),
        "bytes_out": _number(row, "bout"),
    }


def _number(row: Mapping[str, str], name: str) -> int:
    return int(row.get(name) or 0)
