"""What the agent keeps in mind about one replica."""

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from fallow.decide.agent.health import HealthTrack
from fallow.decide.agent.messages import ContainerFact
from fallow.model.containers import HealthCheck, RestartCondition, RestartPolicy
from fallow.model.deployments import Activity, Health, Observation
from fallow.model.wire import Assignment

MESSAGE_CHARS = 500
RETRY_CAP_SECONDS = 60.0
STRAY_GRACE_SECONDS = 10.0
UNENDED = (Activity.WAITING, Activity.PULLING, Activity.CREATING, Activity.BACKING_OFF)
_NOT_IN_CONTAINER = ("health", "restart", "stop_grace_seconds")  # the agent's own business, not the container's


class Wish(enum.StrEnum):
    """What should become of a replica."""

    RUN = "run"
    STOP = "stop"  # and say so when it has stopped
    GONE = "gone"  # nobody asks about it any more


@dataclass(slots=True)
class Run:
    """One replica on this node. `assignment` is None for a container nobody assigned (its wish is GONE)."""

    id: str
    assignment: Assignment | None
    wish: Wish
    spec_hash: str = ""
    final: bool = False  # it was asked to stop, so it may never run again
    phase: Activity = Activity.WAITING
    container: ContainerFact | None = None
    image_id: str = ""  # what it was last found to need, where that is known
    busy: Literal["", "start", "stop", "remove"] = ""
    touched: int = 0  # tick of the last operation on its container: older listings say nothing about it
    inspecting: bool = False
    recheck: bool = False  # a hint came while busy or inspecting: look again afterwards
    replace: bool = False  # its container is to be removed and made anew
    halted: bool = False  # its container has been stopped and is to be removed
    unsure: bool = False  # a start failed so that a container may be there that we do not know
    not_before: float = 0.0  # back-off: do nothing before this time
    tries: int = 0  # operations that failed in a row, through no fault of the container
    attempts: int = 0  # restarts since it last ran for long
    started: bool = False
    restarts: int = 0
    exit_code: int | None = None
    completed: bool = False  # its phase is FAILED only in that it ended well and is not started again
    message: str = ""
    health: HealthTrack = field(default_factory=HealthTrack)
    reported: Observation | None = None

    @property
    def grace_seconds(self) -> float:
        """Return how long its container gets to end by itself."""
        return self.assignment.container.stop_grace_seconds if self.assignment else STRAY_GRACE_SECONDS

    @property
    def probe_port(self) -> int | None:
        """Return the container port that probes use: the check's own, or the first TCP port."""
        assert self.assignment is not None
        spec = self.assignment.container
        if spec.health.port is not None:
            return spec.health.port
        return next((port.container for port in spec.ports if port.protocol == "tcp"), None)

    @property
    def check(self) -> HealthCheck:
        """Return its health check."""
        assert self.assignment is not None
        return self.assignment.container.health

    @property
    def policy(self) -> RestartPolicy:
        """Return its restart policy."""
        assert self.assignment is not None
        return self.assignment.container.restart

    def observe(self, serial: int, now: float, trouble: str) -> Observation | None:
        """Return what to tell the control plane, None when it is nothing new; `trouble` is the engine's.

        Nothing is said of a container just adopted before it has been probed: it may well be serving.
        """
        held_up = bool(trouble) and (self.phase in UNENDED or self.phase is Activity.STOPPING)
        message = trouble if held_up else self.message or self.health.text
        fresh = Observation(
            replica_id=self.id,
            serial=serial,
            activity=Activity.STOPPED if self.completed else self.phase,
            health=self.health.state,
            container_id=self.container.id if self.container else "",
            started=self.started,
            restarts=self.restarts,
            exit_code=self.exit_code,
            message=message[:MESSAGE_CHARS],
            at=now,
        )
        if self.wish is Wish.GONE or (self.phase is Activity.RUNNING and self.health.state is Health.UNKNOWN):
            return None
        if self.reported is None:
            return None if self.phase is Activity.WAITING and not message else fresh
        same = msgspec.structs.replace(fresh, serial=self.reported.serial, at=self.reported.at) == self.reported
        return None if same else fresh


def retry_delay(tries: int) -> float:
    """Return the wait in seconds after `tries` failures in a row: 1, 2, 4 .. 60."""
    return min(RETRY_CAP_SECONDS, 2.0 ** min(max(tries, 1) - 1, 16))


def restart_delay(policy: RestartPolicy, attempts: int) -> float:
    """Return the wait in seconds before restart number `attempts` + 1 in a row."""
    return min(policy.max_delay_seconds, policy.delay_seconds * 2.0 ** min(attempts, 32))


def refusal(policy: RestartPolicy, exit_code: int | None, attempts: int) -> str:
    """Return why a container that ended is not started again; empty when it is."""
    if policy.condition is RestartCondition.NEVER:
        return "its restart policy is 'none'"
    if policy.condition is RestartCondition.ON_FAILURE and exit_code == 0:
        return "its restart policy is 'on-failure'"
    if policy.max_attempts is not None and attempts >= policy.max_attempts:
        return f"its restart policy allows {policy.max_attempts} attempts"
    return ""


def ending(fact: ContainerFact | None) -> str:
    """Say how a container ended."""
    if fact is None:
        return "the container vanished"
    if fact.out_of_memory:
        return f"ran out of memory (exit code {fact.exit_code})"
    return f"exited with code {fact.exit_code}" if fact.exit_code is not None else "ended"


def fingerprint(assignment: Assignment) -> str:
    """Return a hash of everything the container is made from.

    Fields at their default do not count, so that a release that adds a field does not make every container out of
    date.
    """
    spec = _bare(assignment.container)
    for name in _NOT_IN_CONTAINER:
        spec.pop(name, None)
    text = msgspec.json.encode([spec, assignment.host_ports], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:32]


def _bare(value: msgspec.Struct) -> dict[str, Any]:
    """Return a struct's fields that differ from their default, nested structs likewise."""
    found: dict[str, Any] = {}
    for info in msgspec.structs.fields(value):
        item = getattr(value, info.name)
        default = info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
        if item == default:
            continue
        if isinstance(item, tuple):
            item = [_bare(part) if isinstance(part, msgspec.Struct) else part for part in item]
        found[info.name] = _bare(item) if isinstance(item, msgspec.Struct) else item
    return found
