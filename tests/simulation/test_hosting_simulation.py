"""Whole runs of servers that lend under virtual time and faults; and the mistakes that they must find."""

from simulation.promises import HOSTING_FROM
from simulation.test_simulation import told_twice
from simulation.world import check


def test_whatever_happens_servers_that_lend_keep_their_promises(hosting_seed: int) -> None:
    check(hosting_seed)


def test_servers_that_lend_tell_the_same_story_in_another_process() -> None:
    told_twice(HOSTING_FROM + 4)
