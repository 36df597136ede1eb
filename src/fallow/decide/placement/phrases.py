"""How refusals are said, for one node and for many alike."""

from datetime import UTC, datetime

from fallow.decide.placement.request import NANO
from fallow.decide.selectors import is_set
from fallow.model.labels import Requirement
from fallow.model.members import MemberState
from fallow.model.pools import PortRange
from fallow.model.servers import STALE_SECONDS
from fallow.model.units import format_bytes

STATES = {
    MemberState.DEAD: "dead",
    MemberState.SUSPECT: "suspect (not heard from)",
    MemberState.JOINING: "joined, but never connected",
}
CORDONED = "cordoned"
DRAINING = "draining"
NO_ADDRESS = "address not known"
NO_NETWORK = "its lease's address does not work (fallow node show tells why)"
STANDARD = "on lent capacity, which replicas of class standard never use"
SERVER_GONE = "its server was removed"
DISK_FULL = "its disk is full"
VM_UNKNOWN = "joined as a virtual machine that is not known yet, or not any more"

_COMPARED = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def requirement(wanted: Requirement) -> str:
    """Say what is wrong with a node that does not fulfil `wanted`: `role is not web`."""
    values = wanted.values
    if is_set(wanted.key):
        return f"{'not in' if wanted.operator == 'exists' else 'in'} the label set {wanted.key}"
    match wanted.operator:
        case "in":
            return (
                f"{wanted.key} is not {values[0]}" if len(values) == 1 else f"{wanted.key} is none of {_list(values)}"
            )
        case "notin":
            return f"{wanted.key} is {values[0]}" if len(values) == 1 else f"{wanted.key} is one of {_list(values)}"
        case "exists":
            return f"no label {wanted.key}"
        case "absent":
            return f"has label {wanted.key}"
        case operator:
            return f"{wanted.key} is not {_COMPARED[operator]} {_list(values)}"


def architecture(wanted: tuple[str, ...]) -> str:
    """Say that a node has another architecture."""
    return f"architecture is not {wanted[0]}" if len(wanted) == 1 else f"architecture is none of {_list(wanted)}"


def cpus(need: int, best: int) -> str:
    """Say that processors lack; both in billionths."""
    return f"not enough CPU (need {processors(need)}, best has {processors(max(best, 0))} free)"


def memory(need: int, best: int) -> str:
    """Say that memory lacks; both in bytes."""
    return f"not enough memory (need {format_bytes(need)}, best has {format_bytes(max(best, 0))} free)"


def taken(number: int, key: str) -> str:
    """Say that a fixed host port has an owner."""
    return f"host port {number}/{key.rpartition('/')[2]} is taken"


def twice(number: int, key: str) -> str:
    """Say that a container cannot be placed anywhere, because it asks for one host port more than once."""
    return f"the container asks for host port {number}/{key.rpartition('/')[2]} more than once"


def crowded(limit: int) -> str:
    """Say that a node has as many replicas of the deployment as it may."""
    return f"already has {limit} of this deployment (max_per_node)"


def exhausted(found: PortRange | None) -> str:
    """Say that too few host ports are free."""
    return f"no host port left in {found.first}-{found.last}" if found else "no host port left"


def processors(nanos: int) -> str:
    """Write billionths of a processor: `0.5`."""
    return f"{nanos / NANO:g}"


def server_cpus(server: str, need: int, over: tuple[int, int, float] | None, offered: int, taken: int) -> str:
    """Say that a server lends too few processors, in billionths; `over`: what would be used, capacity and threshold."""
    if over is not None:
        return _above(server, "processors", *over)
    return _not_offered(server, f"{processors(need)} processors", f"{offered / NANO:.1f}", f"{taken / NANO:.1f}")


def server_memory(server: str, need: int, over: tuple[int, int, float] | None, offered: int, taken: int) -> str:
    """Say that a server lends too little memory, in bytes; `over`: what would be used, capacity and threshold."""
    if over is not None:
        return _above(server, "memory", *over)
    return _not_offered(server, f"{format_bytes(need)} of memory", format_bytes(max(offered, 0)), format_bytes(taken))


def server_silent(server: str, ever: bool) -> str:
    """Say that nothing new is known of a server."""
    heard = f"has said nothing for more than {STALE_SECONDS:.0f} s" if ever else "has not said anything yet"
    return f"server {server} {heard}, so it counts as full"


def server_closed(server: str, why: str) -> str:
    """Say that a server must not lend now."""
    return f"server {server} does not lend now: {why}"


def server_keeps(server: str, why: str) -> str:
    """Say that a server says itself that it does not lend."""
    return f"server {server} does not lend now: {why or 'it does not say why'}"


def server_unscheduled(server: str, draining: bool) -> str:
    """Say that an operator wants nothing new on a server."""
    return f"server {server} is {'being drained' if draining else 'cordoned'}"


def server_pool_keeps(server: str, pool: str) -> str:
    """Say that no server of a pool lends."""
    return f"server {server} does not lend: its pool {pool} says so"


def server_backs_off(server: str, until: float) -> str:
    """Say that a server has just sent replicas away."""
    return f"server {server} is backing off until {_clock(until)} after sending replicas away"


def servers_more(text: str, count: int) -> str:
    """Say of how many more servers the like is true."""
    return f"{text} (and {count} more {'server' if count == 1 else 'servers'})" if count else text


def vm_unwanted(vm: str, wanted: str) -> str:
    """Say that a virtual machine is to be stopped or removed."""
    return f"its virtual machine {vm} is to be {wanted}"


def vm_drained(vm: str) -> str:
    """Say that a virtual machine is being emptied."""
    return f"its virtual machine {vm} is being drained"


def vm_stops(vm: str, state: str) -> str:
    """Say that a virtual machine stops, or has stopped."""
    return f"its virtual machine {vm} is {state}"


def _above(server: str, what: str, used: int, capacity: int, threshold: float) -> str:
    most = _percent(threshold)
    share = _percent(used / capacity) if capacity else "more than all"
    share = f"just over {most}" if share == most else share
    return f"server {server} would be at {share} of its {what}, above its threshold of {most}"


def _not_offered(server: str, need: str, offered: str, taken: str) -> str:
    return f"server {server}: asks for {need}, offered are {offered} of which {taken} is taken"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"  # whole: what is stored for a person should not change every second


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, tz=UTC):%H:%M} UTC"


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
