"""Division of totals: against a slow oracle that gives seats one by one, and by what people were promised."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.federation.divide import Counts, Division, afresh, keep

CLUSTERS = st.integers(1, 6)
EQUAL = 1e-12


@st.composite
def divisions(draw: st.DrawFn) -> Division:
    """Several deployments over a few clusters, with odd weights and bounds."""
    rows, columns = draw(st.integers(1, 4)), draw(CLUSTERS)

    def table(low: int, high: int) -> Counts:
        cells = draw(st.lists(st.integers(low, high), min_size=rows * columns, max_size=rows * columns))
        return np.array(cells, dtype=np.int64).reshape(rows, columns)

    floors = table(0, 3)
    return Division(
        totals=np.array(draw(st.lists(st.integers(0, 40), min_size=rows, max_size=rows)), dtype=np.int64),
        weights=table(0, 5).astype(np.float64),
        floors=floors,
        ceilings=np.maximum(floors + table(-2, 12), 0),
        current=table(0, 9),
    )


def one_by_one(total: int, weights: Sequence[float], low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Give seats from `low` on to the highest quotient, then to the smaller share, then to the first."""
    shares = list(low)
    while sum(shares) < total:
        room = [place for place in range(len(shares)) if shares[place] < high[place]]
        if not room:
            break
        weighty = [place for place in room if weights[place] > 0]
        chosen = weighty or room
        quotient = {place: (weights[place] if weighty else 1.0) / (2 * shares[place] + 1) for place in chosen}
        best = max(quotient.values())
        equal = [place for place in chosen if quotient[place] >= best * (1 - EQUAL)]
        shares[min(equal, key=lambda place: (shares[place], place))] += 1
    return shares


def oracle(asked: Division, row: int) -> list[int]:
    total, weights = int(asked.totals[row]), asked.weights[row].tolist()
    high = asked.ceilings[row].tolist()
    low = [min(pair) for pair in zip(asked.floors[row].tolist(), high, strict=True)]
    if sum(low) > total:
        low, high = [0] * len(low), low
    begun = [min(max(has, least), most) for has, least, most in zip(asked.current[row], low, high, strict=True)]
    return one_by_one(total, weights, low, begun) if sum(begun) > total else one_by_one(total, weights, begun, high)


@given(divisions())
def test_shares_are_those_of_a_slow_oracle(asked: Division) -> None:
    found = keep(asked)
    assert found.tolist() == [oracle(asked, row) for row in range(len(asked.totals))]


@given(divisions())
def test_ceilings_hold_and_what_fits_is_placed(asked: Division) -> None:
    for found in (keep(asked), afresh(asked)):
        assert (found <= asked.ceilings).all()
        assert (found >= 0).all()
        room = np.minimum(asked.totals, asked.ceilings.sum(axis=1))
        assert found.sum(axis=1).tolist() == room.tolist()


@given(divisions())
def test_an_unchanged_input_changes_nothing(asked: Division) -> None:
    once = keep(asked)
    again = Division(
        totals=asked.totals, weights=asked.weights, floors=asked.floors, ceilings=asked.ceilings, current=once
    )
    assert keep(again).tolist() == once.tolist()


@given(divisions(), st.integers(-9, 9))
def test_more_takes_from_nobody_and_less_gives_to_nobody(asked: Division, more: int) -> None:
    before = keep(asked)
    totals = np.maximum(asked.totals + more, 0)
    after = keep(
        Division(
            totals=totals, weights=asked.weights, floors=np.zeros_like(asked.floors), ceilings=asked.ceilings,
            current=before,
        )
    )  # fmt: skip
    assert ((after >= before).all(axis=1) | (totals < before.sum(axis=1))).all()
    assert ((after <= before).all(axis=1) | (totals > before.sum(axis=1))).all()


@given(divisions(), st.integers(0, 5))
def test_a_lost_cluster_moves_its_replicas_and_no_others(asked: Division, lost: int) -> None:
    lost %= asked.weights.shape[1]
    before = keep(Division(
        totals=asked.totals, weights=asked.weights, floors=np.zeros_like(asked.floors),
        ceilings=asked.ceilings, current=asked.current,
    ))  # fmt: skip
    ceilings = asked.ceilings.copy()
    ceilings[:, lost] = 0
    after = keep(Division(
        totals=asked.totals, weights=asked.weights, floors=np.zeros_like(asked.floors), ceilings=ceilings,
        current=before,
    ))  # fmt: skip
    others = np.arange(before.shape[1]) != lost
    assert (after[:, others] >= before[:, others]).all()


def test_growing_never_shrinks_a_share() -> None:
    """The example of a peer's users: 170:110:60 from 5 to 6 took a replica away from somebody."""
    weights, none = np.array([[170.0, 110.0, 60.0]] * 2), np.zeros((2, 3), dtype=np.int64)
    found = afresh(
        Division(
            totals=np.array([5, 6]), weights=weights, floors=none, ceilings=np.full((2, 3), 9), current=none
        )
    )  # fmt: skip
    assert found.tolist() == [[2, 2, 1], [3, 2, 1]]
