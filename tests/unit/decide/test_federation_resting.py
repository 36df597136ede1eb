"""Deployments that need nothing are not followed again, until something of what decides on them differs."""

import pytest
from federation_world import Ledger, cluster, here, share
from records import NOW, deployment

from fallow.decide.federation.division import Target
from fallow.decide.federation.rebalancing import Course
from fallow.decide.federation.resting import Resting
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.model.shares import Share

COURSE = Course(target=Target(shares={"c-east": 3}, fingerprint="policy"), off_shares={})


def noted() -> tuple[Ledger, Resting]:
    """Return two deployments that need nothing."""
    ledger = Ledger(
        here(), cluster("east"), deployment("web", 3, share=0), deployment("api", 3, share=0),
        share("c-east", 3, 3), share("c-east", 3, 3, of="d-api"), division("d-web"), division("d-api"),
    )  # fmt: skip
    resting, taken = Resting(), ledger.snapshot()
    resting.begin(taken)
    for found in taken.deployments.values():
        resting.note(taken, found, COURSE, rests=True)
    return ledger, resting


def division(of: str) -> Division:
    return Division(
        id=of, created_at=NOW, updated_at=NOW, deployment_id=of, policy="policy", total=3, shares={"c-east": 3}
    )


def at_rest(ledger: Ledger, resting: Resting, course: Course = COURSE) -> set[str]:
    taken = ledger.snapshot()
    resting.begin(taken)
    return {id_ for id_, found in taken.deployments.items() if resting.rests(taken, found, course)}


def test_what_is_the_very_same_rests() -> None:
    ledger, resting = noted()
    again = Course(target=Target(shares={"c-east": 3}, fingerprint="policy"), off_shares={})
    assert at_rest(ledger, resting, again) == {"d-web", "d-api"}


@pytest.mark.parametrize(
    ("kind", "id_", "left"),
    [
        (Deployment, "d-web", {"d-api"}),
        (Division, "d-web", {"d-api"}),
        (Share, "d-web.c-east", {"d-api"}),
        (Member, "c-east", set()),
    ],
)
def test_another_record_is_looked_at(kind: type[Record], id_: str, left: set[str]) -> None:
    ledger, resting = noted()
    ledger.change(kind, id_, updated_at=NOW + 1)
    assert at_rest(ledger, resting) == left


def test_another_course_is_followed() -> None:
    ledger, resting = noted()
    other = Course(target=Target(shares={"c-east": 2}, fingerprint="policy"), off_shares={})
    assert at_rest(ledger, resting, other) == set()


def test_who_needed_something_is_looked_at_and_so_are_all_once_that_is_forgotten() -> None:
    ledger, resting = noted()
    taken = ledger.snapshot()
    resting.note(taken, taken.deployments["d-web"], COURSE, rests=False)
    assert at_rest(ledger, resting) == {"d-api"}
    resting.forget()
    assert at_rest(ledger, resting) == set()
