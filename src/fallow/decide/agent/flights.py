"""One look-up or pull at a time for an image of a deployment's generation, however many replicas wait for it."""

from dataclasses import dataclass, field
from typing import Literal

from fallow.decide.agent.replica import Run
from fallow.model.deployments import Activity
from fallow.model.wire import Assignment

FINAL_KINDS = frozenset({"bad-request", "wrong-platform"})  # asking again cannot help


FlightKey = tuple[str, str]  # a reference, and the deployment with its generation that decides what it stands for


def flight_key(assignment: Assignment) -> FlightKey:
    """Return what a replica waits for: generations may mean different images by the same name."""
    return assignment.container.image, f"{assignment.deployment}#{assignment.generation}"


@dataclass(slots=True)
class Flight:
    """What is under way for one image, and the ids of the replicas that wait for it, in order."""

    stage: Literal["finding", "pulling", "pausing"] = "finding"
    waiting: dict[str, None] = field(default_factory=dict)
    tries: int = 0
    trouble: str = ""

    def show(self, run: Run) -> None:
        """Let a waiting replica say what it waits for."""
        if self.stage == "pulling":
            run.phase = Activity.PULLING
        else:
            run.phase = Activity.BACKING_OFF if self.trouble else Activity.WAITING
        run.message = self.trouble
