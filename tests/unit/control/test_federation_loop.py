"""The host's loop: it divides at once for what was wished or has befallen a cluster, and seldom for mere reports."""

from collections.abc import Collection, Mapping
from itertools import count

import msgspec
import pytest
from federation_world import Ledger, cluster, here, share
from records import NOW, deployment, ids, snapshot

from fallow.control.federation import LOOK_SECONDS, REST_FACTOR, Divisions, federation_controller
from fallow.decide.federation import division
from fallow.decide.federation.division import Divider, Target, settled
from fallow.decide.federation.following import Following
from fallow.decide.federation.reconcile import UNDECIDED_SECONDS, reconcile
from fallow.decide.federation.table import Table
from fallow.decide.federation.words import SILENT_SECONDS
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import Rebalance
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState
from fallow.model.rooms import Room


class Slow:
    """A division that takes a second by the clock of the test, and counts how often it is made."""

    def __init__(self) -> None:
        self.at = 100.0
        self.count = 0

    def divide(self, snapshot: Snapshot, _: float, anew: Collection[str]) -> Mapping[str, Target]:
        self.at += 1.0
        self.count += 1
        return dict.fromkeys(snapshot.deployments, Target())

    def steady(self) -> float:
        return self.at


def later(before: Snapshot, **changes: object) -> Snapshot:
    kinds = ("members", "deployments", "divisions", "label_sets", "shares", "rooms")
    return Snapshot(**({name: getattr(before, name) for name in kinds} | changes))  # type: ignore[arg-type]


BEFORE = snapshot(here(), cluster("east"), deployment("web", share=0))


def test_reports_alone_make_no_other_division_until_it_has_rested() -> None:
    slow = Slow()
    divisions = Divisions(slow.divide, slow.steady)
    divisions.divide(BEFORE, NOW)
    told = later(
        BEFORE, shares={"s": share("c-east", 1, 1)}, rooms={"c-east": Room(id="c", created_at=0, updated_at=0)}
    )
    divisions.divide(told, NOW)
    assert (slow.count, divisions.due_in) == (1, REST_FACTOR)
    slow.at += REST_FACTOR
    divisions.divide(told, NOW)
    assert slow.count == 2


def test_wishes_and_the_state_of_clusters_count_at_once() -> None:
    slow = Slow()
    divisions = Divisions(slow.divide, slow.steady)
    divisions.divide(BEFORE, NOW)
    for number, changes in enumerate(
        (
            {"deployments": {"d-web": deployment("web", 5, share=0)}},
            {"members": {**BEFORE.members, "c-east": cluster("east", state=MemberState.DEAD, revision=9)}},
            {"divisions": {}},
            {"label_sets": {}},
        ),
        start=2,
    ):
        divisions.divide(later(BEFORE, **changes), NOW)
        assert slow.count == number
        slow.at += 100.0
        divisions.divide(BEFORE, NOW)
        slow.count = number


def test_nodes_that_report_are_no_cause() -> None:
    slow = Slow()
    divisions = Divisions(slow.divide, slow.steady)
    divisions.divide(BEFORE, NOW)
    divisions.divide(later(BEFORE, members={**BEFORE.members}), NOW)
    assert slow.count == 1


def test_what_waits_for_clusters_is_looked_at_again_at_once() -> None:
    slow = Slow()
    divisions = Divisions(lambda *_: slow.divide(snapshot(), NOW, ()), slow.steady)
    divisions.divide(BEFORE, NOW)
    divisions.divide(BEFORE, NOW)
    assert slow.count == 2


def test_a_control_plane_alone_has_nothing_to_do() -> None:
    loop = federation_controller(ids())
    assert not loop.decide(snapshot(deployment("web", 3)), NOW).steps


def test_the_first_cluster_makes_a_host() -> None:
    loop = federation_controller(ids())
    (step,) = loop.decide(snapshot(cluster("east"), deployment("web", 3)), NOW).steps
    found = step.puts[0]
    assert isinstance(found, Member)
    assert (found.id, found.key_sha256, found.state) == ("here", "", MemberState.READY)
    assert msgspec.structs.replace(found, revision=1).lease.address == ""


def test_the_loop_divides_and_tells_what_is_due_later() -> None:
    room = Room(id="c-east", created_at=NOW, updated_at=NOW)
    told = snapshot(here(), cluster("east"), deployment("web", 1, share=0, updated_at=NOW - 60), room)
    seconds = count(100.0, 0.01)  # whatever is measured takes a moment
    loop = federation_controller(ids(), lambda: next(seconds))
    assert loop.decide(told, NOW).steps
    wake = loop.decide(told, NOW).wake_after_seconds
    assert wake is not None
    assert wake < 1.0


