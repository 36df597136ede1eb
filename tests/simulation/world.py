"""One seed, one run: everything put together, driven, and judged."""

import asyncio
import gc
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any
from unittest import mock

import structlog

import fallow.agent.control_addresses
import fallow.control.admission
import fallow.control.bundles
import fallow.control.ids
import fallow.control.sessions
import fallow.store.memory
from fallow.agent.session import SessionRefused
from fallow.control.settings import Settings
from simulation.clock import Process, SeededSecrets, VirtualLoop, acting, steady_clocks
from simulation.invariants import NEVER, STALE_SECONDS, Watch
from simulation.machines import Machine
from simulation.members import Folder, Gateway, GatewayHost, Identity, Node, Paper, Proxy
from simulation.network import Network
from simulation.planes import (
    Plane,
    StoredTruth,
    StoreFaults,
    StoreHandle,
    key_of_paper,
    key_of_paper_bundle,
    named_by_paper,
)
from simulation.promises import is_federation, is_hosting, is_shared, is_wide
from simulation.story import SHOWN_LINES, Story, Violation

EPOCH = 1_800_000_000.0
IMAGES = 6
COLLECT_AFTER = 50_000  # objects; a tenth of the time went into looking for rubbish
FOLLOWED_SECONDS = 5.0 + 0.5  # and a look every half second
HOSTS = ("control1", "control2")


@dataclass
class Running:
    """A member's agent just now, and what it is run on."""

    member_id: str
    name: str
    machine: Machine | None = None  # a node's
    host: GatewayHost | None = None  # a gateway's
    process: Process | None = None
    agent: Any = None
    joined_at: str = HOSTS[0]
    skew: float = 0.0  # its clock's, in seconds
    refused: bool = False
    leaves: bool = False  # it was asked to end, and its machine shuts down
    folder: Folder = field(default_factory=Folder)


