"""Reports of shares: what differs is told, once."""

from fallow.drivers.clusters.telling import MOST_REST_SECONDS, REST_SECONDS, Telling, rest_seconds
from fallow.model.shares import ShareReport


def said(ready: int) -> ShareReport:
    return ShareReport(deployment_id="web", ready=ready)


def test_only_what_differs_is_told() -> None:
    telling = Telling()
    assert telling.news([("web", said(1)), ("api", None)]) == [said(1)]
    assert telling.news([("web", said(1))]) == []
    assert telling.news([("web", said(2))]) == [said(2)]


def test_what_was_gone_and_what_begins_anew_is_told_again() -> None:
    telling = Telling()
    telling.news([("web", said(1))])
    telling.news([("web", None)])
    assert telling.news([("web", said(1))]) == [said(1)]
    telling.begin()
    assert telling.news([("web", said(1))]) == [said(1)]


def test_a_tenth_of_the_time_is_enough_within_bounds() -> None:
    assert (rest_seconds(0.0), rest_seconds(0.02), rest_seconds(5.0)) == (REST_SECONDS, 0.18, MOST_REST_SECONDS)
