"""One seed, one run: everything put together, driven, and judged."""

import asyncio
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest import mock

import structlog

import fallow.agent.session
import fallow.agent.shell
import fallow.control.admission
import fallow.control.ids
from fallow.agent.session import SessionRefused
from fallow.control.settings import Settings
from simulation.clock import LoopTime, Process, VirtualLoop, acting
from simulation.invariants import Watch
from simulation.machines import Machine
from simulation.members import Gateway, GatewayHost, Identity, Node, Proxy
from simulation.network import Network
from simulation.planes import Plane, StoredTruth, StoreFaults, StoreHandle, key_of_paper
from simulation.story import SHOWN_LINES, Story, Violation

EPOCH = 1_800_000_000.0
IMAGES = 6
SESSIONS = Settings(session_host="control")


@dataclass
class Running:
    """A member's agent just now, and what it is run on."""

    member_id: str
    name: str
    machine: Machine | None = None  # a node's
    host: GatewayHost | None = None  # a gateway's
    process: Process | None = None
    agent: Any = None
    skew: float = 0.0  # its clock's, in seconds
    refused: bool = False


class World:
    """The store, one control plane after another, and members. Must be made inside the loop it lives in."""

    def __init__(self, seed: int, story: Story) -> None:
        loop = asyncio.get_running_loop()
        self.story = story
        self.chance = {name: Random(f"{seed}/{name}") for name in ("engines", "network", "store", "agents", "requests")}
        self.settings = SESSIONS
        self.watch = Watch(story, loop.time, self.settings)
        self.truth = StoredTruth(self.watch.committed)
        self.store_faults = StoreFaults(self.chance["store"])
        self.store_faults.kill = lambda: self.kill_plane("in the middle of a commit")
        self.network = Network(self.chance["network"])
        self.network.hear = self.watch.heard
        self.members: dict[str, Running] = {}
        self.plane: Plane | None = None
        self.planes = 0
        self.skew = 0.0  # of control planes' clock, in seconds
        self.requests = {"answered": 0, "refused": 0}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def clock(self) -> float:
        """Return the control plane's wall clock."""
        return EPOCH + self.now() + self.skew

    # control planes

    def start_plane(self) -> None:
        if self.plane is not None:
            return
        self.planes += 1
        process = Process(f"plane {self.planes}")
        handle = StoreHandle(self.truth, self.store_faults, process)
        self.plane = Plane(handle, self.settings, self.clock, process)
        process.spawn(self._serve(self.plane))

    async def _serve(self, plane: Plane) -> None:
        await plane.load(self.story)
        self.network.serve = plane.accept
        await plane.work(self.story)

    def kill_plane(self, how: str) -> None:
        if self.plane is None:
            return
        self.story.tell("FAULT", f"{self.plane.process.name} is killed {how}")
        plane, self.plane = self.plane, None
        self.network.serve = None
        plane.process.alive = False
        self.network.vanish("control")
        plane.process.kill()

    # members

    def add_node(self, member_id: str, name: str, address: str) -> Running:
        running = Running(member_id=member_id, name=name)
        machine = Machine(member_id, address, lambda: EPOCH + self.now() + running.skew, self.watch)
        for version in range(IMAGES):
            machine.publish(f"shop:{version}")
        running.machine = self.watch.machines[member_id] = machine
        self.members[member_id] = running
        return running

    def add_gateway(self, member_id: str, name: str) -> Running:
        host = GatewayHost(member_id, self.who_answers)
        running = self.members[member_id] = Running(member_id=member_id, name=name, host=host)
        self.watch.gateways[member_id] = host
        return running

    def who_answers(self, address: str, port: int) -> str:
        """Return the replica behind an address and port; empty when nothing answers."""
        for machine in self.watch.machines.values():
            if machine.address == address and (found := machine.serves(port)):
                return found
        return ""

    def start_agent(self, running: Running) -> None:
        if running.process is not None or running.refused:
            return
        if running.machine is not None and not running.machine.powered:
            running.machine.power_on()
        process = running.process = Process(running.name)
        identity = Identity(running.member_id, running.member_id)
        chance = self.chance["agents"]
        if running.machine is not None:
            agent: Any = Node(running.machine, process, identity, self.network, chance)
        else:
            assert running.host is not None
            proxy = Proxy(running.host, process, chance, lambda state: None)
            clock = lambda: EPOCH + self.now() + running.skew  # noqa: E731
            agent = Gateway(proxy, identity, self.network, chance, clock)
        running.agent = agent
        process.spawn(self._run_agent(running, agent))

    async def _run_agent(self, running: Running, agent: Any) -> None:
        process = running.process
        try:
            await agent.run(asyncio.Event())
        except SessionRefused as refused:
            self.story.tell(running.name, f"agent ends: {refused}")
            running.refused = True
            if running.member_id not in self.watch.removed:
                self.story.broke("only removed members are turned away for good", running.name)
        except Exception as error:  # noqa: BLE001 - told as what it is
            self.story.broke("agents do not crash", f"{running.name}: {type(error).__name__}: {error}")
        else:
            self.story.broke("agents do not end", running.name)
        if running.process is process:
            running.process = None

    def kill_agent(self, running: Running, how: str) -> None:
        if running.process is None:
            return
        self.story.tell("FAULT", f"the agent of {running.name} {how}")
        process, running.process = running.process, None
        process.alive = False
        self.network.vanish(running.member_id)
        process.kill()

    def power_cut(self, running: Running) -> None:
        self.kill_agent(running, "loses power")
        if running.machine is not None and running.machine.powered:
            running.machine.power_cut()
        if running.host is not None:
            running.host.reboot()

    # requests

    async def send_requests(self) -> None:
        """Let every gateway be asked for every route, without end; requests take up to two seconds."""
        chance = self.chance["requests"]
        while True:
            await asyncio.sleep(0.2 + chance.random() * 0.4)
            for running in list(self.members.values()):
                host = running.host
                if host is None or not host.serving:
                    continue
                routes = host.proxy._state.http
                if routes:
                    self._ask(host, chance.choice(routes).host, chance.random() ** 2 * 2.0)

    def _ask(self, host: GatewayHost, name: str, seconds: float) -> None:
        proxy = host.proxy
        request = proxy.begin(name, "/")
        self.requests["answered" if request.endpoint is not None else "refused"] += 1
        if request.endpoint is not None:
            asyncio.get_running_loop().call_later(seconds, proxy.finish, request)

    def check_members(self) -> None:
        """Check the state machines of agents."""
        for running in self.members.values():
            if running.process is not None and isinstance(running.agent, Node):
                try:
                    running.agent.check()
                except AssertionError as error:
                    self.story.broke("the agent's state is one that may be", f"{running.name}: {error}")


