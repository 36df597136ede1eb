"""What each cluster is told next: replacements before anything goes, and nothing where nothing takes its place."""

import msgspec
import pytest
from federation_world import cluster, report, share
from records import NOW

from fallow.decide.federation.migrate import Side, Told, held, needed, next_told, reliable, retold, side_of
from fallow.decide.federation.words import ALL_HEARD, Words
from fallow.model.members import MemberState, Scheduling


def side(told: int, target: int, sure: int | None = None, asked: Told | None = None, **changes: bool) -> Side:
    values = {"raisable": True, "lowerable": True, "leaves": False} | changes
    asked = asked if asked is not None else Told(told)
    return Side(told=told, target=target, sure=told if sure is None else sure, asked=asked, **values)


def replicas(sides: dict[str, Side], need: int) -> dict[str, int]:
    return {id_: told.replicas for id_, told in next_told(sides, need).items()}


def test_a_raise_is_told_at_once_and_nothing_goes_before_it_is_ready() -> None:
    assert replicas({"a": side(10, 5), "b": side(0, 5)}, 10) == {"a": 10, "b": 5}
    assert replicas({"a": side(10, 5), "b": side(5, 5, 0)}, 10) == {"a": 10, "b": 5}


@pytest.mark.parametrize(("ready", "told"), [(0, 10), (1, 9), (3, 7), (5, 5)])
def test_a_cluster_is_lowered_by_as_many_as_are_ready_elsewhere(ready: int, told: int) -> None:
    assert replicas({"a": side(10, 5), "b": side(5, 5, ready)}, 10) == {"a": told, "b": 5}


def test_what_is_not_ready_may_go_at_any_time() -> None:
    assert replicas({"a": side(10, 5, 7), "b": side(5, 5, 0)}, 10) == {"a": 7, "b": 5}
    assert replicas({"a": side(10, 0, 0), "b": side(10, 10, 0)}, 10) == {"a": 0, "b": 10}


def test_a_floor_lets_more_go() -> None:
    assert replicas({"a": side(10, 0), "b": side(10, 10, 0)}, 6) == {"a": 6, "b": 10}


def test_two_clusters_do_not_both_spend_what_is_spare() -> None:
    told = replicas({"a": side(6, 0, leaves=True), "b": side(6, 0, leaves=True), "c": side(12, 12, 4)}, 12)
    assert told["a"] + told["b"] == 8


def test_the_one_that_is_to_be_emptied_is_lowered_first() -> None:
    assert replicas({"a": side(5, 3), "b": side(5, 0, leaves=True), "c": side(7, 7, 2)}, 10) == {
        "a": 5,
        "b": 3,
        "c": 7,
    }


def test_where_fewer_are_ready_than_wanted_none_that_is_ready_goes() -> None:
    assert replicas({"a": side(5, 0, 3), "b": side(5, 5, 1)}, 10) == {"a": 3, "b": 5}


def test_a_silent_cluster_is_neither_raised_nor_lowered_nor_relied_on() -> None:
    silent = side_of(share("c-a", 10, 10), cluster("a", state=MemberState.SUSPECT), 5, ALL_HEARD)
    assert (silent.sure, silent.raisable, silent.lowerable) == (0, False, False)
    assert replicas({"a": silent, "b": side(5, 0)}, 5) == {"a": 10, "b": 5}
    dead = side_of(share("c-a", 10, 10), cluster("a", state=MemberState.DEAD), 0, ALL_HEARD)
    assert replicas({"a": dead, "b": side(0, 10)}, 10) == {"a": 10, "b": 10}


def test_a_cluster_that_is_back_counts_and_goes_only_once_it_has_spoken() -> None:
    back = cluster("a", died_at=NOW - 30, died_at_revision=7, state_since=NOW - 10)
    old = side_of(share("c-a", 5, 5), back, 9, ALL_HEARD)
    assert (old.sure, old.lowerable, old.raisable) == (0, False, False)
    fresh = side_of(share("c-a", 5, 5), msgspec.structs.replace(back, spoken_at_revision=8), 9, ALL_HEARD)
    assert (fresh.sure, fresh.lowerable, fresh.raisable) == (5, True, True)
    away = msgspec.structs.replace(back, spoken_at_revision=8, opened_at_revision=9)
    assert not side_of(share("c-a", 5, 5), away, 0, ALL_HEARD).lowerable, "another session has begun since"
    silent = side_of(share("c-a", 5, 5), back, 0, Words(mute=frozenset({"c-a"})))
    assert (silent.sure, silent.lowerable) == (5, True), "it has nothing to say"
    unheard = side_of(share("c-a", 5, 5), cluster("a"), 0, Words(unheard=frozenset({"c-a"})))
    assert (unheard.sure, unheard.raisable, unheard.lowerable) == (0, False, False)


