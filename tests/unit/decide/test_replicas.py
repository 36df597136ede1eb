"""What observations change, and that they only ever advance a replica."""

import itertools

import pytest
from records import NOW, deployment, replica

from fallow.decide.replicas import observe
from fallow.model.deployments import Activity, Health, Observation, ReplicaState
from fallow.model.lifecycle import REPLICA_TRANSITIONS

WEB = deployment()
S = ReplicaState


def seen(activity: Activity, serial: int = 5, **more: object) -> Observation:
    return Observation(replica_id="web-0", serial=serial, activity=activity, **more)  # type: ignore[arg-type]


def test_a_started_container_makes_a_placed_replica_run() -> None:
    after = observe(replica(WEB, 0, S.PLACED), seen(Activity.RUNNING, started=True, health=Health.STARTING), NOW)
    assert after is not None
    assert (after.state, after.healthy_since) == (S.RUNNING, 0.0)


def test_health_comes_and_goes_without_a_change_of_state() -> None:
    first = observe(replica(WEB, 0, S.RUNNING, healthy_since=0.0), seen(Activity.RUNNING, health=Health.HEALTHY), NOW)
    assert first is not None
    assert first.healthy
    later = observe(first, seen(Activity.RUNNING, serial=6, health=Health.UNHEALTHY), NOW + 1)
    assert later is not None
    assert (later.state, later.healthy) == (S.RUNNING, False)


def test_what_kept_it_from_its_first_start_is_no_illness_of_what_runs() -> None:
    waiting = observe(replica(WEB, 0, S.PLACED), seen(Activity.BACKING_OFF, message="port taken"), NOW)
    assert waiting is not None
    assert waiting.unwell_since == NOW
    runs = observe(waiting, seen(Activity.RUNNING, serial=6, started=True, health=Health.STARTING), NOW + 20)
    assert runs is not None
    assert runs.unwell_since == 0.0
    ended = observe(waiting, seen(Activity.BACKING_OFF, serial=6, started=True, exit_code=1), NOW + 20)
    assert ended is not None
    assert ended.unwell_since == NOW + 20


def test_an_old_or_repeated_observation_changes_nothing() -> None:
    known = observe(replica(WEB), seen(Activity.RUNNING, health=Health.HEALTHY), NOW)
    assert known is not None
    assert observe(known, seen(Activity.FAILED, serial=5), NOW) is None
    assert observe(known, seen(Activity.FAILED, serial=4), NOW) is None
    assert observe(known, seen(Activity.RUNNING, serial=9, health=Health.HEALTHY, at=NOW + 9), NOW) is None


@pytest.mark.parametrize(
    ("state", "activity", "expected"),
    [
        (S.PLACED, Activity.PULLING, S.PLACED),
        (S.RUNNING, Activity.BACKING_OFF, S.RUNNING),
        (S.RUNNING, Activity.FAILED, S.FAILED),
        (S.RUNNING, Activity.STOPPED, S.FAILED),
        (S.LEAVING, Activity.FAILED, S.STOPPED),
        (S.LEAVING, Activity.STOPPED, S.STOPPED),
        (S.LEAVING, Activity.BACKING_OFF, S.LEAVING),
        (S.STOPPING, Activity.STOPPED, S.STOPPED),
        (S.STOPPING, Activity.RUNNING, S.STOPPING),
    ],
)
def test_what_follows_from_what_the_agent_says(state: S, activity: Activity, expected: S) -> None:
    after = observe(replica(WEB, 0, state), seen(activity, started=activity is not Activity.PULLING), NOW)
    assert after is not None
    assert after.state is expected


@pytest.mark.parametrize(("state", "activity", "started"), list(itertools.product(S, Activity, (True, False))))
def test_only_transitions_of_the_table_ever_happen(state: S, activity: Activity, started: bool) -> None:
    after = observe(replica(WEB, 0, state), seen(activity, started=started), NOW)
    if after is not None and after.state is not state:
        assert REPLICA_TRANSITIONS[state, after.state] == "observations"
    if state in (S.STOPPED, S.FAILED, S.LOST, S.PENDING):
        assert after is None
