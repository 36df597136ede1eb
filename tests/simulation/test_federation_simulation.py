"""Whole runs of a host and its member clusters under virtual time and faults; and the mistakes that they must find."""

import pytest

from simulation.federation.mutations import MUTATIONS
from simulation.mutations import Mutation
from simulation.promises import FEDERATION_FROM
from simulation.test_simulation import found_by, told_twice
from simulation.world import check


def test_whatever_happens_a_federation_keeps_its_promises(federation_seed: int) -> None:
    check(federation_seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_of_a_host_is_found(mutation: Mutation) -> None:
    assert found_by(mutation) is not None, f"no run of {mutation.within} noticed: {mutation.name}"


def test_federations_tell_the_same_story_in_another_process() -> None:
    told_twice(*(FEDERATION_FROM + number for number in (2, 3, 4, 7)))
