"""Clusters with thresholds of their own, looked at twice a second for a while: who is suspect and dead, and when."""

import itertools

from federation_world import cluster, here
from hypothesis import given
from hypothesis import strategies as st
from records import NOW, applied, snapshot

from fallow.control.hub import Hub
from fallow.control.members import LOOK_SECONDS, members_controller
from fallow.control.settings import Settings
from fallow.model.members import MemberState, Thresholds

SETTINGS = Settings()


@st.composite
def thresholds(draw: st.DrawFn) -> Thresholds | None:
    if draw(st.booleans()):
        return None
    suspect = draw(st.floats(SETTINGS.heartbeat_seconds + 0.1, 20.0))
    return Thresholds(suspect_after_seconds=suspect, dead_after_seconds=suspect + draw(st.floats(0.1, 20.0)))


def lived(own: list[Thresholds | None], silent: set[int], calm_looks: int) -> dict[tuple[int, str], float]:
    """Let some clusters fall silent after so many looks; return how long later each change of state was seen."""
    steady, ids = 1000.0, itertools.count()
    hub = Hub(lambda: NOW + steady, lambda: steady)
    loop = members_controller(hub, SETTINGS, lambda: f"e{next(ids)}", lambda: steady)
    names = [f"c{number}" for number in range(len(own))]
    world = snapshot(here(), *(cluster(name, thresholds=found) for name, found in zip(names, own, strict=True)))
    seen: dict[tuple[int, str], float] = {}
    for look in range(calm_looks + 100):
        for number, name in enumerate(names):
            if look <= calm_looks or number not in silent:
                hub.heard(f"c-{name}")
        before = dict(world.clusters)
        world = applied(world, loop.decide(world, NOW + steady))
        for number, name in enumerate(names):
            state = world.clusters[f"c-{name}"].state
            if state is not before[f"c-{name}"].state:
                seen[number, state] = (look - calm_looks) * LOOK_SECONDS
        steady += LOOK_SECONDS
    return seen


@given(own=st.lists(thresholds(), min_size=1, max_size=4), calm_looks=st.integers(90, 120))
def test_the_one_that_falls_silent_is_suspect_and_dead_as_its_thresholds_say_and_no_other(
    own: list[Thresholds | None], calm_looks: int
) -> None:
    counted = own[0] or SETTINGS.cluster_thresholds
    seen = lived(own, {0}, calm_looks)
    assert set(seen) == {(0, MemberState.SUSPECT), (0, MemberState.DEAD)}
    for state, after in (
        (MemberState.SUSPECT, counted.suspect_after_seconds),
        (MemberState.DEAD, counted.dead_after_seconds),
    ):
        # A state lasts for one look at least: who is suspect at one look is dead at the next at the soonest.
        assert after < seen[0, state] <= after + 2 * LOOK_SECONDS


@given(own=st.lists(thresholds(), min_size=2, max_size=4), calm_looks=st.integers(90, 120))
def test_when_all_fall_silent_at_once_nobody_is_ever_dead(own: list[Thresholds | None], calm_looks: int) -> None:
    seen = lived(own, set(range(len(own))), calm_looks)
    assert MemberState.DEAD not in {state for _, state in seen}