def test_a_run_follows_what_has_changed_and_now_and_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []

    def step(self: Following) -> Step | None:
        followed.append(self.deployment.name)
        return take_step(self)

    take_step = Following.step
    monkeypatch.setattr(Following, "step", step)
    at = 100.0
    loop = federation_controller(ids(), lambda: at)
    ledger = Ledger(
        here(), cluster("east"), Room(id="c-east", created_at=NOW, updated_at=NOW),
        *(deployment(name, 0, share=0, updated_at=NOW - 60) for name in ("web", "api")),
    )  # fmt: skip
    while ledger.commit(loop.decide(ledger.snapshot(), NOW)):
        pass
    assert set(followed) == {"web", "api"}
    followed.clear()
    loop.decide(ledger.snapshot(), NOW)
    assert followed == []
    ledger.change(Deployment, "d-web", updated_at=NOW - 50)
    loop.decide(ledger.snapshot(), NOW)
    assert followed == ["web"]
    at += LOOK_SECONDS - 1.0
    wake = loop.decide(ledger.snapshot(), NOW).wake_after_seconds
    assert (followed, wake) == (["web"], 1.0)
    at += 1.0
    loop.decide(ledger.snapshot(), NOW)
    assert followed == ["web", "web", "api"]


def test_a_report_that_makes_no_other_division_is_not_divided_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Table] = []
    monkeypatch.setattr(division, "settled", lambda table: (made.append(table), settled(table))[1])
    divider = Divider()
    told = share("c-east", 1, 1)
    before = later(BEFORE, shares={"s": told})
    divider(before, NOW)
    assert told.reported is not None
    ready = msgspec.structs.replace(told, reported=msgspec.structs.replace(told.reported, ready=0))
    divider(later(before, shares={"s": ready}), NOW)
    assert len(made) == 1
    divider(later(before, shares={"s": msgspec.structs.replace(told, replicas=3)}), NOW)
    assert len(made) == 2


def test_a_cluster_that_is_silent_for_a_moment_lets_nobody_divide_afresh() -> None:
    asked: list[Collection[str]] = []

    def divide(now: Snapshot, _: float, anew: Collection[str]) -> Mapping[str, Target]:
        asked.append(anew)
        return dict.fromkeys(now.deployments, Target())

    wish = deployment("web", share=0)
    policy = msgspec.structs.replace(wish.spec.clusters, rebalance=Rebalance())
    web = msgspec.structs.replace(wish, spec=msgspec.structs.replace(wish.spec, clusters=policy))
    reconcile(snapshot(here(), cluster("east"), web), NOW, ids(), divide)
    reconcile(snapshot(here(), cluster("east", state=MemberState.SUSPECT), web), NOW, ids(), divide)
    assert asked == [(), [web.id], ()]


def test_a_cluster_that_this_process_has_not_heard_yet_lets_nothing_be_taken_away() -> None:
    at, spoke_at = 100.0, 70.0
    rooms = (Room(id=id_, created_at=NOW, updated_at=NOW) for id_ in ("c-east", "c-west"))
    wish = deployment("web", 4, share=0, updated_at=NOW - 60)
    ledger = Ledger(
        here(), cluster("east"), cluster("west"), wish, share("c-east", 4, 4), share("c-west", 4, 4), *rooms
    )
    loop = federation_controller(ids(), lambda: at, lambda id_, since: id_ != "c-west" or spoke_at >= since)

    def look() -> tuple[dict[str, int], float | None]:
        while (plan := loop.decide(ledger.snapshot(), NOW)).steps:
            ledger.commit(plan)
        return ledger.told(), plan.wake_after_seconds

    at += 3.0
    assert look() == ({"c-east": 4, "c-west": 4}, UNDECIDED_SECONDS), "what it said was said to another process"
    spoke_at = 101.0
    told, wake = look()
    assert sum(told.values()) == 4
    assert wake != UNDECIDED_SECONDS


def test_a_clock_that_jumps_makes_no_cluster_have_spoken() -> None:
    at = 100.0
    rooms = (Room(id=id_, created_at=NOW, updated_at=NOW) for id_ in ("c-east", "c-west"))
    away = cluster("west", opened_at_revision=1)
    wish = deployment("web", 4, share=0, updated_at=NOW - 60)
    ledger = Ledger(here(), cluster("east"), away, wish, share("c-east", 4, 4), share("c-west", 4, 4), *rooms)
    loop = federation_controller(ids(), lambda: at)

    def told(now: float) -> int:
        while (plan := loop.decide(ledger.snapshot(), now)).steps:
            ledger.commit(plan)
        return sum(ledger.told().values())

    assert told(NOW) == 8
    assert told(NOW + 3600) == 8
    at += SILENT_SECONDS + 1
    assert told(NOW + 3600) == 4, "it has long had the time to"
