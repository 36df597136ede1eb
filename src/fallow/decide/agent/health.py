"""How probes make a container starting, healthy or unhealthy."""

from dataclasses import dataclass
from typing import Literal

from fallow.model.containers import HealthCheck
from fallow.model.deployments import Health

QUICK_SECONDS = 0.2  # between probes of a container that is not yet ready, so that readiness is noticed at once
QUICK_FOR_SECONDS = 10.0  # after this long there is no hurry any more
SLOW_SECONDS = 1.0  # the same for commands, which cost a process each


@dataclass(slots=True)
class HealthTrack:
    """The health of one container since it last started.

    `serial` names the probe that is planned or under way, 0 when there is none; answers to others are stale.
    """

    state: Health = Health.UNKNOWN
    failures: int = 0
    up_since: float = 0.0
    counts_from: float = 0.0  # failures before this time do not make it unhealthy
    serial: int = 0
    text: str = ""

    def begin(self, check: HealthCheck, now: float, adopted: bool) -> None:
        """Start over for a container that runs since now, or was found running (`adopted`).

        An adopted container's health is unknown, not "starting": it may be serving requests, and nothing may be
        said against it before `retries` probes have failed.
        """
        self.failures = 0
        self.text = ""
        self.up_since = now
        if check.kind == "none":
            self.state = Health.HEALTHY
        elif adopted:
            self.state = Health.UNKNOWN
            self.counts_from = now
        else:
            self.state = Health.STARTING
            self.counts_from = now + max(check.start_period_seconds, check.interval_seconds)

    def end(self) -> None:
        """Forget everything: the container does not run."""
        self.state = Health.UNKNOWN
        self.failures = 0
        self.serial = 0
        self.text = ""

    def note(self, check: HealthCheck, outcome: Literal["ok", "failed", "unknown"], text: str, now: float) -> float:
        """Take in a probe's outcome and return after how many seconds to probe again.

        While a container starts, probes are quicker than its interval but failures are counted no quicker.
        """
        if outcome == "ok":
            self.state = Health.HEALTHY
            self.failures = 0
            self.counts_from = 0.0
            self.text = ""
        elif outcome == "failed" and now >= self.counts_from:
            self.failures += 1
            if self.state in (Health.STARTING, Health.UNKNOWN):
                self.counts_from = now + check.interval_seconds
            if self.failures >= check.retries and self.state is not Health.UNHEALTHY:
                self.state = Health.UNHEALTHY
                self.counts_from = 0.0
                self.text = text
        if self.state is not Health.STARTING:
            return check.interval_seconds
        hurry = check.kind != "command" and now - self.up_since < QUICK_FOR_SECONDS
        return min(check.interval_seconds, QUICK_SECONDS if hurry else SLOW_SECONDS)
