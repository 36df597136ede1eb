"""What is known of a member beside its assigned labels: what it says of itself, and what its agent measures.

Measured variables have reserved names. They come from a member's facts and from its newest heartbeat, so that what
changes every second is nowhere stored. Where one is known, it stands before one of the same name that was only said.
"""

from collections.abc import Callable, Mapping

from fallow.decide.matching import Sight
from fallow.model.labels import Variable
from fallow.model.members import Member
from fallow.model.wire import Usage

Heard = Mapping[str, Usage]  # member id -> its newest sample

# Amounts, in bytes or plain; None: not known.
_Measure = Callable[[Member, Usage | None], float | None]
AMOUNTS: dict[str, tuple[str, _Measure]] = {
    "disk.free": ("B", lambda _, usage: usage.disk_free_bytes if usage is not None else None),
    "disk.size": ("B", lambda member, _: member.facts.disk_bytes or None),
    "memory.free": (
        "B",
        lambda member, usage: max(0, member.facts.memory_bytes - usage.memory_bytes) if usage is not None else None,
    ),
    "memory.size": ("B", lambda member, _: member.facts.memory_bytes or None),
    "cpu.free": (
        "",
        lambda member, usage: round(max(0.0, member.facts.cpus - usage.cpus), 2) if usage is not None else None,
    ),
    "cpu.count": ("", lambda member, _: member.facts.cpus or None),
    "containers": ("", lambda _, usage: usage.containers if usage is not None else None),
}
TEXTS: dict[str, Callable[[Member], str]] = {
    "engine.name": lambda member: member.facts.engine.partition(" ")[0],
    "engine.version": lambda member: member.facts.engine.partition(" ")[2],
    "kernel.version": lambda member: member.facts.kernel,
    "os.name": lambda member: member.facts.os,
    "agent.version": lambda member: member.facts.agent_version,
}
RESERVED = frozenset({*AMOUNTS, *TEXTS})


def measured(name: str, member: Member, usage: Usage | None) -> str | None:
    """Return a measured variable as text: `128849018880B`, `3.5`, `6.1.0-18-amd64`; None when it is not known."""
    if name in AMOUNTS:
        unit, measure = AMOUNTS[name]
        amount = measure(member, usage)
        return None if amount is None else f"{amount:.2f}".rstrip("0").rstrip(".") + unit
    text = TEXTS[name](member) if name in TEXTS else ""
    return text or None


def measured_variables(member: Member, usage: Usage | None) -> tuple[Variable, ...]:
    """Return everything that is measured of a member, by name."""
    found = []
    for name in sorted(RESERVED):
        value = measured(name, member, usage)
        if value is not None:
            unit = AMOUNTS[name][0] if name in AMOUNTS else ""
            kind = ("bytes" if unit else "number") if name in AMOUNTS else "text"
            found.append(Variable(name=name, value=value, type=kind, unit=unit))  # type: ignore[arg-type]
    return tuple(found)


def variable(name: str, member: Member, usage: Usage | None) -> str | None:
    """Return the value of one variable of a member, measured or said; None when it has none."""
    found = measured(name, member, usage) if name in RESERVED else None
    if found is not None:
        return found
    return next((each.value for each in member.variables if each.name == name), None)


def sight_of(member: Member, usage: Usage | None) -> Sight:
    """Return all that is known of a member, for a selector that may ask for anything."""
    variables = {each.name: each.value for each in member.variables}
    variables |= {each.name: each.value for each in measured_variables(member, usage)}
    return Sight(member.labels, variables, node_keys(member))


def node_keys(member: Member) -> dict[str, str]:
    """Return what `node:` keys stand for."""
    return {
        "name": member.name,
        "id": member.id,
        "role": member.role.value,
        "state": member.state.value,
        "arch": member.facts.architecture,
    }
