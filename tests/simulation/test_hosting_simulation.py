"""Whole runs of servers that lend under virtual time and faults; and the mistakes that they must find."""

import pytest

from simulation.hosting.mutations import MUTATIONS
from simulation.mutations import Mutation
from simulation.promises import HOSTING_FROM
from simulation.test_simulation import found_by, told_twice
from simulation.world import check


def test_whatever_happens_servers_that_lend_keep_their_promises(hosting_seed: int) -> None:
    check(hosting_seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_of_hosting_is_found(mutation: Mutation) -> None:
    assert found_by(mutation) is not None, f"no run of {mutation.within} noticed: {mutation.name}"


def test_servers_that_lend_tell_the_same_story_in_another_process() -> None:
    told_twice(HOSTING_FROM + 4)
