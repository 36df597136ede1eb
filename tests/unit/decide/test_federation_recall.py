"""A drain that is called off in its middle: what has moved stays moved, and what has not stays where it is."""

import msgspec
import pytest
from division_cases import LATER, cluster, divided, share, shares_by_name, wish
from records import snapshot

from fallow.decide.federation.candidates import fingerprint_of
from fallow.decide.federation.division import divide_all
from fallow.model.deployments import RouteSpec
from fallow.model.divisions import Division
from fallow.model.members import Scheduling
from fallow.model.shares import Share

WEB = wish(divide="weighted")
MARK = fingerprint_of(WEB.spec.clusters)


def again(division: Division, *shares: Share, scheduling: Scheduling = Scheduling.ACTIVE) -> dict[str, int]:
    found = snapshot(WEB, cluster("east", scheduling=scheduling), cluster("west"), division, *shares)
    return shares_by_name(divide_all(found, LATER)[WEB.id])


def moved(east: int, west_ready: int) -> tuple[Division, Share, Share]:
    """Return a drain of east under way: so many are still told to run there, so many are ready in west."""
    west = share(WEB, "west", 6, west_ready)
    return divided(WEB, {"west": 6}, MARK, drained=("c-east",)), share(WEB, "east", east), west


@pytest.mark.parametrize(
    ("east", "ready", "shares"),
    [
        (6, 0, {"east": 6}),
        (6, 2, {"east": 4, "west": 2}),
        (4, 2, {"east": 4, "west": 2}),
        (1, 6, {"west": 6}),
    ],
)
def test_what_has_not_moved_stays(east: int, ready: int, shares: dict[str, int]) -> None:
    assert again(*moved(east, ready)) == shares


def test_as_long_as_it_is_drained_all_of_it_moves() -> None:
    assert again(*moved(6, 2), scheduling=Scheduling.DRAINING) == {"west": 6}


def test_a_move_for_another_cause_goes_on() -> None:
    assert again(divided(WEB, {"west": 6}, MARK), share(WEB, "east", 6), share(WEB, "west", 6, 2)) == {"west": 6}


def test_what_had_no_place_elsewhere_stays() -> None:
    division = divided(WEB, {"west": 2}, MARK, drained=("c-east",), unplaced=4, unplaced_reason="west is full")
    assert again(division, share(WEB, "east", 6), share(WEB, "west", 2, 0)) == {"east": 6}
    assert again(division, share(WEB, "east", 4), share(WEB, "west", 2)) == {"east": 4, "west": 2}


def test_what_is_ready_where_no_gateway_reaches_it_has_not_moved() -> None:
    routes = (RouteSpec(kind="http", host="web.test", port=80),)
    web = msgspec.structs.replace(WEB, spec=msgspec.structs.replace(WEB.spec, routes=routes, replicas=4))
    west = msgspec.structs.replace(cluster("west"), unreached_by=("gw1",))
    division = divided(web, {"west": 4}, MARK, drained=("c-east",))
    shares = share(web, "east", 2, 2), share(web, "west", 4, 4)
    found = snapshot(web, cluster("east"), west, division, *shares)
    assert shares_by_name(divide_all(found, LATER)[web.id]) == {"east": 2, "west": 2}
