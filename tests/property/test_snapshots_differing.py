"""What differs between two snapshots is found without a look into any record, and nothing is missed."""

from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.snapshot import differing

IDS = st.sampled_from("abcdefgh")


@given(
    st.dictionaries(IDS, st.integers(0, 3)), st.dictionaries(IDS, st.sampled_from(["kept", "replaced", "gone"])), IDS
)
def test_what_came_was_replaced_or_went_is_named_once(before: dict[str, int], fates: dict[str, str], came: str) -> None:
    then = {id_: [number] for id_, number in before.items()}
    now = {id_: then[id_] for id_ in then if fates.get(id_, "kept") == "kept"}
    now |= {id_: list(then[id_]) for id_ in then if fates.get(id_) == "replaced"}  # equal, and another object
    now.setdefault(came, [9])
    found = differing(now, then)
    assert len(found) == len(set(found))
    assert set(found) == {id_ for id_ in now.keys() | then.keys() if now.get(id_) is not then.get(id_)}
    assert differing(now, now) == []
