"""Cloned disks: two machines that use one member's key at the same time.

An agent makes up an `instance` at each start and never uses it again, and only one agent at a time uses a folder. So
starts of one machine follow each other, and one that was followed by another never opens a session again. When it does,
both are alive. A session counts from its first word after our welcome: what a dead agent had sent before its end cannot
answer that. And it counts only if the start it takes over from was known when it was opened, or words that were held up
in the network would look like a return.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from fallow.model.members import AgentRun, Role

KEPT = 8  # starts remembered; an image that was copied to more machines shows itself by two of the last eight


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a session means: `known` its start has the member already, `new` it has it from now on.

    `stale`: another start took over since the session was opened, which has to be opened again. `clones`: two machines
    are alive, this one and that of `other`.
    """

    outcome: Literal["known", "new", "stale", "clones"]
    runs: tuple[AgentRun, ...]
    other: AgentRun | None = None


def current(runs: Sequence[AgentRun]) -> str:
    """Return the instance that has the member; empty when there was none yet."""
    return runs[-1].instance if runs else ""


def claim(runs: tuple[AgentRun, ...], opened_after: str, run: AgentRun) -> Claim:
    """Judge a session of `run` that has proved to be alive; `opened_after` was the current instance at its opening."""
    if current(runs) == run.instance:
        return Claim(outcome="known", runs=runs)
    if current(runs) != opened_after:
        return Claim(outcome="stale", runs=runs)
    before = tuple(each for each in runs if each.instance != run.instance)
    after = (*before, run)[-KEPT:]
    if len(before) < len(runs):
        return Claim(outcome="clones", runs=after, other=runs[-1])
    return Claim(outcome="new", runs=after)


def superseded(runs: Sequence[AgentRun], instance: str) -> bool:
    """Say whether a session of this start is over, because a later start has taken the member over."""
    return any(each.instance == instance for each in runs[:-1])


def fence_text(name: str, one: AgentRun, other: AgentRun, role: Role = Role.NODE) -> str:
    """Say what was found, and what to do about it."""
    if role is Role.CLUSTER:
        return (
            f"two control planes use the key of {name} at once, {_place(one)} and {_place(other)}: one store is a copy "
            f"of the other. Neither is let in. Stop the copy, then `fallow cluster unfence {name}`; or `fallow cluster "
            f"remove {name}`, then `fallow cluster leave` on both, and let the one that is to be {name} join again"
        )
    return (
        f"two machines use the key of {name} at once, {_place(one)} and {_place(other)}: one disk is a copy of the "
        f"other. Neither is let in. Shut the copy down, then `fallow node unfence {name}`; or give the machine that is "
        f"to be {name} a key of its own: `fallow token create --replace {name}`"
    )


def _place(run: AgentRun) -> str:
    boot = f" (boot {run.boot_id[:8]})" if run.boot_id else ""
    return f"{run.address or 'an unknown address'}{boot}"
