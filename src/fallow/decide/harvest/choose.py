"""Which predictor a server uses: the one that would have done best on its own last days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fallow.decide.harvest.cost import Cost, mean_use
from fallow.decide.harvest.history import Floats, History
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.predict import FixedMargin, Percentile, Predictor, Sigma
from fallow.decide.harvest.replay import Score, peaks_of, score

PREDICTORS: tuple[Predictor, ...] = (LearnedMargin(), FixedMargin(), Sigma(3), Sigma(5), Percentile())


@dataclass(frozen=True, slots=True)
class Choice:
    """The predictor of one server, how it did on that server, and what its predictions cost there (see `Cost`)."""

    name: str
    score: Score
    cost: float
    days: float

    @property
    def text(self) -> str:
        """One line for people."""
        done = self.score
        if not done.steps:
            return f"chosen: {self.name}; there is nothing to replay yet"
        return (
            f"chosen: {self.name}, over {self.days:.2g} d: {done.violations * 100:.1f} % of steps above, "
            f"worst by {done.worst * 100:.0f} points, {done.harvested * 100:.0f} % harvested "
            f"of {done.possible * 100:.0f} % possible"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Over how many days to replay, at what cost, and how much cheaper another predictor has to be to be taken.

    `gain` is a share of the cost of the one in use: without it two that are about as good would take turns. Prices are
    twice those of `LearnedMargin`: who won on the past does a little worse on what comes, and errs on the dear side.
    """

    days: int = 7
    gain: float = 0.1
    cost: Cost = field(default_factory=lambda: Cost(violation=4.0, overshoot=6.0))


@dataclass(frozen=True, slots=True)
class Replayed:
    """Predictions by predictor and the peaks that came, (servers, steps) each, and (servers,) what was used on average.

    `day` is the number of steps of a day.
    """

    foretold: Mapping[str, Floats]
    peaks: Floats
    use: Floats
    day: int


def choose(
    history: History,
    horizon: int,
    before: Sequence[str] = (),
    predictors: Sequence[Predictor] = PREDICTORS,
    rule: Rule | None = None,
) -> list[Choice]:
    """Return each server's choice; `before` names the predictors in use, one a server, else it is the first.

    It replays days: asked once a day it is quick enough, and often enough.
    """
    rule = rule or Rule()
    last = min(rule.days * history.day, history.steps)
    foretold = {predictor.name: predictor.peaks(history, horizon, last) for predictor in predictors}
    use = mean_use(history.newest(last).usage)
    return pick(Replayed(foretold, peaks_of(history, horizon, last), use, history.day), before, rule)


def pick(replayed: Replayed, before: Sequence[str], rule: Rule) -> list[Choice]:
    """Return each server's choice among what was replayed."""
    names, peaks = list(replayed.foretold), replayed.peaks
    costs = np.array([rule.cost.of(foretold, peaks, replayed.use) for foretold in replayed.foretold.values()])
    costs = np.where(np.isfinite(costs), costs, 0.0)  # nothing to replay: all are equal, and the one in use stays
    choices = []
    for server in range(len(peaks)):
        used = names.index(before[server]) if server < len(before) and before[server] in names else 0
        best = int(np.argmin(costs[:, server]))
        taken = best if costs[best, server] < costs[used, server] * (1 - rule.gain) else used
        row = slice(server, server + 1)
        done = score(replayed.foretold[names[taken]][row], peaks[row])
        choices.append(Choice(names[taken], done, float(costs[taken, server]), done.steps / replayed.day))
    return choices
