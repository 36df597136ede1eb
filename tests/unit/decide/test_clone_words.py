"""What is said of two that use one key: commands that exist, for machines and for clusters."""

import pytest

from fallow.decide.clones import fence_text
from fallow.model.members import AgentRun, Role


@pytest.mark.parametrize(
    ("role", "commands"),
    [
        (Role.NODE, ("fallow node unfence west", "fallow token create --replace west")),
        (Role.CLUSTER, ("fallow cluster unfence west", "fallow cluster remove west", "fallow cluster leave")),
    ],
)
def test_what_to_do_is_said_for_whom_it_is(role: Role, commands: tuple[str, ...]) -> None:
    one, other = (AgentRun(instance=name, address=f"10.0.0.{name}") for name in "12")
    text = fence_text("west", one, other, role)
    assert all(command in text for command in commands)
    assert "10.0.0.1" in text
    assert "10.0.0.2" in text