@dataclass
class Outcome:
    """How a run ended."""

    seed: int
    violation: str | None
    digest: str
    lines: list[str] = field(repr=False)
    virtual_seconds: float = 0.0
    settle_seconds: float = 0.0
    told: int = 0
    commits: int = 0
    planes: int = 0
    answered: int = 0
    refused: int = 0


def run(seed: int, lines: int = SHOWN_LINES) -> Outcome:
    """Run one seed to its end."""
    from simulation.scenario import play

    loop = VirtualLoop()
    story = Story(loop.time)
    found = Outcome(seed=seed, violation=None, digest="", lines=[])
    with _outside_replaced(seed, story):
        try:
            loop.run_until_complete(play(seed, story, found))
        finally:
            _end(loop)
    found.violation, found.digest, found.told = story.violation, story.digest, story.count
    found.lines, found.virtual_seconds = story.lines(lines), loop.time()
    return found


def check(seed: int) -> Outcome:
    """Run one seed. Raises Violation, with its story, when an invariant broke."""
    found = run(seed)
    if found.violation is not None:
        raise Violation(report(found))
    return found


def report(found: Outcome) -> str:
    """Return the story of a run that broke an invariant, for people."""
    return "\n".join(
        [f"seed {found.seed}, the end of the story (virtual seconds, who, what):", *found.lines, "",
         f"broken: {found.violation}", f"replay: python -m pytest tests/simulation --seed {found.seed}"]
    )  # fmt: skip


def _end(loop: VirtualLoop) -> None:
    for _ in range(10):  # what ends may begin something more
        tasks = sorted(asyncio.all_tasks(loop), key=hash)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@contextmanager
def _outside_replaced(seed: int, story: Story) -> Iterator[None]:
    """Replace what reaches outside where no argument does: the steady clock, the makers of ids, logs."""
    ids = Random(f"{seed}/ids")
    told = _ToStory(story)
    before = structlog.get_config()
    store_log = logging.getLogger("fallow.store")
    handlers, propagate, level = store_log.handlers, store_log.propagate, store_log.level
    try:
        structlog.configure(processors=[told], wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        store_log.handlers, store_log.propagate = [logging.NullHandler()], False
        with (
            mock.patch.object(fallow.agent.session, "time", LoopTime),
            mock.patch.object(fallow.agent.shell, "time", LoopTime),
            mock.patch.object(fallow.control.ids, "secrets", ids),
            mock.patch.object(fallow.control.admission, "key_sha256_of_request", key_of_paper),
        ):
            yield
    finally:
        structlog.configure(**before)
        store_log.handlers, store_log.propagate = handlers, propagate
        store_log.setLevel(level)


class _ToStory:
    """Puts warnings into the story; what was logged with a traceback is a fault of ours."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def __call__(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        rest = {name: value for name, value in event.items() if name not in ("event", "exc_info")}
        self._story.tell(acting() or "log", f"{level}: {event['event']} {rest or ''}".rstrip())
        if event.get("exc_info") or level in ("exception", "critical"):
            import traceback

            self._story.broke("no loop fails by a fault of ours", f"{event['event']} {rest}\n{traceback.format_exc()}")
        raise structlog.DropEvent
