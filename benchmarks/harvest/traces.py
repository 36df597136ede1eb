"""Real traces, read into usage by server and step. None of them is part of this repository: see `HOW`.

A trace is kept as one value a step, the mean of its samples, as the figures of others are; gaps of up to half an hour
are filled with what was measured last before them, longer ones are left open.
"""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fallow.decide.harvest.history import STEP_SECONDS, Floats
from fallow.decide.harvest.windows import held

DAY = 86_400 // STEP_SECONDS
_FILLED = 6  # steps
_ALIBABA_UNUSABLE = ("m_1932", "m_1947")  # half and a sixth of the days only

HOW = """Three public repositories on GitHub hold the traces; clone them into one folder, under their own names:

    gohsyi/cluster_optimization               data/machine_usage.csv          Alibaba 2018, 14 machines, 8 days
    JessieRayeBauer/Time-Series-Forecasting-  rnd/2013-7/*.csv, 2013-8/*.csv  Bitbrains GWA-T-12 Rnd, 500 machines
    numenta/NAB                               data/realAWSCloudwatch/*.csv    Numenta, 11 servers, 14 days

Licences are theirs: the Bitbrains data is of the Grid Workloads Archive, Numenta's is MIT."""


class MissingTraceError(Exception):
    """A file of a trace is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no trace at {path}\n\n{HOW}")


@dataclass(frozen=True)
class Trace:
    """Usage of one resource, (servers, steps) of five minutes from `starts_at` on, UTC seconds."""

    name: str
    resource: str
    servers: tuple[str, ...]
    usage: Floats
    starts_at: float


def alibaba(folder: Path, resource: str) -> Trace:
    """Return the machines that were measured for all eight days; their clock starts at 0."""
    rows = _alibaba_rows(folder, resource)
    usage = np.array([_steps(rows[name], 0.0, 8 * DAY) for name in rows])
    return Trace("alibaba-2018", resource, tuple(rows), held(usage, _FILLED), 0.0)


def alibaba_samples(folder: Path, seconds: int) -> Floats:
    """Return the processors of the same machines, each sample until the next one, every so many seconds."""
    moments = np.arange(0, 8 * 86_400, seconds)
    found = []
    for samples in _alibaba_rows(folder, "cpu").values():
        newest = np.searchsorted(samples[:, 0], moments, side="right") - 1
        found.append(np.where(newest >= 0, samples[np.maximum(newest, 0), 1], np.nan))
    return np.array(found)


def _alibaba_rows(folder: Path, resource: str) -> dict[str, Floats]:
    """Return (time, share) samples by machine, oldest first."""
    path = _there(folder / "cluster_optimization" / "data" / "machine_usage.csv")
    rows: dict[str, list[tuple[float, float]]] = {}
    column = {"cpu": 2, "memory": 3}[resource]
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            if row[0] not in _ALIBABA_UNUSABLE and row[column]:
                rows.setdefault(row[0], []).append((float(row[1]), float(row[column]) / 100))
    return {name: np.array(sorted(rows[name])) for name in sorted(rows)}


def bitbrains(folder: Path, resource: str, month: int, ids: range) -> Trace:
    """Return machines of one month of 2013 by their number; memory is the share of what was given to the machine."""
    starts_at = datetime(2013, month, 1, tzinfo=UTC).timestamp() - 2 * 3600  # the files begin at midnight in Amsterdam
    usage = []
    for number in ids:
        path = _there(folder / "Time-Series-Forecasting-" / "rnd" / f"2013-{month}" / f"{number}.csv")
        table = np.loadtxt(path, delimiter=";", skiprows=1, ndmin=2, usecols=(0, 1, 4, 5, 6))
        table = table[(table[:, 1] > 0) & (table[:, 3] > 0)]  # without processors or memory: not there yet
        share = table[:, 2] / 100 if resource == "cpu" else table[:, 4] / table[:, 3]
        usage.append(_steps(np.column_stack([table[:, 0], share]), starts_at, 31 * DAY))
    names = tuple(str(number) for number in ids)
    return Trace(f"bitbrains-2013-{month}", resource, names, held(np.array(usage), _FILLED), starts_at)


def numenta(folder: Path) -> Trace:
    """Return processors of cloud servers, each from its own first midnight on, so that days line up."""
    root = folder / "NAB" / "data"
    paths = sorted(_there(root / "realAWSCloudwatch").glob("*cpu_utilization_*.csv"))
    paths.append(_there(root / "realKnownCause" / "cpu_utilization_asg_misconfiguration.csv"))
    usage = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [
                (datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp(), float(row["value"]) / 100)
                for row in csv.DictReader(lines)
            ]
        usage.append(_steps(np.array(rows), rows[0][0] // 86_400 * 86_400, 15 * DAY))
    return Trace("numenta", "cpu", tuple(path.stem for path in paths), held(np.array(usage), _FILLED), 0.0)


def _steps(samples: Floats, starts_at: float, count: int) -> Floats:
    """Return the mean of (time, share) samples in each step; more than the whole counts as the whole."""
    step = np.floor((samples[:, 0] - starts_at) / STEP_SECONDS).astype(np.int64)
    inside = (step >= 0) & (step < count) & np.isfinite(samples[:, 1]) & (samples[:, 1] >= 0)
    shares = np.clip(samples[inside, 1], 0.0, 1.0)
    counts = np.bincount(step[inside], minlength=count)
    sums = np.bincount(step[inside], weights=shares, minlength=count)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _there(path: Path) -> Path:
    if not path.exists():
        raise MissingTraceError(path)
    return path
