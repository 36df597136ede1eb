"""How refusals are said, for one node and for many alike."""

from fallow.decide.placement.request import NANO
from fallow.decide.selectors import is_set
from fallow.model.labels import Requirement
from fallow.model.members import MemberState
from fallow.model.pools import PortRange
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


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
