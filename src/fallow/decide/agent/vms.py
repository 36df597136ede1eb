"""The virtual machines of a server: what to do next with each, from what is ordered and what is there.

Level-triggered: whatever was lost, from an instruction's outcome to the whole process, the next survey tells what is
there, and the same rules go on from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from fallow.model.server_pools import Isolation
from fallow.model.vms import VmOrder, VmState, VmWish

ASK_SECONDS = 20.0  # until a token is asked for again
TOKEN_SECONDS = 600.0  # a granted token that was not used for so long is no longer trusted to be good
JOIN_SECONDS = 900.0  # a machine that has not joined by then is started again with another token
GRACE_SECONDS = 30.0  # to end by itself
URGENT_SECONDS = 3.0  # the same, in an emergency
HALT_SECONDS = 600.0  # so long it then stays stopped
RETRY_SECONDS = 2.0
RETRY_CAP_SECONDS = 300.0
STEADY_SECONDS = 120.0  # who runs for so long has started well

Key = tuple[Isolation, str]
Action = Literal["prepare", "ask", "start", "stop", "resize", "clear", "destroy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One machine as a back-end found it; the same fields as the back-end's own word for it."""

    vm_id: str
    status: Literal["running", "paused", "stopped"] = "stopped"
    whole: bool = True
    seeded: bool = False
    cpus: float = 0.0
    memory_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A token for one machine."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """One thing to do with one machine; its outcome comes back as `done` or `failed`, but for `ask`.

    `order` is None for what nobody ordered. `grant` comes with the first start; `grace_seconds` with a stop.
    """

    action: Action
    isolation: Isolation
    vm_id: str
    order: VmOrder | None = None
    grant: Grant | None = None
    grace_seconds: float = 0.0


class _Do(Protocol):
    def __call__(self, action: Action, grant: Grant | None = None, grace: float = 0.0) -> Instruction: ...


@dataclass(kw_only=True, slots=True)
class _Held:
    """One machine: the order, what was seen, and what is under way."""

    order: VmOrder | None = None
    seen: Seen | None = None
    joined: bool = False  # ever: it is then never made anew
    flight: Instruction | None = None
    settled_at: float = 0.0  # when the last instruction ended: what was seen before says nothing
    grant: Grant | None = None
    granted_at: float = 0.0
    used: Grant | None = None  # what it was started with
    asked_at: float = -ASK_SECONDS
    tries: int = 0
    not_before: float = 0.0
    started_at: float = 0.0  # or first seen running
    halted_until: float = 0.0
    problem: str = ""  # of the last instruction
    note: str = ""  # what waits for its next start


class VmMachines:
    """All machines of one server. Deterministic: no clock, no chance, no input or output.

    Nothing is touched before it is known what is ordered, from the journal or the control plane, and nothing of a
    back-end before it has said what there is.
    """

    def __init__(self) -> None:
        self._held: dict[Key, _Held] = {}
        self._informed = False
        self._surveyed: set[Isolation] = set()
        self._lost: dict[Isolation, str] = {}  # why a back-end does not answer
        self._closed = False

    @property
    def orders(self) -> tuple[VmOrder, ...]:
        """Return all orders."""
        return tuple(held.order for held in self._held.values() if held.order is not None)

    @property
    def joined(self) -> tuple[str, ...]:
        """Return the ids of the machines that are known to have joined."""
        return tuple(sorted(vm_id for (_, vm_id), held in self._held.items() if held.joined))

    @property
    def running(self) -> tuple[VmOrder, ...]:
        """Return the orders of the machines that run."""
        found = self._held.values()
        return tuple(
            h.order for h in found if h.order is not None and h.seen is not None and h.seen.status == "running"
        )

    def ordered(self, orders: Sequence[VmOrder], joined: Sequence[str] = ()) -> None:
        """Take in all orders; what is not among them should be absent. `joined`: who has joined by a journal."""
        self._informed = True
        wanted = {(order.isolation, order.vm_id): order for order in orders}
        for key in dict.fromkeys((*wanted, *self._held)):
            held = self._held.setdefault(key, _Held())
            order = wanted.get(key)
            if order is None or held.order is None or order.wanted is not held.order.wanted:
                held.tries, held.not_before = 0, 0.0  # somebody changed their mind: try at once
            if order != held.order:
                held.note = ""
            held.order = order
            if order is not None and not held.joined and (order.joined or order.vm_id in joined):
                held.joined, held.problem, held.tries, held.not_before = True, "", 0, 0.0
        self._sweep()

    def granted(self, vm_id: str, grant: Grant | None, problem: str, now: float) -> None:
        """Take in a token, or why there is none. Only the newest is good: those before it were revoked."""
        for (_, found), held in self._held.items():
            if found != vm_id or held.order is None or held.joined:
                continue
            if grant is not None:
                held.grant, held.granted_at = grant, now
            else:
                self._put_off(held, problem, now)

    def surveyed(self, isolation: Isolation, seen: Sequence[Seen], began: float, now: float) -> None:
        """Take in everything a back-end has; it was asked at `began`."""
        self._surveyed.add(isolation)
        self._lost.pop(isolation, None)
        found = {(isolation, each.vm_id): each for each in seen}
        for key in found.keys() | {key for key in self._held if key[0] == isolation}:
            held = self._held.setdefault(key, _Held())
            if held.flight is not None or held.settled_at > began:
                continue
            self._see(held, found.get(key), now)
        self._sweep()

    def lost(self, isolation: Isolation, problem: str) -> None:
        """Note that a back-end does not answer: its machines stay as they were known, and nothing is done to them."""
        self._surveyed.discard(isolation)
        self._lost[isolation] = problem

    def done(self, instruction: Instruction, now: float, note: str = "") -> None:
        """Take in that an instruction was carried out; `note` is what waits for the machine's next start."""
        held = self._held.get((instruction.isolation, instruction.vm_id))
        if held is None:
            return
        order = instruction.order
        held.flight, held.settled_at, held.problem = None, now, ""
        match instruction.action:
            case "prepare":
                self._see(held, Seen(vm_id=instruction.vm_id), now)
            case "start" if order is not None:
                seeded = instruction.grant is not None or (held.seen is not None and held.seen.seeded)
                seen = Seen(
                    vm_id=order.vm_id,
                    status="running",
                    seeded=seeded,
                    cpus=order.cpus,
                    memory_bytes=order.memory_bytes,
                )
                self._see(held, seen, now)
                held.used = instruction.grant or held.used
                held.started_at, held.note = now, ""
            case "stop" if held.seen is not None:
                self._see(held, Seen(vm_id=instruction.vm_id, seeded=held.seen.seeded), now)
            case "resize" if held.seen is not None and order is not None:
                memory = held.seen.memory_bytes if note else order.memory_bytes
                held.seen = replace(held.seen, cpus=order.cpus, memory_bytes=memory)
                held.note = note
            case "clear" if held.seen is not None:
                held.seen = replace(held.seen, seeded=False)
            case "destroy":
                held.seen = None
        self._sweep()

    def failed(self, instruction: Instruction, problem: str, now: float) -> None:
        """Take in that an instruction failed; it is tried again, later and later."""
        held = self._held.get((instruction.isolation, instruction.vm_id))
        if held is not None:
            held.flight, held.settled_at = None, now
            self._put_off(held, problem, now)

    def halt(self, now: float) -> str:
        """Stop the running machine of the lowest rank, the largest of them, for a while; return its id, empty: none."""
        running = [order for order in self.running if self._held[order.isolation, order.vm_id].halted_until <= now]
        if not running:
            return ""
        lowest = min(running, key=lambda order: (order.rank, -order.memory_bytes, order.vm_id))
        self._held[lowest.isolation, lowest.vm_id].halted_until = now + HALT_SECONDS
        return lowest.vm_id

    def close(self, closed: bool) -> None:
        """Stop every machine, or go on with the orders."""
        self._closed = closed

    @property
    def stopped(self) -> bool:
        """Say whether nothing runs, as far as is known."""
        return not any(held.seen is not None and held.seen.status != "stopped" for held in self._held.values())

    def next(self, now: float) -> list[Instruction]:
        """Return what to do now; called after everything that is taken in, and every second."""
        if not self._informed:
            return []
        found = []
        for key, held in self._held.items():
            if held.flight is not None or now < held.not_before or key[0] not in self._surveyed:
                continue
            instruction = self._step(key, held, now)
            if instruction is None:
                continue
            if instruction.action == "ask":
                held.asked_at = now
            else:
                held.flight = instruction
            found.append(instruction)
        return found

    # one machine

    def _step(self, key: Key, held: _Held, now: float) -> Instruction | None:
        isolation, vm_id = key

        def do(action: Action, grant: Grant | None = None, grace: float = 0.0) -> Instruction:
            return Instruction(
                action=action, isolation=isolation, vm_id=vm_id, order=held.order, grant=grant, grace_seconds=grace
            )

        wish, seen = self._wish(held, now), held.seen
        if wish is VmWish.ABSENT:
            return do("destroy") if seen is not None else None
        if wish is VmWish.STOPPED:
            grace = URGENT_SECONDS if now < held.halted_until else GRACE_SECONDS
            return do("stop", grace=grace) if seen is not None and seen.status != "stopped" else None
        if seen is None or not seen.whole:
            return None if held.joined else do("prepare")
        return self._run(held, seen, now, do)

    def _run(self, held: _Held, seen: Seen, now: float, do: _Do) -> Instruction | None:
        """Return what a machine with a disk needs to run as a node."""
        if held.joined and seen.seeded:
            return do("clear")
        if seen.status == "running":
            return self._keep(held, seen, now, do)
        if held.joined or seen.status == "paused":
            return do("start")
        return self._first_start(held, now, do)

    def _first_start(self, held: _Held, now: float, do: _Do) -> Instruction | None:
        if held.grant is not None and held.grant is not held.used and now - held.granted_at < TOKEN_SECONDS:
            return do("start", grant=held.grant)
        return do("ask") if now - held.asked_at >= ASK_SECONDS else None

    def _keep(self, held: _Held, seen: Seen, now: float, do: _Do) -> Instruction | None:
        """Return what a running machine needs."""
        order = held.order
        assert order is not None
        if not held.joined:
            newer = held.grant is not None and held.used is not None and held.grant is not held.used
            if newer or now - held.started_at >= JOIN_SECONDS:
                return do("stop")
        elif now - held.started_at >= STEADY_SECONDS:
            held.tries = 0
        if not held.note and (abs(seen.cpus - order.cpus) > 0.01 or seen.memory_bytes != order.memory_bytes):
            return do("resize")
        return None

    def _wish(self, held: _Held, now: float) -> VmWish:
        if held.order is None:
            return VmWish.ABSENT
        wanted = held.order.wanted
        return VmWish.STOPPED if wanted is VmWish.RUNNING and (self._closed or now < held.halted_until) else wanted

    def _see(self, held: _Held, seen: Seen | None, now: float) -> None:
        before, held.seen = held.seen, seen
        ran = before is not None and before.status == "running"
        runs = seen is not None and seen.status == "running"
        if runs and not ran:
            held.started_at = now
        lasted = now - held.started_at
        by_itself = ran and not runs and held.flight is None and held.settled_at < now
        if by_itself and lasted < STEADY_SECONDS:
            self._put_off(held, f"it ended by itself after {lasted:.0f} s; its console may say why", now)

    def _put_off(self, held: _Held, problem: str, now: float) -> None:
        held.not_before = now + min(RETRY_CAP_SECONDS, RETRY_SECONDS * 2.0 ** min(held.tries, 16))
        held.tries += 1
        held.problem = problem

    def _sweep(self) -> None:
        """Forget what is neither ordered nor there."""
        for key in [k for k, h in self._held.items() if h.order is None and h.seen is None and h.flight is None]:
            if key[0] in self._surveyed:
                del self._held[key]

    # what is told

    def state(self, order: VmOrder, now: float) -> tuple[VmState, str]:
        """Return how a machine is, and its problem."""
        held = self._held.get((order.isolation, order.vm_id))
        if held is None:
            return VmState.WAITING, ""
        return self._state(held, now), "; ".join(_unique(self._problems(order, held, now)))[:1024]

    def _state(self, held: _Held, now: float) -> VmState:
        wish, seen, action = self._wish(held, now), held.seen, held.flight.action if held.flight else ""
        lost = held.order is not None and held.order.isolation in self._lost and seen is None
        status = seen.status if seen is not None else "stopped"
        if wish is not VmWish.RUNNING:
            return VmState.STOPPED if status == "stopped" and action != "destroy" else VmState.STOPPING
        if action == "stop":
            return VmState.STOPPING  # what has begun goes on, though it may be wanted again since
        if status != "running":
            if held.problem or lost or (held.joined and (seen is None or not seen.whole)):
                return VmState.FAILED
            return VmState.STARTING if action == "start" or held.joined else VmState.PREPARING
        return VmState.RUNNING if held.joined else VmState.STARTING

    def _problems(self, order: VmOrder, held: _Held, now: float) -> list[str]:
        running = held.seen is not None and held.seen.status == "running"
        note = held.note if running else ""  # one that stands still has no problem for that: it could not be taken away
        found = [self._lost.get(order.isolation, ""), held.problem, note, held.seen.problem if held.seen else ""]
        if self._informed and order.isolation in self._surveyed and held.joined:
            if order.wanted is not VmWish.ABSENT and (held.seen is None or not held.seen.whole):
                found.append("its disk is gone, and it is a node already: delete it, and another takes its place")
        elif running and now - held.started_at > JOIN_SECONDS / 3:
            found.append(f"it has run for {now - held.started_at:.0f} s and has not joined: its console may say why")
        if now < held.halted_until:
            found.append("stopped for a while, since the server ran out of memory")
        return found


def _unique(texts: list[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]