def test_a_share_that_nobody_has_spoken_of_is_not_lowered() -> None:
    assert not side_of(share("c-a", 5), cluster("a"), 0, ALL_HEARD).lowerable


def test_a_draining_cluster_leaves() -> None:
    assert side_of(share("c-a", 5, 5), cluster("a", scheduling=Scheduling.DRAINING), 0, ALL_HEARD).leaves


def test_a_report_from_before_an_order_counts_up_to_the_fewest_that_were_told_since() -> None:
    told = share("c-a", 5, 5)
    assert reliable(told) == 5
    lowered = retold(told, Told(2), revision=20, now=NOW)
    assert reliable(lowered) == 2
    raised = retold(lowered, Told(8), revision=30, now=NOW)
    assert reliable(raised) == 2  # it may have gone down to 2 on the way
    assert raised.least == 2
    obeyed = msgspec.structs.replace(raised, reported=report(6, revision=raised.order, replicas=8))
    assert reliable(obeyed) == 6
    lower = retold(obeyed, Told(7), revision=40, now=NOW)
    assert (lower.order, lower.least) == (41, 7)


def test_while_fewer_are_known_to_be_ready_than_needed_all_that_are_stay() -> None:
    unready = {"a": side(3, 0, 0), "b": side(3, 3, 1)}
    assert next_told(unready, 3) == {"a": Told(0, 3), "b": Told(3)}
    waiting = unready | {"a": side(3, 0, 0, Told(0, 3))}
    assert next_told(waiting, 3) == {"a": Told(0, 3), "b": Told(3)}, "the same again: nothing is written"
    ready = waiting | {"a": side(1, 0, 1, Told(0, 3))}
    assert next_told(ready, 3)["a"] == Told(0, 3)
    enough = ready | {"b": side(3, 3, 3)}
    assert next_told(enough, 3)["a"] == Told(0)
    partly = ready | {"a": side(2, 0, 2, Told(0, 3)), "b": side(3, 3, 2)}
    assert next_told(partly, 3)["a"] == Told(0, 1)


def test_what_a_cluster_has_kept_becomes_its_share_when_it_should_have_it() -> None:
    assert next_told({"a": side(2, 2, 2, Told(0, 3))}, 2) == {"a": Told(2)}
    assert next_told({"a": side(2, 5, 2, Told(0, 3))}, 5) == {"a": Told(5)}


def test_a_silent_cluster_goes_on_as_it_was_told() -> None:
    asked = Told(0, 3)
    assert next_told({"a": side(3, 3, 0, asked, raisable=False, lowerable=False)}, 3) == {"a": asked}


def test_a_cluster_has_what_it_may_keep_until_it_says_what_it_kept() -> None:
    told = retold(share("c-a", 5, 5), Told(0, 5), revision=20, now=NOW)
    assert (held(told), reliable(told)) == (5, 5)
    kept = msgspec.structs.replace(told, reported=report(1, revision=told.order, replicas=2))
    assert (held(kept), reliable(kept)) == (2, 1)
    gone = msgspec.structs.replace(told, reported=report(0, revision=told.order, replicas=0))
    assert (held(gone), reliable(gone)) == (0, 0)


def test_what_a_cluster_wants_no_more_is_about_to_go() -> None:
    restored = share("c-a", 5, order=50, least=5, reported=report(5, revision=10, replicas=2))
    assert reliable(restored) == 2


def test_an_order_raised_over_what_was_followed_counts_all_that_is_ready() -> None:
    assert reliable(retold(share("c-a", 5, 5), Told(9), revision=20, now=NOW)) == 5


def test_what_must_stay_ready() -> None:
    assert needed(10, None, [5, 5]) == 10
    assert needed(10, None, [10, 10]) == 20  # the total in each of them
    assert needed(10, 4, [5, 5]) == 4
    assert needed(10, 40, [5, 5]) == 10
    assert needed(10, None, [2]) == 10
