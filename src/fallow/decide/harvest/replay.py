"""How good predictions were, looking back: pure scoring, for choosing a predictor and for benchmarks."""

from dataclasses import dataclass

import numpy as np

from fallow.decide.harvest.history import Floats, History
from fallow.decide.harvest.windows import peak_ahead


@dataclass(frozen=True, slots=True)
class Score:
    """How predictions did over all steps whose peak is known; shares in 0..1, points of capacity as shares too.

    `violations`: steps whose peak was above the prediction; `overshoot`: by how much, the mean of these;
    `overshoot_p99`, `worst`: of these; `harvested`: mean share of the server above the prediction;
    `possible`: the same for who knows the future (the oracle).
    """

    steps: int
    violations: float
    overshoot: float
    overshoot_p99: float
    worst: float
    harvested: float
    possible: float


def peaks_of(history: History, horizon: int, last: int) -> Floats:
    """Return (servers, last): the true peaks after each of the newest steps; not-a-number where not yet over.

    Line for line with `Predictor.peaks`.
    """
    return peak_ahead(history.newest(last).usage, horizon)


def score(predicted: Floats, peaks: Floats) -> Score:
    """Return the score of (servers, steps) predictions, over all servers together."""
    known = np.isfinite(peaks)
    steps = int(known.sum())
    if not steps:
        return Score(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    foretold, true = predicted[known], peaks[known]
    over = (true - foretold)[true > foretold]
    return Score(
        steps=steps,
        violations=len(over) / steps,
        overshoot=float(over.mean()) if len(over) else 0.0,
        overshoot_p99=float(np.quantile(over, 0.99)) if len(over) else 0.0,
        worst=float(over.max()) if len(over) else 0.0,
        harvested=float(1 - foretold.mean()),
        possible=float(1 - true.mean()),
    )
