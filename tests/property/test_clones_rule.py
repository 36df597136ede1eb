"""Two machines with one key are found; one machine is never taken for two, whatever is delayed."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.clones import KEPT, claim, current, superseded
from fallow.model.members import AgentRun


def run(instance: str) -> AgentRun:
    return AgentRun(instance=instance, address=f"10.0.0.{instance}")


@dataclass
class Member:
    """What is on record, and sessions that were welcomed: those of the dead may speak once more."""

    runs: tuple[AgentRun, ...] = ()
    open: list[tuple[str, str]] = field(default_factory=list)  # instance, current at its opening
    outcomes: list[str] = field(default_factory=list)

    def dial(self, instance: str) -> None:
        self.open.append((instance, current(self.runs)))

    def speak(self, number: int) -> None:
        instance, opened_after = self.open.pop(number % len(self.open))
        found = claim(self.runs, opened_after, run(instance))
        self.runs = found.runs
        self.outcomes.append(found.outcome)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_one_machine_that_restarts_and_reconnects_is_never_two(seed: int, haste: int) -> None:
    """Only the newest start dials; whatever was welcomed before may be heard in any order, or never."""
    chance, member, start = Random(seed), Member(), 0
    for _ in range(200):
        what = chance.choices(["restart", "dial", "speak"], [1, haste, haste])[0]
        if what == "restart":
            start += 1
        elif what == "dial":
            member.dial(str(start))
        elif member.open:
            member.speak(chance.randrange(len(member.open)))
    assert "clones" not in member.outcomes
    assert len(member.runs) <= KEPT


@given(st.integers(2, 30), st.integers(0, 2**32))
def test_machines_that_go_on_dialling_are_found(machines: int, seed: int) -> None:
    """Each dials again whenever its session was taken from it, in any order, and speaks at once or a little later."""
    chance = Random(seed)
    turns = [(chance.randrange(machines), chance.random() < 0.5) for _ in range(2000)]
    member = Member()
    for number, at_once in turns:
        instance = str(number)
        if instance == current(member.runs):
            continue
        member.dial(instance)
        if at_once or len(member.open) > 3:
            member.speak(len(member.open) - 1 if at_once else 0)
        if "clones" in member.outcomes:
            break
    assert "clones" in member.outcomes


def test_the_very_first_return_is_enough() -> None:
    member = Member()
    for instance in "aba":
        member.dial(instance)
        member.speak(0)
    assert member.outcomes == ["new", "new", "clones"]


def test_a_start_that_was_followed_is_superseded() -> None:
    runs = (run("1"), run("2"))
    assert superseded(runs, "1")
    assert not superseded(runs, "2")
    assert not superseded(runs, "3"), "it may be about to take over"
    assert not superseded(runs, "")
