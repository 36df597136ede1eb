"""What a scripted member cluster really runs, whatever anybody believes: its room, its containers, its store."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fallow.model.shares import ShareOrder
from simulation.clock import NOBODY

START_SECONDS = 2.0
STOP_SECONDS = 0.2

State = Literal["starting", "ready", "leaving"]


@dataclass
class Container:
    """One replica in one cluster. A leaving one still answers until it is gone."""

    id: str
    deployment_id: str
    generation: int
    cpus: float
    number: int
    state: State = "starting"
    ready_at: float = 0.0  # when it became ready
    left_at: float = 0.0  # when it began to leave
    stops: bool = False  # it is being stopped now
    given_up: bool = False  # it leaves since its host was not heard for too long; one like it may take its room
    extra: bool = False  # it is one more than there should be, until one of another generation has left for it


class Witness(Protocol):
    """Who is told what really happens to containers."""

    def retires(self, site: "Site", container: Container, replaced: bool) -> None:
        """Note that one that was ready leaves: there are too many, or one of another generation took over."""

    def has_less_room(self, site: "Site") -> None:
        """Note that it is about to have less room."""

    def lost(self, site: "Site", containers: Iterable[Container]) -> None:
        """Note that these, which were ready, are gone by a fault."""


@dataclass
class Kept:
    """What a cluster's control plane has in its store."""

    orders: dict[str, ShareOrder] = field(default_factory=dict)  # by deployment
    known: dict[str, None] = field(default_factory=dict)  # containers it knows of
    withdrawn: dict[str, None] = field(default_factory=dict)  # leaving ones that may stop

    def copy(self) -> "Kept":
        """Return what a backup made now would hold."""
        return Kept(dict(self.orders), dict(self.known), dict(self.withdrawn))


class Site:
    """A cluster's machines. They outlive its control plane, which reads and changes what is here."""

    def __init__(self, id_: str, name: str, cpus: float, witness: Witness) -> None:
        self.id = id_
        self.name = name
        self.cpus = cpus  # in all, of machines that work
        self.start_seconds = START_SECONDS
        self.powered = True
        self.kept = Kept()
        self.backup: Kept | None = None
        self.containers: dict[str, Container] = {}
        self.routed: dict[str, set[str]] = {}  # deployment -> replicas of other clusters that its gateways ask
        self.lie: int | None = None  # what it says it has room for, of anything
        self.lied_at = -1e9  # when it last did
        self.answered_at = -1e9  # when what the host has answered was sent
        self.changed: Callable[[], None] = lambda: None  # its control plane, if it has one just now
        self._witness = witness
        self._made = 0

    def of(self, deployment_id: str) -> list[Container]:
        """Return a deployment's containers, oldest first, leaving ones too."""
        return [found for found in self.containers.values() if found.deployment_id == deployment_id]

    def ready(self, deployment_id: str) -> int:
        """Return how many replicas answer and are to stay."""
        return sum(found.state == "ready" for found in self.of(deployment_id))

    def ready_before(self, deployment_id: str, at: float) -> int:
        """Return how many of these have answered since before then."""
        return sum(found.state == "ready" and found.ready_at < at for found in self.of(deployment_id))

    def live(self, deployment_id: str) -> int:
        """Return how many are to stay, ready or not."""
        return sum(found.state != "leaving" for found in self.of(deployment_id))

    @property
    def free(self) -> float:
        """Return processors that nothing has."""
        return self.cpus - sum(found.cpus for found in self.containers.values()) if self.powered else 0.0

    def begin(self, deployment_id: str, generation: int, cpus: float, extra: bool = False) -> None:
        """Start a container; it is ready after a while. There must be room."""
        assert self.powered and self.free + 1e-9 >= cpus
        self._witness.has_less_room(self)
        self._made += 1
        made = Container(f"{self.name}-{self._made}", deployment_id, generation, cpus, self._made, extra=extra)
        self.containers[made.id] = made
        self.kept.known[made.id] = None
        self._later(self.start_seconds, lambda: self._answers(made))

    def _answers(self, made: Container) -> None:
        if self.containers.get(made.id) is made and made.state == "starting" and not made.stops:
            made.state, made.ready_at = "ready", asyncio.get_running_loop().time()
            self.changed()

    def retire(self, container: Container, replaced: bool) -> None:
        """Let one leave, `replaced` by one of another generation; one that was not ready is stopped at once."""
        if container.state == "ready":
            container.state, container.left_at = "leaving", asyncio.get_running_loop().time()
            self._witness.retires(self, container, replaced)
        elif container.state == "starting":
            self.stop(container)
        self.changed()

    def give_up(self, container: Container) -> None:
        """Let one leave that may run elsewhere by now: its host was not heard for too long."""
        self._witness.lost(self, [container] if container.state == "ready" else [])
        container.given_up = True
        self.retire(container, replaced=True)

    def stop(self, container: Container) -> None:
        """Stop one; its room is free when it is gone."""
        if not container.stops:
            container.state, container.stops = "leaving", True
            self._later(STOP_SECONDS, lambda: self._gone(container))

    def _gone(self, container: Container) -> None:
        if self.containers.get(container.id) is container:
            self._forget([container])
            self.changed()

    def _forget(self, gone: list[Container]) -> None:
        for container in gone:
            del self.containers[container.id]
            self.kept.known.pop(container.id, None)
            self.kept.withdrawn.pop(container.id, None)

    # faults

    def lose(self, containers: Iterable[Container]) -> None:
        """Let containers end by themselves."""
        gone = list(containers)
        self._witness.lost(self, [found for found in gone if found.state == "ready"])
        self._forget(gone)
        self.changed()

    def shrink(self, cpus: float) -> None:
        """Lose machines, and the newest containers with them."""
        self._witness.has_less_room(self)
        self.cpus -= cpus
        gone = []
        over = -self.free
        for container in reversed(list(self.containers.values())):
            if over <= 1e-9:
                break
            gone.append(container)
            over -= container.cpus
        self.lose(gone)

    def power_cut(self) -> None:
        """Lose every machine at once."""
        self._witness.has_less_room(self)
        self.powered = False
        self.lose(list(self.containers.values()))

    def power_on(self) -> None:
        """Let the machines come back, empty; what its control plane has stored is still there."""
        self.powered = True

    def restore(self, kept: Kept) -> None:
        """Put an old backup in the place of the store: what it does not know is stopped, what has gone is gone."""
        unknown = [found for found in self.containers.values() if found.id not in kept.known]
        self._witness.lost(self, [found for found in unknown if found.state == "ready"])
        for container in unknown:
            self.stop(container)
        self.kept = Kept(dict(kept.orders), {id_: None for id_ in kept.known if id_ in self.containers})
        self.changed()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do what machines do by themselves, whatever becomes of the control plane that asked for it."""
        asyncio.get_running_loop().call_later(seconds, call, context=NOBODY.copy())