class World:
    """The store, one or two control planes at a time, and members. Must be made inside the loop it lives in.

    In half of the wide runs the store is `shared`: two processes work at once, on two hosts.
    """

    watch_type: type[Watch] = Watch

    def __init__(self, seed: int, story: Story) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self.story = story
        self.wide = is_wide(seed)
        self.shared = is_shared(seed)
        self.hosts = HOSTS if self.shared else HOSTS[:1]
        self.chance = {name: Random(f"{seed}/{name}") for name in ("engines", "network", "store", "agents", "requests")}
        self.settings = Settings()
        self.watch = self.watch_type(story, loop.time, self.settings, seed)
        self.truth = StoredTruth(self.watch.committed)
        self.store_faults = StoreFaults(self.chance["store"])
        self.store_faults.kill = self._kill_process
        self.store_faults.freeze = self._freeze_process
        self.store_faults.heard_of = self.watch.heard_of
        self.network = Network(self.chance["network"])
        self.network.hear = self.watch.heard
        self.members: dict[str, Running] = {}
        self.planes: dict[str, Plane] = {}  # by host
        self.started = 0  # planes, ever
        self._could_lead: set[Plane] = set()
        self._led_at = 0.0
        self.skew = 0.0  # of control planes' clock, in seconds
        self.requests = {"answered": 0, "refused": 0}

    def now(self) -> float:
        return self._loop.time()

    def clock(self) -> float:
        """Return the control plane's wall clock."""
        return EPOCH + self._loop.time() + self.skew

    # control planes

    def start_plane(self, host: str) -> None:
        if host in self.planes:
            return
        self.started += 1
        process = Process(f"plane {self.started}")
        handle = StoreHandle(self.truth, self.store_faults, process, self.shared)
        settings = replace(self.settings, session_host=host, public_url=f"https://{host}:8443")
        plane = self.planes[host] = Plane(handle, settings, self.clock, process, self.network)
        self.watch.peers[process.name] = plane.leadership.peer.id
        process.spawn(self._serve(plane))

    async def _serve(self, plane: Plane) -> None:
        await plane.load(self.story)
        self.network.serve[plane.host] = plane.accept
        await plane.work(self.story)

    def _kill_process(self, process: Process) -> None:
        for host, plane in list(self.planes.items()):
            if plane.process is process:
                self.kill_plane(host, "in the middle of a commit")

    def _freeze_process(self, process: Process) -> None:
        for host, plane in list(self.planes.items()):
            if plane.process is process:
                self.freeze_plane(host)

    def kill_plane(self, host: str, how: str) -> None:
        if self._led():
            self._led_at = self.now()
        plane = self.planes.pop(host, None)
        if plane is None:
            return
        self.story.tell("FAULT", f"{plane.process.name} is killed {how}")
        self.network.serve.pop(host, None)
        plane.process.alive = False
        self.network.vanish(host)
        self.network.thaw(host)
        plane.process.kill()
        self._loop.thaw(plane.process)

    def freeze_plane(self, host: str) -> Plane | None:
        """Let a process take no step, as when its machine is suspended; nobody is told."""
        plane = self.planes.get(host)
        if plane is None or self.frozen(plane):
            return None
        if self._led():
            self._led_at = self.now()  # also if it led for a moment only, between two looks: it has renewed its lease
        self.story.tell("FAULT", f"{plane.process.name} is frozen")
        self.network.freeze(host)
        self._loop.freeze(plane.process)
        self.watch.held_up[plane.process.name] = (self._stands_since(plane.process.name), self.now())
        return plane

    def _stands_since(self, name: str) -> float:
        """Return since when a process that is frozen now has hardly taken a step."""
        began, ended = self.watch.held_up.get(name, (NEVER, NEVER))
        return began if self.now() - ended < STALE_SECONDS else self.now()

    def thaw_plane(self, plane: Plane) -> None:
        if self.planes.get(plane.host) is plane and self.frozen(plane):
            self.story.tell("FAULT", f"{plane.process.name} goes on")
            self.watch.held_up[plane.process.name] = (self.watch.held_up[plane.process.name][0], self.now())
            self._loop.thaw(plane.process)
            self.network.thaw(plane.host)

    def frozen(self, plane: Plane) -> bool:
        return self._loop.frozen(plane.process)

    def working(self) -> list[Plane]:
        """Return the control planes that would answer."""
        return [plane for plane in self.planes.values() if plane.running and not self.frozen(plane)]

    def check_leader(self) -> None:
        """Check that a leader that was killed or frozen is followed soon, where another process can reach the store."""
        faults = self.store_faults
        if (
            self._led()
            or faults.error_share
            or faults.slow_seconds
            or faults.lag
            or set(self.working()) != self._could_lead
        ):
            self._could_lead, self._led_at = set(self.working()), self.now()
        elif self._could_lead and self.now() - self._led_at > FOLLOWED_SECONDS:
            self.story.broke("a leader is followed", f"nobody leads for {self.now() - self._led_at:.1f} s")

    def _led(self) -> bool:
        leader = self.leader()
        return leader is not None and not self.frozen(leader)

    def leader(self) -> Plane | None:
        """Return the control plane that leads by what is stored."""
        leader = self.watch.leader()
        return next((plane for plane in self.planes.values() if plane.leadership.peer.id == leader), None)

    # members

    def add_node(self, member_id: str, name: str, address: str, joined_at: str) -> Running:
        running = Running(member_id=member_id, name=name, joined_at=joined_at)
        machine = Machine(member_id, address, lambda: EPOCH + self.now() + running.skew, self.watch)
        for version in range(IMAGES):
            machine.publish(f"shop:{version}")
        running.machine = self.watch.machines[member_id] = machine
        self.members[member_id] = running
        return running

    def add_gateway(self, member_id: str, name: str, joined_at: str) -> Running:
        host = GatewayHost(member_id, self.who_answers)
        running = self.members[member_id] = Running(member_id=member_id, name=name, host=host, joined_at=joined_at)
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
        identity = Identity(running.member_id, running.joined_at, running.folder)
        chance = self.chance["agents"]
        if running.machine is not None:
            agent: Any = Node(running.machine, process, identity, self.network, chance)
        else:
            assert running.host is not None
            proxy = Proxy(running.host, process, chance, lambda state: None)
            clock = lambda: EPOCH + self.now() + running.skew  # noqa: E731
            agent = Gateway(proxy, identity, self.network, chance, clock)
        running.agent = agent
        process.spawn(self._run_agent(running, agent, asyncio.Event()))

    async def _run_agent(self, running: Running, agent: Any, stop: asyncio.Event) -> None:
        process = running.process
        try:
            await agent.run(stop)
        except SessionRefused as refused:
            self.story.tell(running.name, f"agent ends: {refused}")
            running.refused = True
            if running.member_id not in self.watch.removed:
                self.story.broke("only removed members are turned away for good", running.name)
        except Exception as error:  # noqa: BLE001 - told as what it is
            self.story.broke("agents do not crash", f"{running.name}: {type(error).__name__}: {error}")
        else:
            if not running.leaves:
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
    from simulation.federation.scenario import play as play_federation
    from simulation.hosting.scenario import play as play_hosting
    from simulation.scenario import play as play_cluster

    play = play_hosting if is_hosting(seed) else play_federation if is_federation(seed) else play_cluster
    if is_federation(seed):  # what is collected may close a connection, at a moment that no seed says
        _leave_modules_alone()
        gc.collect()
    gc.set_threshold(0 if is_federation(seed) else COLLECT_AFTER)
    loop = VirtualLoop()
    story = Story(loop.time)
    found = Outcome(seed=seed, violation=None, digest="", lines=[])
    with steady_clocks(loop), _outside_replaced(seed, story):
        try:
            loop.run_until_complete(play(seed, story, found))
        finally:
            end(loop)
    found.violation, found.digest, found.told = story.violation, story.digest, story.count
    found.lines, found.virtual_seconds = story.lines(lines), loop.time()
    return found


@cache
def _leave_modules_alone() -> None:
    """Keep what is there before the first run, which is most of all objects, from being looked at after every run."""
    gc.collect()
    gc.freeze()


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


def end(loop: VirtualLoop) -> None:
    """End whatever is left in a loop, and close it."""
    loop.thaw_all()
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
    """Replace what reaches outside where no argument does: the makers of ids, logs."""
    ids = SeededSecrets(Random(f"{seed}/ids"))
    told = _ToStory(story)
    before = structlog.get_config()
    store_log = logging.getLogger("fallow.store")
    handlers, propagate, level = store_log.handlers, store_log.propagate, store_log.level
    try:
        structlog.configure(processors=[told], wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        store_log.handlers, store_log.propagate = [logging.NullHandler()], False
        with (
            mock.patch.object(fallow.agent.control_addresses, "write_private", Paper.write),
            mock.patch.object(fallow.control.sessions, "named_by", named_by_paper),
            mock.patch.object(fallow.control.ids, "secrets", ids),
            mock.patch.object(fallow.store.memory, "secrets", SeededSecrets(Random(f"{seed}/leases"))),
            mock.patch.object(fallow.control.admission, "key_sha256_of_request", key_of_paper),
            mock.patch.object(fallow.control.bundles, "key_of_bundle", key_of_paper_bundle),
            mock.patch.object(fallow.control.bundles, "key_sha256", key_of_paper),
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
