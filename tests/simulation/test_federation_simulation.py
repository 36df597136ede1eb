"""Whole runs of a host and its member clusters under virtual time and faults."""

from simulation.world import check


def test_whatever_happens_a_federation_keeps_its_promises(federation_seed: int) -> None:
    check(federation_seed)
