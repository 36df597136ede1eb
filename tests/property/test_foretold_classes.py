"""A dry run guesses from what clusters have free in all; the division asks them. Both say the same of every class."""

from typing import Literal

import msgspec
from division_cases import LATER, cluster, wish
from hypothesis import given
from hypothesis import strategies as st
from lent_fleet import GIB, heard, node, server, vm
from records import NOW, snapshot

from fallow.decide.federation.division import divide_all
from fallow.decide.federation.foretell import foretell_shares
from fallow.decide.federation.room_answers import answers_to, summary_of
from fallow.decide.federation.shapes import question_of
from fallow.model.deployments import PlacementPolicy
from fallow.model.rooms import Room

TWENTIETHS = st.integers(0, 100).map(lambda count: count / 20)


@given(
    service_class=st.sampled_from(("", "standard", "harvest", "spot")),
    cpus=TWENTIETHS,
    memory_bytes=st.integers(0, 100).map(lambda count: count * GIB // 16),
    max_per_node=st.sampled_from((0, 1, 3)),
    own=st.booleans(),
    lent=st.booleans(),
    offer_cpus=TWENTIETHS,
)
def test_a_dry_run_foretells_the_division(
    service_class: Literal["", "standard", "harvest", "spot"],
    cpus: float,
    memory_bytes: int,
    max_per_node: int,
    own: bool,
    lent: bool,
    offer_cpus: float,
) -> None:
    """One node of its own and one that is lent at the most: with more, what is free in all may be free in pieces."""
    nodes = [node("own", cpus=3.0)] * own + [server(), vm("lent"), node("lent", memory_bytes=4 * GIB)] * lent
    inside, said = snapshot(*nodes), heard(offer_cpus=offer_cpus)
    asked = wish(replicas=200, cpus=cpus, memory_bytes=memory_bytes)
    placement = PlacementPolicy(service_class=service_class, max_per_node=max_per_node)
    asked = msgspec.structs.replace(asked, spec=msgspec.structs.replace(asked.spec, placement=placement))
    (answer,) = answers_to(inside, [question_of(asked)], {}, said, NOW)
    silent = Room(id="c-a", created_at=NOW, updated_at=NOW, summary=summary_of(inside, said, NOW))
    asked_room = msgspec.structs.replace(silent, answers={answer.key: answer})

    told = foretell_shares(snapshot(cluster("a"), silent), "shop", [("web", asked.spec)], NOW)["web"]
    target = divide_all(snapshot(cluster("a"), asked_room, asked), LATER)[asked.id]
    assert dict(told.placements) == ({"a": target.shares["c-a"]} if target.shares else {})
    assert told.unplaced == target.unplaced
