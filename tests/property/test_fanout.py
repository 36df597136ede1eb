"""Fan-out by trees: nobody serves too many, nobody waits for itself, the registry is asked by one."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.fanout import CHILDREN, SOURCES, Holder, plan_sources

ZONES = ("a", "b", "")


@st.composite
def forests(draw):
    """Return holders whose parents came before them, with the loads that follow."""
    count = draw(st.integers(0, 12))
    parents = [draw(st.sampled_from(["", "gone", *(f"n{m}" for m in range(n))])) for n in range(count)]
    fetching = [draw(st.booleans()) for _ in range(count)]
    return {
        f"n{n}": Holder(
            member_id=f"n{n}",
            zone=draw(st.sampled_from(ZONES)),
            parent=parents[n] if fetching[n] else "",
            load=sum(fetching[m] and parents[m] == f"n{n}" for m in range(count)),
            fetching=fetching[n],
        )
        for n in range(count)
    }


def below(holders: dict[str, Holder], id_: str) -> set[str]:
    found = {id_}
    while more := {each.member_id for each in holders.values() if each.parent in found} - found:
        found |= more
    return found - {id_}


@given(forests(), st.sampled_from(["new", "n0", "n5"]), st.sampled_from(ZONES), st.sampled_from(["", "n1"]))
def test_sources_are_others_that_do_not_wait_for_it(holders, id_, zone, avoid) -> None:
    found = plan_sources(id_, zone, holders, avoid=avoid)
    possible = holders.keys() - below(holders, id_) - {id_}
    assert set(found) <= possible
    assert len(found) == len(set(found)) == min(SOURCES, len(possible))
    if not found:
        return
    first = holders[found[0]]
    others = [holders[each] for each in possible - {avoid}]
    if first.member_id == avoid:
        assert possible == {avoid}
    elif first.load >= CHILDREN:
        assert all(each.load >= CHILDREN for each in others)
    elif first.zone != zone:
        assert not any(each.zone == zone and each.load < CHILDREN for each in others)


@given(st.lists(st.sampled_from([False, False, False, True]), min_size=1, max_size=60))
def test_a_crowd_makes_trees_that_are_shallow_and_have_one_root(done_at_once) -> None:
    holders: dict[str, Holder] = {}
    depths: dict[str, int] = {}  # who is done has all of it, and waits for nobody
    roots = 0

    def serves(id_: str, more: int) -> None:
        holders[id_] = replace(holders[id_], load=holders[id_].load + more)

    for n, done in enumerate(done_at_once):
        id_ = f"n{n}"
        found = plan_sources(id_, "", holders)
        roots += not found
        parent = found[0] if found else ""
        if parent:
            serves(parent, 1)
            assert holders[parent].load <= CHILDREN
        depths[id_] = depths[parent] + 1 if parent else 0
        holders[id_] = Holder(member_id=id_, parent=parent, fetching=True)
        if done:
            holders[id_], depths[id_] = Holder(member_id=id_), 0
            if parent:
                serves(parent, -1)
    assert roots == 1
    assert max(depths.values()) <= len(done_at_once).bit_length()


def test_a_chain_whose_parents_form_a_ring_ends() -> None:
    ring = {
        "a": Holder(member_id="a", parent="b", fetching=True),
        "b": Holder(member_id="b", parent="a", fetching=True),
    }
    assert plan_sources("c", "", ring) == ["a", "b"]
